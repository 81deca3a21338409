"""Parts: all that is durable of one asset in one space, every shard's generations and segments, looked at cheaply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from arxiv_embed.checkpoint import tables
from arxiv_embed.checkpoint.atomic import DamagedFile, DiskFault, NotReadable, reading
from arxiv_embed.checkpoint.generations import Generations
from arxiv_embed.checkpoint.reader import DamagedCheckpoint
from arxiv_embed.checkpoint.segments import Segments, run_of


@dataclass(frozen=True)
class Glance:
    """What a part says of itself, and some columns of its rows: only their form is verified, so they are for hints.
    `identity` and `details` are a manifest's; a segment has none."""

    columns: pa.Table
    run_id: str
    identity: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Part(Protocol):
    """A generation or a segment, which the next commit of its shard may remove at any time."""

    @property
    def path(self) -> Path:
        """Of one content for ever, as no name is used twice."""

    def glance(self, table: str, columns: Sequence[str]) -> Glance | None:
        """None where it has gone, or cannot be understood."""

    def rows(self, table: str, choose: Callable[[pa.Table], pa.Table]) -> pa.Table | None:
        """What `choose` takes of the table, piece by piece, all of it verified before. None where it has gone, cannot
        be read now, or does not verify: then it is set aside, and reported."""


@dataclass(frozen=True)
class GenerationPart:
    """`path` is its manifest."""

    path: Path
    generations: Generations
    number: int

    def glance(self, table: str, columns: Sequence[str]) -> Glance | None:
        try:
            reader = self.generations.reader(self.number)
            rows = reader.glance(table, columns)
        except (DamagedCheckpoint, NotReadable, DiskFault, KeyError):
            return None
        manifest = reader.manifest
        return Glance(rows, manifest.run_id, manifest.identity, manifest.details)

    def rows(self, table: str, choose: Callable[[pa.Table], pa.Table]) -> pa.Table | None:
        try:
            batches = self.generations.reader(self.number).batches(table)
            chosen = [choose(pa.Table.from_batches([batch])) for batch in batches]
        except DamagedCheckpoint as fault:
            if self.generations.has(self.number):
                self.generations.try_to_set_aside(self.number, fault)
            return None
        except (NotReadable, DiskFault):
            return None
        return pa.concat_tables(chosen) if chosen else None


@dataclass(frozen=True)
class SegmentPart:
    """A segment holds a single table, whatever its name is."""

    path: Path
    segments: Segments

    def glance(self, table: str, columns: Sequence[str]) -> Glance | None:
        try:
            with reading(self.path):
                rows = tables.glance(self.path, columns)
        except (DamagedFile, NotReadable, DiskFault):
            return None
        return Glance(rows, run_of(rows))

    def rows(self, table: str, choose: Callable[[pa.Table], pa.Table]) -> pa.Table | None:
        try:
            held = self.segments.table(self.path)
        except (NotReadable, DiskFault):
            return None
        return None if held is None else choose(held.replace_schema_metadata())
