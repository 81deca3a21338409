"""Sealed JSON: a readable document that carries its own checksum, and of which not one byte can change unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from arxiv_embed.checkpoint.atomic import DamagedFile


def seal(content: Mapping[str, Any]) -> str:
    """The one text of `content`, with its checksum."""
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return json.dumps({**content, "checksum": checksum}, indent=1, sort_keys=True, allow_nan=False)


def unseal(text: bytes) -> dict[str, Any]:
    """What was sealed; raises `DamagedFile` unless sealing it again gives these very bytes."""
    try:
        content = json.loads(text.decode("ascii"))
        content.pop("checksum")
        if seal(content).encode() != text:
            raise DamagedFile("its checksum does not fit")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedFile(str(error) or type(error).__name__) from None
    return dict(content)
