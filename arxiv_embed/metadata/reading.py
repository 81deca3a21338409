"""Reading: a shard's papers and rejects, streamed, with the fingerprint of the bytes that they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO, Self

from arxiv_embed.metadata.json_files import LONGEST_LINE, read_array, read_lines, read_object
from arxiv_embed.metadata.paper import Paper, Reject
from arxiv_embed.metadata.shards import Shard
from arxiv_embed.metadata.streams import BLOCK, Hashed, open_stream
from arxiv_embed.metadata.xml_files import read_xml


@dataclass(frozen=True)
class ShardContent:
    """A shard as read: the newest record of each paper in the order of the file, what was rejected, how many older
    records of the same papers were left out, and the sha256 of the source."""

    papers: list[Paper]
    rejects: list[Reject]
    duplicates: int
    sha256: str


class ShardReader:
    """Reads shards; between neighbouring pieces of one compressed file it goes on where it stopped."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._stream: BinaryIO | None = None
        self._offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = self._path = None

    def read(self, shard: Shard) -> Iterator[Paper | Reject]:
        """Every record of the shard as a paper or a reject, in order, in memory that does not grow with the file."""
        items, _ = self._items(shard)
        return items

    def load(self, shard: Shard) -> ShardContent:
        """The whole shard, each paper once."""
        items, digest = self._items(shard)
        newest: dict[str, Paper] = {}
        rejects: list[Reject] = []
        read = 0
        for item in items:
            if isinstance(item, Reject):
                rejects.append(item)
                continue
            read += 1
            known = newest.get(item.id)
            if known is None or item.recency >= known.recency:
                newest[item.id] = item
            if read == shard.limit:
                break
        sha256 = digest.drained() if shard.limit is None else _limited(shard)
        return ShardContent(list(newest.values()), rejects, read - len(newest), sha256)

    def sha256(self, shard: Shard) -> str:
        """The fingerprint that `load` gives, without building papers."""
        if shard.limit is not None:
            return _limited(shard)
        if shard.is_month:
            digest = _MonthDigest()
            for name in shard.files:
                digest.add(name, (shard.folder / name).read_bytes())
            return digest.drained()
        return self._hashed(shard).drained()

    def _items(self, shard: Shard) -> tuple[Iterator[Paper | Reject], Hashed | _MonthDigest]:
        if shard.is_month:
            digest = _MonthDigest()
            return _read_month(shard, digest), digest
        assert shard.format is not None
        [file] = shard.files
        stream = self._hashed(shard)
        if shard.format.kind == "lines":
            return read_lines(stream, file, shard.first, _id_in_name(file)), stream
        if shard.format.kind == "object":
            return read_object(stream.read(LONGEST_LINE + 1), file, _id_in_name(file)), stream
        read = read_array if shard.format.kind == "array" else read_xml
        return islice(read(stream, file), shard.start, shard.stop), stream

    def _hashed(self, shard: Shard) -> Hashed:
        """The shard's own bytes; for pieces that are counted in records, the whole file's."""
        assert shard.format is not None
        path = shard.folder / shard.files[0]
        counted_in_bytes = shard.format.kind == "lines"
        start = shard.start if counted_in_bytes else 0
        if self._stream is None or self._path != path or self._offset != start:
            self._close()
            self._path, self._stream = path, open_stream(path, shard.format.container)
            _skip(self._stream, start)
        size = shard.stop - start if counted_in_bytes and shard.stop is not None else None
        self._offset = -1 if size is None else start + size
        return Hashed(self._stream, size)


class _MonthDigest:
    """The sha256 of a month's files, names and contents."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, content: bytes) -> None:
        self._digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + hashlib.sha256(content).digest())

    def drained(self) -> str:
        return self._digest.hexdigest()


def _read_month(shard: Shard, digest: _MonthDigest) -> Iterator[Paper | Reject]:
    for name in shard.files:
        try:
            raw = (shard.folder / name).read_bytes()
        except OSError as error:
            yield Reject(name, "record 1", f"file could not be read ({error.strerror})", "")
            continue
        digest.add(name, raw)
        yield from read_object(raw, name, _id_in_name(name))


def _id_in_name(file: str) -> str | None:
    name = PurePosixPath(file).name
    return name.removesuffix(".json") if name.endswith(".json") else None


def _skip(stream: BinaryIO, count: int) -> None:
    if hasattr(stream, "fileno") and stream.seekable() and not hasattr(stream, "myfileobj"):
        stream.seek(count)
        return
    while count > 0 and (block := stream.read(min(count, BLOCK))):
        count -= len(block)


def _limited(shard: Shard) -> str:
    return hashlib.sha256(f"{shard.signature} first {shard.limit}".encode()).hexdigest()
