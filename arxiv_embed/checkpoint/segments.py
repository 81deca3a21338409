"""Segments: finished parts of a shard under way, durable before they count as done.

A segment's name carries its content's sha256, so it proves itself without a second file; its schema's metadata say
which checkpoint it is a part of. Which of its rows still count is for the reader to say: they carry the sha256 of the
text that they were made from.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from arxiv_embed.checkpoint import tables
from arxiv_embed.checkpoint.atomic import write_atomically
from arxiv_embed.checkpoint.manifest import CheckpointKey

_NAME = re.compile(r"s(\d{6})\.([0-9a-f]{64})\.arrow")

log = logging.getLogger(__name__)


class Segments:
    """The segments in one folder, all of one checkpoint."""

    def __init__(self, folder: Path, key: CheckpointKey) -> None:
        self._folder = folder
        self._mark = {b"checkpoint": json.dumps(asdict(key), sort_keys=True).encode()}
        self._next = 0

    def tables(self) -> list[pa.Table]:
        """What is finished, verified; a damaged segment, or one that belongs elsewhere, is left out, as its papers
        are simply pending."""
        found = []
        for path in sorted(self._folder.glob("s*.arrow")):
            match = _NAME.fullmatch(path.name)
            content = path.read_bytes()
            if match is None or tables.sha256(content) != match[2]:
                log.warning("segment %s is damaged: its papers are embedded again", path)
                continue
            table = tables.from_bytes(content)
            if table.schema.metadata != self._mark:
                log.warning("segment %s is of another checkpoint: it is not used", path)
                continue
            self._next = max(self._next, int(match[1]) + 1)
            found.append(table.replace_schema_metadata())
        return found

    def append(self, table: pa.Table) -> None:
        """Makes `table` durable."""
        content = tables.to_bytes(table.replace_schema_metadata(self._mark))
        write_atomically(self._folder / f"s{self._next:06d}.{tables.sha256(content)}.arrow", content)
        self._next += 1

    def clear(self) -> None:
        """Removes all: what they held has been committed, or is to be made anew."""
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)
        if self._folder.is_dir():
            self._folder.rmdir()
