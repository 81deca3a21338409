"""Reading: a shard's papers and rejects, streamed, with the fingerprint of what was read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.ids import id_in_name
from arxiv_embed.metadata.json_files import read_array, read_lines, read_object
from arxiv_embed.metadata.paper import Paper, Reject
from arxiv_embed.metadata.shards import Shard
from arxiv_embed.metadata.streams import Damaged, Kind, Readable, Stream, sniff
from arxiv_embed.metadata.xml_files import read_xml


@dataclass(frozen=True)
class ShardContent:
    """A shard as read: how many records there were, the newest of each paper in the order of the file, what was
    rejected, how many older records of the same papers were left out, and the sha256 of all that was read."""

    records: int
    papers: list[Paper]
    rejects: list[Reject]
    duplicates: int
    sha256: str


class ShardReader:
    """Reads shards, one at a time; between neighbouring pieces of one file it goes on where it stopped."""

    def __init__(self) -> None:
        self._file: _OpenFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def read(self, shard: Shard) -> Iterator[Paper | Reject]:
        """Every record of the shard as a paper or a reject, in order, in memory that does not grow with the file.

        Raises `ArxivEmbedError` for a file that cannot be read at all.
        """
        items = _read_month(shard) if shard.is_month else self._read_piece(shard)
        return items if shard.limit is None else _first_papers(items, shard.limit)

    def load(self, shard: Shard) -> ShardContent:
        """The whole shard, each paper once."""
        newest: dict[str, Paper] = {}
        rejects: list[Reject] = []
        records = duplicates = 0
        digest = hashlib.sha256()
        for item in self.read(shard):
            digest.update(_identity(item))
            records += 1
            if isinstance(item, Reject):
                rejects.append(item)
                continue
            known = newest.get(item.id)
            duplicates += known is not None
            if known is None or item.recency >= known.recency:
                newest[item.id] = item
        return ShardContent(records, list(newest.values()), rejects, duplicates, digest.hexdigest())

    def _read_piece(self, shard: Shard) -> Iterator[Paper | Reject]:
        try:
            if self._file is None or not self._file.can_reach(shard):
                self._close()
                self._file = _OpenFile(shard)
            yield from self._file.read_piece(shard)
        except OSError as error:
            self._close()
            raise _unreadable(shard.folder / shard.files[0], error) from error


class _OpenFile:
    """A file being read: `position` is where reading stands, in bytes or in records as its pieces are cut."""

    def __init__(self, shard: Shard) -> None:
        assert shard.format is not None
        self._path = shard.folder / shard.files[0]
        self._name = shown(shard.files[0])
        self._kind = shard.format.kind
        self._stream = Stream(self._path)
        self._records = _records(self._stream, self._kind, self._name)
        self._stop: int | None = None
        self.position = 0

    def close(self) -> None:
        self._stream.close()

    def can_reach(self, shard: Shard) -> bool:
        return self._path == shard.folder / shard.files[0] and self.position <= shard.start

    def read_piece(self, shard: Shard) -> Iterator[Paper | Reject]:
        if self._kind == "lines":
            try:
                self._stream.skip(shard.start - self.position)
            except Damaged as error:
                yield Reject(self._name, f"line {shard.first}", f"file is cut off or damaged before here ({error})", "")
                return
            self.position, self._stop = shard.start, shard.stop
            yield from read_lines(self, self._name, shard.first, id_in_name(self._name))
            return
        for item in islice(self._records, None if shard.stop is None else shard.stop - self.position):
            self.position += 1
            if self.position > shard.start:
                yield item

    def read(self, size: int, /) -> bytes:
        """The bytes of a piece of lines."""
        block = self._stream.read(size if self._stop is None else min(size, self._stop - self.position))
        self.position += len(block)
        return block


def _records(stream: Readable, kind: Kind, name: str) -> Iterator[Paper | Reject]:
    if kind == "xml":
        return read_xml(stream, name)
    if kind == "array":
        return read_array(stream, name)
    if kind == "object":
        return read_object(stream, name, id_in_name(name))
    return read_lines(stream, name, file_id=id_in_name(name))


def _read_month(shard: Shard) -> Iterator[Paper | Reject]:
    for file in shard.files:
        path = shard.folder / file
        try:
            form = sniff(path)
            if form is None:
                yield Reject(shown(file), "record 1", "file holds no metadata that is known here", "")
                continue
            with Stream(path) as stream:
                yield from _records(stream, form.kind, shown(file))
        except FileNotFoundError:
            yield Reject(shown(file), "record 1", "file was removed before it was read", "")
        except OSError as error:
            raise _unreadable(path, error) from error


def _first_papers(items: Iterator[Paper | Reject], limit: int) -> Iterator[Paper | Reject]:
    left = limit
    while left > 0 and (item := next(items, None)) is not None:
        left -= isinstance(item, Paper)
        yield item


def _identity(item: Paper | Reject) -> bytes:
    """All that is known of an item, for the fingerprint."""
    fields: tuple[str, ...]
    if isinstance(item, Reject):
        fields = ("reject", item.file, item.position, item.reason, item.excerpt)
    else:
        dates = f"v{item.version}", item.published, item.updated
        fields = (item.id, *dates, item.title, item.abstract, item.authors, *item.categories)
    return "\x1f".join((*fields, "\n")).encode()


def shown(file: str) -> str:
    """A file's name as text that can be written down, bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def _unreadable(path: Path, error: OSError) -> ArxivEmbedError:
    return ArxivEmbedError(f"{shown(str(path))} could not be read ({error.strerror}): make it readable and run again.")
