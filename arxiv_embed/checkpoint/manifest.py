"""A manifest: what a checkpoint says of itself, and how it is known to be whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

FORMAT_VERSION = "2.0"


@dataclass(frozen=True)
class CheckpointKey:
    """What a checkpoint is of: a shard's `papers` (in no space) or its `embeddings` in a space (a fingerprint)."""

    asset: str
    shard: str
    space: str = ""


@dataclass(frozen=True)
class Source:
    """What a checkpoint was made from: `signature` is a listing's, cheap to compare; `sha256` is the content's."""

    signature: str
    sha256: str


@dataclass(frozen=True)
class DataFile:
    """One table of a checkpoint; `name` is a file beside the manifest."""

    name: str
    sha256: str
    bytes: int
    rows: int
    schema: str


class DamagedManifest(ValueError):
    """The text is not a manifest of this format, or not the one that was written."""


@dataclass(frozen=True)
class Manifest:
    """`counts` and `details` are the numbers and the provenance that the run recorded; `created` is UTC, ISO 8601."""

    key: CheckpointKey
    generation: int
    source: Source
    counts: Mapping[str, int]
    files: Mapping[str, DataFile]
    run_id: str
    created: str
    versions: Mapping[str, str]
    details: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Equal exactly for equal data: a sha256 over the data files' own."""
        return hashlib.sha256("".join(file.sha256 for _, file in sorted(self.files.items())).encode()).hexdigest()

    def to_json(self) -> str:
        """With its own checksum, so that a torn or edited manifest is noticed."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps({**content, "checksum": _checksum(content)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises `DamagedManifest`."""
        try:
            content = json.loads(text)
            checksum = content.pop("checksum")
            if checksum != _checksum(content):
                raise DamagedManifest("its checksum does not fit")
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise DamagedManifest(f"its format is {version}, not {FORMAT_VERSION}")
            return cls(
                key=CheckpointKey(**content.pop("key")),
                source=Source(**content.pop("source")),
                files={table: DataFile(**file) for table, file in content.pop("files").items()},
                **{field.name: content[field.name] for field in fields(cls) if field.name in content},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedManifest(str(error)) from None


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
