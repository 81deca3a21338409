"""The checkpoint store: every shard's committed output, verified each time it is loaded.

A checkpoint is a generation: data files `g000001.<table>.arrow` and then, as the act of committing, their manifest
`g000001.manifest.json`. The generation before stays as backup. What turns out bad is set aside, never deleted.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import pyarrow as pa

from arxiv_embed.checkpoint import tables
from arxiv_embed.checkpoint.atomic import DRAFT_PREFIX, disk_faults_as_sentences, sync_folder, write_atomically
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.checkpoint.manifest import CheckpointKey, DamagedManifest, DataFile, Manifest, Source
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.errors import ArxivEmbedError

LONGEST_NAME = 120
LIBRARIES = ("arxiv-embed", "torch", "transformers", "pyarrow", "dagster")
_MANIFEST = re.compile(r"g(\d{6})\.manifest\.json")
_DATA = re.compile(r"g(\d{6})\..*\.arrow")

Checked = TypeVar("Checked")

log = logging.getLogger(__name__)


class DamagedCheckpoint(ValueError):
    """A generation that is not what its manifest says."""


@dataclass(frozen=True)
class Checkpoint:
    manifest: Manifest
    tables: Mapping[str, pa.Table]


class CheckpointStore:
    """Checkpoints under one folder, `root/<asset>/<space or "-">/<shard>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

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
        """Writes the next generation, verifies it as it now lies on disk, and only then lets go of the oldest.

        Raises `NoSpace` where the disk is full; what was committed before stands.
        """
        folder = self._folder(key)
        # What is no backup is set aside, so that the generation kept as one is whole.
        before = self._newest(key, _whole, set_aside=True)
        generation = before.generation + 1 if before else 1
        files = {}
        for table, rows in contents.items():
            name = f"g{generation:06d}.{table}{tables.SUFFIX}"
            content = tables.to_bytes(rows)
            write_atomically(folder / name, content)
            files[table] = DataFile(name, tables.sha256(content), len(content), rows.num_rows, str(rows.schema))
        manifest = Manifest(
            key=key,
            generation=generation,
            source=source,
            counts=dict(counts),
            files=files,
            run_id=run_id,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
            details=dict(details or {}),
        )
        write_atomically(folder / f"g{generation:06d}.manifest.json", manifest.to_json().encode())
        try:
            _verified(folder, manifest)
        except DamagedCheckpoint as fault:
            raise ArxivEmbedError(
                f"The checkpoint of shard '{key.shard}' is not as it was written ({fault}): check the disk of {folder} "
                "and run again; the one before it stands."
            ) from fault
        self._forget_old(folder, keep=before.generation if before else generation)
        return manifest

    def manifest(self, key: CheckpointKey) -> Manifest | None:
        """The newest manifest that is whole and has its files at their sizes; the data is not read, so this is for
        planning only."""
        return self._newest(key, _whole, set_aside=False)

    def load(self, key: CheckpointKey) -> Checkpoint | None:
        """The newest generation that verifies: checksums, structure, counts and space. One that does not is set
        aside under `root/quarantine` and the backup is used; None where nothing is left."""
        return self._newest(key, _verified, set_aside=True)

    def _newest(
        self, key: CheckpointKey, check: Callable[[Path, Manifest], Checked], *, set_aside: bool
    ) -> Checked | None:
        """What `check` makes of the newest generation that it does not refuse."""
        folder = self._folder(key)
        for generation, path in self._manifests(folder):
            try:
                return check(folder, _read_manifest(path, key, generation))
            except FileNotFoundError:
                continue  # another process has just replaced it
            except (DamagedManifest, DamagedCheckpoint) as fault:
                if set_aside:
                    place = self._quarantine(folder, generation)
                    log.warning("checkpoint %s of %s is damaged (%s): set aside in %s", path.name, key, fault, place)
        return None

    def keys(self) -> list[CheckpointKey]:
        """Everything that has a whole manifest."""
        found = {}
        for path in self.root.glob("*/*/*/g*.manifest.json"):
            if path.relative_to(self.root).parts[0] == "quarantine":
                continue
            try:
                found[path.parent] = Manifest.from_json(path.read_bytes()).key
            except (DamagedManifest, FileNotFoundError):
                continue
        return sorted(found.values(), key=lambda key: (key.asset, key.space, key.shard))

    def segments(self, key: CheckpointKey) -> Segments:
        """The finished parts of a shard under way."""
        return Segments(self._folder(key) / "segments", key)

    def hold(self, key: CheckpointKey) -> FileLock:
        """The right to work on a shard: one process at a time."""
        return FileLock(self._folder(key) / "lock", f"Shard {key.shard}")

    def _folder(self, key: CheckpointKey) -> Path:
        return self.root / key.asset / (key.space or "-") / _file_name(key.shard)

    def _manifests(self, folder: Path) -> Iterator[tuple[int, Path]]:
        """Newest first."""
        found = [(int(match[1]), path) for path in folder.glob("g*") if (match := _MANIFEST.fullmatch(path.name))]
        yield from sorted(found, reverse=True)

    def _forget_old(self, folder: Path, keep: int) -> None:
        """Removes generations before `keep`, the manifest first, and the drafts of writers that were killed."""
        for generation, path in list(self._manifests(folder)):
            if generation < keep:
                path.unlink()
        for path in folder.glob("g*"):
            if (match := _DATA.fullmatch(path.name)) and int(match[1]) < keep:
                path.unlink()
        for path in folder.glob(f"{DRAFT_PREFIX}*"):
            path.unlink(missing_ok=True)

    def _quarantine(self, folder: Path, generation: int) -> Path:
        place = self.root / "quarantine" / folder.relative_to(self.root) / f"{time.time_ns()}"
        with disk_faults_as_sentences(self.root):
            place.mkdir(parents=True)
        for path in folder.glob(f"g{generation:06d}.*"):
            path.rename(place / path.name)
        sync_folder(folder)
        return place


def _read_manifest(path: Path, key: CheckpointKey, generation: int) -> Manifest:
    manifest = Manifest.from_json(path.read_bytes())
    if (manifest.key, manifest.generation) != (key, generation):
        raise DamagedCheckpoint(f"it is generation {manifest.generation} of {manifest.key}")
    return manifest


def _whole(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest, if its data files are there at their sizes."""
    for file in manifest.files.values():
        try:
            size = (folder / file.name).stat().st_size
        except OSError as error:
            raise DamagedCheckpoint(f"{file.name}: {error.strerror}") from None
        if size != file.bytes:
            raise DamagedCheckpoint(f"{file.name} has the wrong size")
    return manifest


def _verified(folder: Path, manifest: Manifest) -> Checkpoint:
    """A generation's tables, checked against its manifest as they lie on disk."""
    found = {}
    for table, file in manifest.files.items():
        try:
            content = (folder / file.name).read_bytes()
        except OSError as error:
            raise DamagedCheckpoint(f"{file.name}: {error.strerror}") from None
        if tables.sha256(content) != file.sha256:
            raise DamagedCheckpoint(f"{file.name}: its sha256 does not fit")
        try:
            rows = tables.from_bytes(content)
        except pa.ArrowInvalid as error:
            raise DamagedCheckpoint(f"{file.name}: {error}") from None
        if (rows.num_rows, str(rows.schema)) != (file.rows, file.schema):
            raise DamagedCheckpoint(f"{file.name}: rows or columns do not fit")
        found[table] = rows
    return Checkpoint(manifest, found)


def _file_name(shard: str) -> str:
    """A shard's key as one folder name; a long one keeps its head and gains a digest."""
    name = quote(shard, safe="@:-_.~") if shard.strip(".") else shard.replace(".", "%2E")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}~{hashlib.sha256(shard.encode()).hexdigest()[:16]}"


@cache
def _versions() -> dict[str, str]:
    return {library: importlib.metadata.version(library) for library in LIBRARIES}
