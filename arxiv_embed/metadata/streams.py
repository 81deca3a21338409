"""Streams: a metadata file's bytes, decompressed as they are read, and what its content says it is."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, cast

import zstandard
from isal import igzip, isal_zlib

BLOCK = 1 << 20
HEAD = 1 << 16

Container = Literal["plain", "gzip", "zstd"]
Kind = Literal["lines", "array", "object", "xml"]

DAMAGED: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    zstandard.ZstdError,
)
"""What reading cut off or damaged compressed data raises."""


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Format:
    container: Container
    kind: Kind


def sniff(path: Path) -> Format | None:
    """What a file is, told by its content; None for what is not metadata, or empty, or unreadable."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
        container: Container = "plain"
        if magic[:2] == b"\x1f\x8b":
            container = "gzip"
        elif magic == b"\x28\xb5\x2f\xfd":
            container = "zstd"
        with open_stream(path, container) as stream:
            head = stream.read(HEAD)
    except DAMAGED:
        return None
    kind = _kind(head.removeprefix(b"\xef\xbb\xbf").lstrip())
    return Format(container, kind) if kind else None


def _kind(head: bytes) -> Kind | None:
    if head.startswith(b"<"):
        markers = (b"<OAI-PMH", b"<record", b"<feed", b"<arXiv", b"<ListRecords")
        return "xml" if any(marker in head for marker in markers) else None
    if head.startswith(b"["):
        return "array"
    if head.startswith(b"{"):
        first_line = head.split(b"\n", 1)[0].rstrip()
        return "object" if first_line.endswith((b"{", b",")) else "lines"
    return None


def open_stream(path: Path, container: Container) -> BinaryIO:
    """The file's own bytes, decompressed."""
    if container == "gzip":
        return cast(BinaryIO, igzip.open(path, "rb"))
    file = path.open("rb")
    if container == "zstd":
        return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    return file


class Hashed:
    """A stream that takes the sha256 of what is read through it, `size` bytes at the most."""

    def __init__(self, stream: Readable, size: int | None = None) -> None:
        self._stream = stream
        self._left = size
        self._digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        if self._left is not None:
            size = self._left if size < 0 else min(size, self._left)
        block = self._stream.read(size)
        if self._left is not None:
            self._left -= len(block)
        self._digest.update(block)
        return block

    def drained(self) -> str:
        """The sha256 of the whole stream, the part that nobody read included; where damaged data ends it, of what
        could be read, marked as such."""
        try:
            while self.read(BLOCK):
                pass
        except DAMAGED:
            return f"damaged:{self._digest.hexdigest()}"
        return self._digest.hexdigest()
