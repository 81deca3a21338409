"""Cuts: where a large metadata file is cut into shards, found at reading speed once and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_embed.metadata.json_files import read_array
from arxiv_embed.metadata.streams import BLOCK, Damaged, Format, Readable, Stream
from arxiv_embed.metadata.xml_files import read_xml


class Unfinished(Exception):
    """The time was up before a file had been cut to its end. Where `goes_on`, what was found is noted, and the next
    attempt begins there; else it would begin anew."""

    def __init__(self, *, goes_on: bool) -> None:
        super().__init__()
        self.goes_on = goes_on


@dataclass(frozen=True)
class Cuts:
    """`places` are where the shards begin, the first at 0: bytes of the decompressed file for JSON lines, else
    records; `records` is how many there are in all."""

    signature: str
    shard_papers: int
    records: int
    places: tuple[int, ...]


def find_cuts(
    path: Path, form: Format, signature: str, shard_papers: int, index: Path, deadline: float | None = None
) -> Cuts:
    """The file's cuts, from `index` where that knows them for this signature, else by one pass over the file.

    Raises `Unfinished` when the pass is not over by `deadline` (of `time.monotonic`), one block later at the earliest.
    """
    note = index / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    of_file = {"signature": signature, "shard_papers": shard_papers}
    try:
        known = _noted(note, of_file)
        return Cuts(signature, shard_papers, known["records"], tuple(known["places"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a note that is missing or unreadable is written anew
    with Stream(path) as stream:
        source = stream if deadline is None else _Timed(stream, deadline)
        try:
            if form.kind != "lines":
                read = read_array if form.kind == "array" else read_xml
                records = sum(1 for _ in read(source, path.name))
                places = list(range(0, max(records, 1), shard_papers))
            elif deadline is None or form.container != "plain":
                records, places = scan_lines(source, shard_papers)
            else:
                records, places = _scan_on(stream, source, shard_papers, note.with_suffix(".begun"), of_file)
        except _TimeIsUp:
            raise Unfinished(goes_on=False) from None
    cuts = Cuts(signature, shard_papers, records, tuple(places))
    _keep(note, asdict(cuts))  # a note that cannot be kept is found again next time
    return cuts


@dataclass
class LineScan:
    """The lines within the first `offset` bytes, counted at memory speed, and where each shard's first one begins."""

    lines: int = 0
    offset: int = 0
    places: list[int] = field(default_factory=lambda: [0])
    ended: bool = True

    def go_on(self, stream: Readable, every: int) -> None:
        """Reads `stream`, which stands at `offset`, to its end."""
        while True:
            try:
                block = stream.read(BLOCK)
            except Damaged:
                return  # what can be read is cut; reading the last piece reports the damage
            if not block:
                return
            count = block.count(b"\n")
            if self.lines // every != (self.lines + count) // every:
                ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
                wanted = range((self.lines // every + 1) * every, self.lines + count + 1, every)
                self.places.extend(self.offset + int(ends[number - self.lines - 1]) + 1 for number in wanted)
            self.lines += count
            self.offset += len(block)
            self.ended = block.endswith(b"\n")

    def whole(self) -> tuple[int, list[int]]:
        """Number of lines and the places, of a file that has been read to its end."""
        places = self.places
        if len(places) > 1 and places[-1] >= self.offset:
            places = places[:-1]
        return self.lines + (not self.ended), places


def scan_lines(stream: Readable, every: int) -> tuple[int, list[int]]:
    """Counts lines; returns their number and the byte offsets of every `every`-th line's start."""
    scan = LineScan()
    scan.go_on(stream, every)
    return scan.whole()


def _scan_on(
    stream: Stream, timed: Readable, every: int, begun: Path, of_file: Mapping[str, object]
) -> tuple[int, list[int]]:
    """As `scan_lines`, from where the note `begun` says that the last scan came; raises `Unfinished`."""
    try:
        noted = _noted(begun, of_file)
        scan = LineScan(noted["lines"], noted["offset"], noted["places"], noted["ended"])
        stream.skip(scan.offset)
    except (OSError, ValueError, KeyError, TypeError):
        scan = LineScan()
    try:
        scan.go_on(timed, every)
    except _TimeIsUp:
        raise Unfinished(goes_on=_keep(begun, {**of_file, **asdict(scan)})) from None
    begun.unlink(missing_ok=True)
    return scan.whole()


class _TimeIsUp(Exception):
    pass


class _Timed:
    """A stream that is read no further once the time is up, but for its first block, so that each attempt comes on."""

    def __init__(self, stream: Readable, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline
        self._begun = False

    def read(self, size: int, /) -> bytes:
        if self._begun and time.monotonic() >= self._deadline:
            raise _TimeIsUp
        self._begun = True
        return self._stream.read(size)


def _noted(note: Path, of_file: Mapping[str, object]) -> dict[str, Any]:
    """Raises one of several errors where there is no such note, or not of this very file."""
    known: dict[str, Any] = json.loads(note.read_bytes())
    if any(known[name] != value for name, value in of_file.items()):
        raise ValueError
    return known


def _keep(note: Path, content: Mapping[str, object]) -> bool:
    """Whether the note could be written."""
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(content))
        draft.replace(note)
    except OSError:
        return False
    return True
