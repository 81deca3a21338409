"""Shards: a metadata folder cut into the units of partition, checkpoint and retry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.cuts import Cuts, find_cuts
from arxiv_embed.metadata.ids import canonical_id, id_in_name, month_of
from arxiv_embed.metadata.json_files import LONGEST_RECORD
from arxiv_embed.metadata.keys import encode_path, month_key, piece_key
from arxiv_embed.metadata.streams import Format, sniff

TYPICAL_RECORD_BYTES = {"plain": 1500, "gzip": 500, "zstd": 500}
LEAST_RECORD_BYTES = {"plain": 40, "gzip": 4, "zstd": 4}
"""Below these a file is too small to hold more than a shard's papers, so nobody counts its records."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The records of one file, of a piece of one, or of one month's per-paper files; about `records` of them.

    `signature` changes whenever a listing says that the source may have changed. A piece of JSON lines is the bytes
    [start, stop) of the decompressed file and `first` its first line's number; a piece of another format is the
    records [start, stop). `limit` is the most papers to read (`--limit`).
    """

    key: str
    folder: Path
    signature: str
    records: int
    files: tuple[str, ...]
    format: Format | None = None
    start: int = 0
    stop: int | None = None
    first: int = 1
    limit: int | None = None

    @property
    def is_month(self) -> bool:
        return self.format is None

    def limited(self, papers: int) -> Shard:
        """The same shard, read no further than so many papers."""
        return replace(self, limit=papers, records=min(self.records, papers))


class _File(NamedTuple):
    path: str
    size: int
    mtime_ns: int

    @property
    def signature(self) -> str:
        return f"{self.size}-{self.mtime_ns}"


@dataclass(frozen=True, slots=True)
class Source:
    """What changes as one and is cut into shards: one file, or the per-paper files of one month; not opened yet.

    `key` is the shard's where it is one; `size` is a file's, in bytes, and None of a month.
    """

    key: str
    signature: str
    files: tuple[str, ...]
    size: int | None = None


@dataclass(frozen=True)
class Listing:
    """A folder's shards, sorted by key, and what else is in it."""

    shards: tuple[Shard, ...]
    passed_over: tuple[str, ...]
    """What holds no metadata known here, and in brackets why, where that is not the reason."""
    unread: Mapping[str, str]
    """The paths passed over as they cannot be read for now, and why: what was known below them is not gone."""


def list_folder(folder: Path, *, shard_papers: int, index: Path, without: Collection[Path] = ()) -> Listing:
    """Every shard of `folder`, not looking into the folders `without`; `index` is where the cuts of large files are
    remembered.

    Each file is looked at once. Raises `ArxivEmbedError` where there is no such folder, or it cannot be read; what
    cannot be read in it is passed over, and a file that cannot be opened is a shard of which reading says why.
    """
    shards: list[Shard] = []
    passed_over: list[str] = []
    unread: dict[str, str] = {}
    for source in list_sources(folder, without=without, passed_over=passed_over, unread=unread):
        try:
            found = shards_of(source, folder, shard_papers=shard_papers, index=index)
        except OSError:
            found = _shards_unread(source, folder.absolute(), shard_papers, index)
        shards.extend(found)
        if not found:
            passed_over.extend(source.files)
    passed_over.extend(f"{path} ({reason})" for path, reason in unread.items())
    return Listing(tuple(sorted(shards, key=lambda shard: shard.key)), tuple(sorted(passed_over)), unread)


def list_sources(
    folder: Path,
    *,
    without: Collection[Path] = (),
    passed_over: list[str] | None = None,
    unread: dict[str, str] | None = None,
) -> Iterator[Source]:
    """The files and the months of `folder`, with one stat a file and nothing opened; not of the folders `without`.

    Folders that are links are added to `passed_over`; what cannot be read, with the reason, to `unread`, which is
    complete before the first month comes. Raises what `list_folder` does.
    """
    folder = folder.absolute()
    months: dict[str, list[str]] = {}
    passed_over = [] if passed_over is None else passed_over
    unread = {} if unread is None else unread
    for file in _files(folder, {os.path.realpath(path) for path in without}, passed_over, unread):
        if month := _month_of_single_paper(file):
            months.setdefault(month, []).append(f"{file.path}\0{file.signature}\n")
        else:
            yield Source(encode_path(file.path), file.signature, (file.path,), file.size)
    while months:
        month, lines = months.popitem()
        lines.sort()  # as the paths are sorted: no name has a \0 in it
        listing = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape"))
        yield Source(month_key(month), listing.hexdigest(), tuple(line[: line.index("\0")] for line in lines))


def shards_of(
    source: Source, folder: Path, *, shard_papers: int, index: Path, deadline: float | None = None
) -> tuple[Shard, ...]:
    """What a source of `folder` is cut into; none where it holds no metadata known here. Raises `OSError` for a file
    that cannot be read, and `Unfinished` when a large one is not cut by `deadline`, as `find_cuts` does."""
    folder = folder.absolute()
    if source.size is None:
        return (Shard(source.key, folder, source.signature, len(source.files), source.files),)
    [file] = source.files
    form = sniff(folder / file)
    return tuple(_shards_of_file(folder, source, form, shard_papers, index, deadline)) if form else ()


def lies_in(path: str, places: Collection[str]) -> bool:
    """Whether a path is one of these, or below one."""
    while path and path not in places:
        path = path.rpartition("/")[0]
    return path != ""


def _files(top: Path, without: Collection[str], passed_over: list[str], unread: dict[str, str]) -> Iterator[_File]:
    """The files of all folders below `top`, each with the one stat that it gets. Hidden ones are left alone; folders
    that are links are not followed, and named in `passed_over`; what cannot be read is named in `unread`."""
    pending = [top]
    while pending:
        folder = pending.pop()
        prefix = "" if folder == top else folder.relative_to(top).as_posix() + "/"
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            if not without or os.path.realpath(entry.path) not in without:
                                pending.append(folder / entry.name)
                            continue
                        if entry.is_dir():
                            passed_over.append(f"{prefix}{entry.name}/ (a link)")
                            continue
                        if not entry.is_file():
                            continue
                        stat = entry.stat()
                    except FileNotFoundError:
                        continue  # removed while the folder was listed
                    except OSError as error:
                        os.stat(f"{folder}/.")  # noqa: PTH116 - fails where it is the folder that cannot be entered
                        unread[prefix + entry.name] = str(error.strerror)
                        continue
                    yield _File(prefix + entry.name, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            if folder == top:
                raise _unusable(top, error) from None
            if not isinstance(error, FileNotFoundError):
                unread[prefix.removesuffix("/")] = str(error.strerror)


def _unusable(top: Path, error: OSError) -> ArxivEmbedError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return ArxivEmbedError(f"There is no metadata folder {top}: make it, or name another.")
    return ArxivEmbedError(f"The folder {top} cannot be read ({error.strerror}): mend that, or name another.")


def month_key_of(path: str) -> str | None:
    """The key of the month that a file of this name belongs to, if it is of one paper."""
    month = _month_of_single_paper(_File(path, 0, 0))
    return month_key(month) if month else None


def _month_of_single_paper(file: _File) -> str | None:
    """The month of a file of one paper: one with an id for its name, and no larger than a record may be.

    Nothing but the file itself decides, so that no new file moves another; what it holds is found out on reading.
    """
    name = id_in_name(file.path)
    if not name or file.size > LONGEST_RECORD:
        return None
    return name[:4] if name[:4].isdecimal() else month_of(canonical_id(name)[0])


def _shards_unread(source: Source, folder: Path, shard_papers: int, index: Path) -> tuple[Shard, ...]:
    """Of a file that cannot be read: as it was cut before, or else whole."""
    unknown = Format("plain", "lines")
    try:
        return tuple(_shards_of_file(folder, source, unknown, shard_papers, index, None))
    except OSError:
        return (_whole(folder, source, unknown),)


def _whole(folder: Path, source: Source, form: Format) -> Shard:
    records = 1 if form.kind == "object" else max(1, (source.size or 0) // TYPICAL_RECORD_BYTES[form.container])
    return Shard(source.key, folder, source.signature, records, source.files, form)


def _shards_of_file(
    folder: Path, source: Source, form: Format, shard_papers: int, index: Path, deadline: float | None
) -> Iterator[Shard]:
    [file], size = source.files, source.size or 0
    whole = _whole(folder, source, form)
    if form.kind == "object" or size < shard_papers * LEAST_RECORD_BYTES[form.container]:
        yield replace(whole, records=min(whole.records, shard_papers))
        return
    cuts: Cuts = find_cuts(folder / file, form, source.signature, shard_papers, index, deadline)
    if cuts.records <= shard_papers:
        yield replace(whole, records=cuts.records)
        return
    edges = [*cuts.places, None]
    for number, (start, stop) in enumerate(zip(cuts.places, edges[1:], strict=True)):
        yield replace(
            whole,
            key=piece_key(file, number),
            signature=f"{source.signature}-{number}",
            records=min(shard_papers, cuts.records - number * shard_papers),
            start=start,
            stop=stop,
            first=number * shard_papers + 1,
        )
