"""Cuts: where a large metadata file is cut into shards, found at reading speed once and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from arxiv_embed.metadata.json_files import read_array
from arxiv_embed.metadata.streams import BLOCK, Damaged, Format, Readable, Stream
from arxiv_embed.metadata.xml_files import read_xml


@dataclass(frozen=True)
class Cuts:
    """`places` are where the shards begin, the first at 0: bytes of the decompressed file for JSON lines, else
    records; `records` is how many there are in all."""

    signature: str
    shard_papers: int
    records: int
    places: tuple[int, ...]


def find_cuts(path: Path, form: Format, signature: str, shard_papers: int, index: Path) -> Cuts:
    """The file's cuts, from `index` where that knows them for this signature, else by one pass over the file."""
    note = index / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    try:
        known = json.loads(note.read_bytes())
        cuts = Cuts(known["signature"], known["shard_papers"], known["records"], tuple(known["places"]))
        if (cuts.signature, cuts.shard_papers) == (signature, shard_papers):
            return cuts
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a note that is missing or unreadable is written anew
    with Stream(path) as stream:
        if form.kind == "lines":
            records, places = scan_lines(stream, shard_papers)
        else:
            read = read_array if form.kind == "array" else read_xml
            records = sum(1 for _ in read(stream, path.name))
            places = list(range(0, max(records, 1), shard_papers))
    cuts = Cuts(signature, shard_papers, records, tuple(places))
    with contextlib.suppress(OSError):  # a note that cannot be kept is found again next time
        index.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(asdict(cuts)))
        draft.replace(note)
    return cuts


def scan_lines(stream: Readable, every: int) -> tuple[int, list[int]]:
    """Counts lines at memory speed; returns their number and the byte offsets of every `every`-th line's start."""
    lines = 0
    offset = 0
    places = [0]
    last = b"\n"
    while True:
        try:
            block = stream.read(BLOCK)
        except Damaged:
            break  # what can be read is cut; reading the last piece reports the damage
        if not block:
            break
        count = block.count(b"\n")
        if lines // every != (lines + count) // every:
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            wanted = range((lines // every + 1) * every, lines + count + 1, every)
            places.extend(offset + int(ends[number - lines - 1]) + 1 for number in wanted)
        lines += count
        offset += len(block)
        last = block[-1:]
    if last != b"\n":
        lines += 1
    if len(places) > 1 and places[-1] >= offset:
        places.pop()
    return lines, places
