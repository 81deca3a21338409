"""Segments: finished parts of a shard under way, durable before they count as done.

A segment's name carries its content's sha256, so it proves itself without a second file; its schema's metadata say
which checkpoint it is a part of, which content of the shard it was made from, and by which run. Which of its rows still
count is for the reader to say: they carry the sha256 of the text that they were made from.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from arxiv_embed.checkpoint import tables
from arxiv_embed.checkpoint.atomic import (
    DRAFT_PREFIX,
    DamagedFile,
    make_folder,
    reading,
    remove,
    sync_folder,
    write_atomically,
)
from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.quarantine import Damage, Quarantine, size_of

_NAME = re.compile(r"s(\d{6,})\.([0-9a-f]{64})\.arrow")
REMEDY = "its papers are embedded again"


class Segments:
    """The segments in one folder, all of one checkpoint."""

    def __init__(
        self,
        folder: Path,
        key: CheckpointKey,
        source_sha256: str = "",
        quarantine: Quarantine | None = None,
        run_id: str = "",
    ) -> None:
        self._folder = folder
        self._key = key
        self._checkpoint = json.dumps(asdict(key), sort_keys=True).encode()
        self._source = source_sha256.encode()
        self._run = run_id.encode()
        self._quarantine = quarantine or Quarantine(folder / "quarantine")
        self._next = 0
        self.from_other_sources = 0
        """After `tables`: how many were made from another content of the shard."""

    def tables(self) -> list[pa.Table]:
        """What is finished, verified; a damaged segment, or one that belongs elsewhere, is set aside, as its papers
        are simply pending."""
        found = []
        self.from_other_sources = 0
        if self._folder.is_dir():
            sync_folder(self._folder)  # whoever wrote the last one may have been killed before it was durable
        for path in self._paths():
            if (match := _NAME.fullmatch(path.name)) is not None:
                self._next = max(self._next, int(match[1]) + 1)
            if (table := self.table(path)) is not None:
                self.from_other_sources += table.schema.metadata.get(b"source") != self._source
                found.append(table.replace_schema_metadata())
        return found

    def table(self, path: Path) -> pa.Table | None:
        """What one of these files holds, verified, with the mark of where it belongs; None where it has gone, or does
        not verify and is set aside."""
        try:
            return self._read(path)
        except DamagedFile as fault:
            self._quarantine.try_to_set_aside([path], self._damage(path, fault))
        return None

    def append(self, table: pa.Table) -> None:
        """Makes `table` durable."""
        mark = {b"checkpoint": self._checkpoint, b"source": self._source, b"run": self._run}
        content = tables.to_bytes(table.replace_schema_metadata(mark))
        make_folder(self._folder, root=self._quarantine.tree)
        write_atomically(self._folder / f"s{self._next:06d}.{tables.sha256(content)}.arrow", content)
        self._next += 1

    def forget_other_runs(self, runs: Collection[str]) -> None:
        """Removes what other runs than these have finished: a fresh start counts on nothing but its own."""
        others = []
        for path in self._paths():
            with contextlib.suppress(DamagedFile):  # `tables` sets it aside
                if run_of(self._read(path)) not in runs:
                    others.append(path)
        if others:
            remove(others, self._folder)

    def clear(self) -> None:
        """Removes all: what they held has been committed."""
        if self._folder.is_dir():
            remove([*self._paths(), *self._folder.glob(f"{DRAFT_PREFIX}*")], self._folder)
            with contextlib.suppress(OSError):
                self._folder.rmdir()  # unless somebody has put something else into it

    def verify(self, *, repair: bool) -> Iterator[tuple[str, int, Damage | None]]:
        """Each segment's name, size and damage."""
        for path in self._paths():
            damage: Damage | None = None
            size = size_of([path])
            try:
                self._read(path)
            except DamagedFile as fault:
                damage = self._quarantine.found([path], self._damage(path, fault), repair=repair)
                if damage is None:
                    continue  # it was cleared meanwhile
            yield path.name, size, damage

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("s*.arrow"))

    def _read(self, path: Path) -> pa.Table:
        """With the mark of where it belongs; raises `DamagedFile`."""
        with reading(path):
            content = path.read_bytes()
        match = _NAME.fullmatch(path.name)
        if match is None or tables.sha256(content) != match[2]:
            raise DamagedFile("its sha256 is not that of its name")
        table = tables.from_bytes(content)
        if (table.schema.metadata or {}).get(b"checkpoint") != self._checkpoint:
            raise DamagedFile("it is of another checkpoint")
        return table

    def _damage(self, path: Path, fault: DamagedFile) -> Damage:
        return Damage.of(self._key, path.name, str(fault), REMEDY)


def run_of(segment: pa.Table) -> str:
    """The run that a segment says it was made by."""
    return str((segment.schema.metadata or {}).get(b"run", b"").decode("utf-8", "replace"))


def marked_key(path: Path) -> CheckpointKey:
    """The checkpoint that a segment says it is a part of; raises `DamagedFile` where it says nothing."""
    with reading(path):
        mark = tables.open_file(pa.BufferReader(path.read_bytes())).schema.metadata or {}
    try:
        return CheckpointKey(**json.loads(mark[b"checkpoint"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(str(error)) from None
