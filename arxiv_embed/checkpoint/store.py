"""The checkpoint store: every shard's committed output, verified each time it is loaded.

What turns out bad is set aside, never deleted, and always reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa

from arxiv_embed.checkpoint import tables
from arxiv_embed.checkpoint.atomic import DamagedFile, disk_faults_as_sentences, reading
from arxiv_embed.checkpoint.generations import Generations, Verified, checked, sized, unreported
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.checkpoint.manifest import CheckpointKey, DataFile, Manifest, Source
from arxiv_embed.checkpoint.parts import GenerationPart, Part, SegmentPart
from arxiv_embed.checkpoint.quarantine import Damage, Quarantine, now
from arxiv_embed.checkpoint.reader import CheckpointReader
from arxiv_embed.checkpoint.segments import Segments, marked_key
from arxiv_embed.errors import ArxivEmbedError

LONGEST_NAME = 120
LIBRARIES = ("arxiv-embed", "torch", "transformers", "pyarrow", "dagster")
QUARANTINE = "quarantine"
_TABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,60}")
SEGMENTS = "segments"


@dataclass(frozen=True)
class Checkpoint:
    manifest: Manifest
    tables: Mapping[str, pa.Table]


class CheckpointStore:
    """Checkpoints under one folder, `root/<asset>/<space or "-">/<shard>/`. Whatever is found damaged is logged and
    given to `on_damage`."""

    def __init__(self, root: Path, on_damage: Callable[[Damage], object] | None = None) -> None:
        self.root = root
        self._quarantine = Quarantine(root / QUARANTINE, on_damage)

    def commit(
        self,
        key: CheckpointKey,
        contents: Mapping[str, pa.Table],
        *,
        source: Source,
        counts: Mapping[str, int],
        run_id: str,
        details: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Writes the next generation, verifies it as it now lies on disk, and only then lets go of the oldest; for
        the process that holds the shard.

        Raises `NoSpace` where the disk is full; what was committed before stands. `DamagedManifest`, for a count that
        does not fit its table, is the caller's mistake.
        """
        for table in contents:
            if not _TABLE.fullmatch(table):
                raise ArxivEmbedError(f"'{table}' is no name for a table: use letters, digits, dashes and dots.")
        written = {table: tables.to_bytes(rows) for table, rows in contents.items()}
        files = {
            table: DataFile(
                "", tables.sha256(content), len(content), contents[table].num_rows, str(contents[table].schema)
            )
            for table, content in written.items()
        }
        manifest = Manifest(key, 0, source, dict(counts), files, run_id, now(), _versions(), dict(details or {}))
        manifest.check()
        return self._generations(key).add(manifest, written)

    def manifest(self, key: CheckpointKey) -> Manifest | None:
        """The newest manifest that is whole and has its files at their sizes; the data is not read, so this is for
        planning only."""
        return self._generations(key).newest(sized, unreported)

    def load(self, key: CheckpointKey) -> Checkpoint | None:
        """The newest generation that verifies: checksums, structure, counts and space. One that does not is set
        aside under `root/quarantine` and the backup is used; None where nothing is left."""
        generations = self._generations(key)
        return generations.newest(_loaded, generations.try_to_set_aside)

    def reader(self, key: CheckpointKey, *, sets_aside: bool = True) -> CheckpointReader | None:
        """As `load`, verified to the last byte, but with the data left on disk until it is asked for; what does not
        verify stays where it is unless `sets_aside`."""
        generations = self._generations(key)
        return generations.newest(checked, generations.try_to_set_aside if sets_aside else unreported)

    def verify(self, *, repair: bool) -> Iterator[Verified]:
        """Reads every byte of every generation and segment. With `repair` what is damaged is set aside, so that its
        backup is the newest; raises `ArxivEmbedError` where that cannot be written."""
        for key in self._all_keys():
            yield from self._generations(key).verify(repair=repair)
            for name, size, damage in self.segments(key).verify(repair=repair):
                yield Verified(f"segment {name} of {key}", size, damage)

    def restore(self, key: CheckpointKey, *, run_id: str) -> Manifest:
        """Commits what the generation before the current one holds as a new one, whose backup is the current one: a
        second time undoes the first. Takes the shard's lock. Raises `ArxivEmbedError` where there is none."""
        with self.hold(key):
            generations = self._generations(key)
            current = generations.newest(checked, generations.set_aside)
            before = current and generations.newest(checked, generations.set_aside, before=current.manifest.generation)
            if before is None:
                raise ArxivEmbedError(
                    f"There is no whole generation of {key} before the one in use: nothing is changed."
                )
            manifest = replace(
                before.manifest,
                run_id=run_id,
                created=now(),
                details={**before.manifest.details, "restored_generation": before.manifest.generation},
            )
            return generations.add(manifest, {table: before.content(table) for table in manifest.files})

    def export(self, folder: Path, keys: Iterable[CheckpointKey] | None = None) -> int:
        """Copies the newest generation that verifies, of these checkpoints or all, to an empty folder, which is then a
        checkpoint folder; returns how many. Raises `ArxivEmbedError` where the folder is not empty."""
        with disk_faults_as_sentences(folder):
            if folder.exists() and any(folder.iterdir()):
                raise ArxivEmbedError(f"The folder {folder} is not empty: name a new one.")
        if folder.resolve().is_relative_to(self.root.resolve()):
            raise ArxivEmbedError(f"The folder {folder} is within the checkpoints {self.root}: name another one.")
        target = CheckpointStore(folder)
        exported = 0
        for key in list(self._all_keys() if keys is None else keys):
            if (reader := self.reader(key)) is not None:
                manifest = reader.manifest
                target._generations(key).write(manifest, {table: reader.content(table) for table in manifest.files})
                exported += 1
        return exported

    def quarantined(self) -> list[Damage]:
        """What has been set aside and is still there, newest first."""
        return self._quarantine.damages()

    def keys(self) -> list[CheckpointKey]:
        """Everything that has a whole manifest."""
        found = {}
        for path in self._in_folders("g*.manifest.json"):
            with contextlib.suppress(DamagedFile), reading(path):
                found[path.parent] = Manifest.from_json(path.read_bytes()).key
        return sorted(found.values(), key=_order)

    def parts(self, asset: str, space: str) -> list[Part]:
        """Every shard's generations and segments in a space, as they are listed: none is read."""
        found: list[Part] = []
        folders: dict[Path, CheckpointKey] = {}
        place = self.root / asset / _space_name(space)
        for path in sorted(place.glob("*/g*.manifest.json")):
            folders.setdefault(path.parent, self._key_of(path.parent))
            generations = self._generations(folders[path.parent])
            if (number := generations.number_of(path)) is not None:
                found.append(GenerationPart(path, generations, number))
        for path in sorted(place.glob(f"*/{SEGMENTS}/s*.arrow")):
            found.append(SegmentPart(path, self.segments(self._key_of(path.parent.parent))))
        return found

    def segments(self, key: CheckpointKey, source_sha256: str = "", run_id: str = "") -> Segments:
        """The finished parts of a shard under way; those that are added are marked as made from that source by that
        run."""
        return Segments(self._folder(key) / SEGMENTS, key, source_sha256, self._quarantine, run_id)

    def unfinished_elsewhere(self, key: CheckpointKey) -> list[str]:
        """The other spaces that hold segments of that shard."""
        found = self.root.glob(f"{key.asset}/*/{_file_name(key.shard)}/{SEGMENTS}/s*.arrow")
        return sorted({path.parts[-4] for path in found} - {_space_name(key.space)})

    def hold(self, key: CheckpointKey, wait_seconds: float = 0.0) -> FileLock:
        """The right to work on a shard: one process at a time."""
        return FileLock(self._folder(key) / "lock", f"Shard {key.shard}", wait_seconds)

    def _folder(self, key: CheckpointKey) -> Path:
        return self.root / key.asset / _space_name(key.space) / _file_name(key.shard)

    def _generations(self, key: CheckpointKey) -> Generations:
        return Generations(self._folder(key), key, self.root, self._quarantine)

    def _in_folders(self, pattern: str) -> Iterator[Path]:
        """What fits `pattern` in checkpoints' folders, and not in the quarantine."""
        for path in self.root.glob(f"*/*/*/{pattern}"):
            if path.relative_to(self.root).parts[0] != QUARANTINE:
                yield path

    def _all_keys(self) -> list[CheckpointKey]:
        """Everything that has a manifest or segments, whole or not."""
        folders = {path.parent for path in self._in_folders("g*.manifest.json")}
        folders |= {path.parent.parent for path in self._in_folders(f"{SEGMENTS}/s*.arrow")}
        return sorted(map(self._key_of, folders), key=_order)

    def _key_of(self, folder: Path) -> CheckpointKey:
        """As the folder's name tells it; that of a long shard key does not, and what lies in it is asked."""
        asset, space, shard = folder.relative_to(self.root).parts
        named = CheckpointKey(asset, unquote(shard), "" if space == "-" else space)
        if self._folder(named) != folder:
            for path in (*folder.glob("g*.manifest.json"), *(folder / SEGMENTS).glob("s*.arrow")):
                with contextlib.suppress(DamagedFile), reading(path):
                    key = Manifest.from_json(path.read_bytes()).key if path.suffix == ".json" else marked_key(path)
                    if self._folder(key) == folder:
                        return key
        return named


def _loaded(reader: CheckpointReader) -> Checkpoint:
    return Checkpoint(reader.manifest, {name: reader.table(name) for name in reader.manifest.files})


def _order(key: CheckpointKey) -> tuple[str, str, str]:
    return key.asset, key.space, key.shard


def _space_name(space: str) -> str:
    return space or "-"


def _file_name(shard: str) -> str:
    """A shard's key as one folder name; a long one keeps its head and gains a digest."""
    name = quote(shard, safe="@:-_.~") if shard.strip(".") else shard.replace(".", "%2E")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}~{hashlib.sha256(shard.encode()).hexdigest()[:16]}"


@cache
def _versions() -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in LIBRARIES}
