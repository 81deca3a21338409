"""Shard keys: file names as Dagster partition keys, and back.

Dagster reads `...` as a range and a comma as a list; `@` and `:` are ours (`snapshot.jsonl@0003`, `month:2401`).
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

_DOTS = re.compile(r"\.{2,}")


def encode_path(path: str) -> str:
    """A relative path as a key: letters, digits and `/-_.~` stay, all else becomes %XX, runs of dots too."""
    quoted = quote_from_bytes(os.fsencode(path), safe="/-_.~")
    return _DOTS.sub(lambda dots: "%2E" * len(dots[0]), quoted)


def decode_path(key: str) -> str:
    """The path that `encode_path` made `key` of; raises `ValueError` for a key that it makes of no path."""
    path = os.fsdecode(unquote_to_bytes(key))
    if encode_path(path) != key:
        raise ValueError(f"not a shard key: {key!r}")
    return path


def piece_key(path: str, number: int) -> str:
    return f"{encode_path(path)}@{number:04d}"


def month_key(month: str) -> str:
    return f"month:{month}"


def file_of(key: str) -> str | None:
    """The file that a shard's key names; None for a month of per-paper files."""
    return None if key.startswith("month:") else decode_path(key.split("@", 1)[0])
