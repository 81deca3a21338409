"""Streams: a metadata file's bytes, decompressed as they are read, and what its content says it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Protocol, Self, cast

import zstandard
from isal import igzip_lib

BLOCK = 1 << 20
HEAD = 1 << 16
GZIP_FEED = 1 << 17
ZSTD_FEED = 1 << 10
"""zstd's decoder returns all that it makes of its input at once, at the worst 32,768 times as much."""

Container = Literal["plain", "gzip", "zstd"]
Kind = Literal["lines", "array", "object", "xml"]

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_DECODER_ERRORS = (EOFError, cast("type[Exception]", igzip_lib.IsalError), zstandard.ZstdError)

_XML = re.compile(rb"<(?:[\w.-]+:)?(?:OAI-PMH|ListRecords|GetRecord|record|feed|entry|arXiv|arXivRaw)[\s>/]")
_OBJECT_LINE = re.compile(rb'^\{[ \t]*"', re.MULTILINE)


class Damaged(Exception):
    """Compressed data that is cut off or broken; all that came before it has been read."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none only at the end; raises `Damaged`."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    container: Container
    kind: Kind


class Stream:
    """A file's own bytes, decompressed; a context manager. Raises `OSError` for a file that cannot be read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        magic = self._file.read(4)
        self._file.seek(0)
        self.container: Container = "plain"
        self._pieces: Iterator[bytes] | None = None
        if magic[:2] == b"\x1f\x8b":
            self.container, self._pieces = "gzip", _gunzipped(self._file)
        elif magic == b"\x28\xb5\x2f\xfd":
            self.container, self._pieces = "zstd", _unzstd(self._file)
        self._ready = b""
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read(self, size: int, /) -> bytes:
        if self._pieces is None:
            return self._file.read(size)
        while self._at == len(self._ready):
            try:
                self._ready, self._at = next(self._pieces), 0
            except StopIteration:
                return b""
            except _DECODER_ERRORS as error:
                raise Damaged(str(error) or "cut off") from error
        block = self._ready[self._at : self._at + size]
        self._at += len(block)
        return block

    def skip(self, size: int) -> None:
        """Passes over the next `size` bytes."""
        if self._pieces is None:
            self._file.seek(size, os.SEEK_CUR)
            return
        while size > 0 and (block := self.read(min(size, BLOCK))):
            size -= len(block)


def _gunzipped(file: BinaryIO) -> Iterator[bytes]:
    data = b""
    while True:
        member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while not member.eof:
            if member.needs_input and not data and not (data := file.read(GZIP_FEED)):
                raise EOFError
            yield member.decompress(data, BLOCK)
            data = b""
        data = member.unused_data.lstrip(b"\0") or file.read(GZIP_FEED).lstrip(b"\0")
        if not data:
            return


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    data = b""
    while True:
        frame = zstandard.ZstdDecompressor().decompressobj()
        while not frame.eof:
            if not data and not (data := file.read(ZSTD_FEED)):
                raise EOFError
            yield frame.decompress(data)
            data = b""
        data = frame.unused_data or file.read(ZSTD_FEED)
        if not data:
            return


def sniff(path: Path) -> Format | None:
    """What a file is, told by its content; None for what is not metadata.

    A compressed file of which nothing can be read counts as lines, so that reading it says so. Raises `OSError`.
    """
    with Stream(path) as stream:
        head = b""
        try:
            while len(head) < HEAD and (block := stream.read(HEAD - len(head))):
                head += block
        except Damaged:
            if not head:
                return Format(stream.container, "lines")
        kind = _kind(head.removeprefix(BYTE_ORDER_MARK).lstrip(), whole=len(head) < HEAD)
        return Format(stream.container, kind) if kind else None


def _kind(head: bytes, *, whole: bool) -> Kind | None:
    """One broken line, be it the first, must not change what a file of lines is."""
    if head.startswith(b"<"):
        return "xml" if _XML.search(head) else None
    first, *rest = head.split(b"\n")
    if not whole and rest:
        rest.pop()
    rest = [line for line in rest if line and not line.isspace()]
    objects = sum(1 for line in rest if _OBJECT_LINE.match(line))
    if head.startswith(b"["):
        return "lines" if first.rstrip().endswith(b"]") and objects else "array"
    if head.startswith(b"{"):
        return "object" if rest and not objects and not first.rstrip().endswith(b"}") else "lines"
    return "lines" if 2 * objects > len(rest) else None
