"""The history: one readable document for each database, of what was done, what failed and how fast it went.

It is derived, from the checkpoints' manifests and from the runs' records, so that it can be deleted at any time and is
made again. A refresh goes on in each record at the byte where the last one stopped, so nothing is counted twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import orjson

from arxiv_embed.checkpoint.atomic import DamagedFile, reading, write_atomically
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.quarantine import BACKUP_USED, ONLY_FOUND, Damage, Quarantine, now
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.error_patterns import ErrorPatterns, as_iso, writable
from arxiv_embed.errors import masked
from arxiv_embed.settings import Settings
from arxiv_embed.tally import DevicePerformance, DeviceStats, Record, Tally, database_of

FORMAT_VERSION = "2.0"
NO_CHECKSUM = "0" * 64
WAIT_SECONDS = 30.0
"""How long a refresh waits for another of the same document."""
MADE_AGAIN = "it is made again from the checkpoints and the runs' records"
NEXT_BACKUP = "the next refresh keeps another"


class DamagedHistory(DamagedFile):
    """The text is not a history of this format, or not the one that was written."""


@dataclass(frozen=True)
class Embedded:
    """A shard's vectors in one space: the generation of their checkpoint, which run committed it when, and of how many
    papers it had the vectors already (None, and left out, in a document of a version that did not say)."""

    generation: int
    papers: int
    chunks: int
    rows: int
    failed_papers: int
    time: str
    run_id: str
    reused_papers: int | None = None


@dataclass(frozen=True)
class ProcessedFile:
    """A shard whose vectors are of the content last read; `generation` is that of its checkpoint `papers`, `spaces` are
    by fingerprint."""

    source_sha256: str
    generation: int
    papers: int
    spaces: dict[str, Embedded]


@dataclass(frozen=True)
class FailedShard:
    """Why a shard failed `last` (UTC, ISO 8601), and after how many attempts on the source of that `signature`."""

    error: str
    kind: str
    attempts: int
    last: str
    run_id: str
    signature: str
    given_up: bool


@dataclass
class History(Tally):
    """The document in memory; files are by shard. Its checksum is its sha256 with zeros in the checksum's place."""

    last_update: str = ""
    processed_files: dict[str, ProcessedFile] = field(default_factory=dict)
    failed_files: dict[str, FailedShard] = field(default_factory=dict)

    def to_json(self) -> bytes:
        parts = {
            "metadata": {
                "version": FORMAT_VERSION,
                "checksum": NO_CHECKSUM,
                "last_update": self.last_update,
                "database": self.database,
                "records": self.records,
            },
            "processed_files": _each(_written, self.processed_files),
            "failed_files": self.failed_files,
            "gpu_stats": dict(sorted(self.gpu_stats.items())),
            "performance_history": dict(sorted(self.performance_history.items())),
            "error_patterns": self.error_patterns.to_json(),
        }
        content = orjson.dumps(parts, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return content.replace(NO_CHECKSUM.encode(), hashlib.sha256(content).hexdigest().encode(), 1)

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Raises `DamagedHistory` unless writing what was read gives the very same bytes."""
        try:
            parts = orjson.loads(content)
            metadata = parts["metadata"]
            if metadata["version"] != FORMAT_VERSION:
                raise DamagedHistory(f"its format is {metadata['version']}, not {FORMAT_VERSION}")
            history = cls(
                database=metadata["database"],
                last_update=metadata["last_update"],
                records=_each(lambda record: Record(**record), metadata["records"]),
                processed_files=_each(_processed_file, parts["processed_files"]),
                failed_files=_each(lambda failure: FailedShard(**failure), parts["failed_files"]),
                gpu_stats=_each(DeviceStats.from_json, parts["gpu_stats"]),
                performance_history=_each(DevicePerformance.from_json, parts["performance_history"]),
                error_patterns=ErrorPatterns.from_json(parts["error_patterns"]),
            )
            if history.to_json() != content:
                raise DamagedHistory("its checksum does not fit")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedHistory(str(error)) from None
        return history


def _each(make: Callable[[Any], Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: make(part) for name, part in parts.items()}


def _written(file: ProcessedFile) -> dict[str, Any]:
    parts = asdict(file)
    for space in parts["spaces"].values():
        if space["reused_papers"] is None:
            del space["reused_papers"]
    return parts


def _processed_file(file: Mapping[str, Any]) -> ProcessedFile:
    return ProcessedFile(**{**file, "spaces": _each(lambda space: Embedded(**space), file["spaces"])})


def history_path(settings: Settings, store_url: str) -> Path:
    """Where a store's history lies: named after the store, and told from all others by a digest."""
    return settings.history / f"{_name(database_of(store_url))}.json"


def _name(database: str) -> str:
    last = database.partition("?")[0].rstrip("/").rpartition("/")[2]
    return f"{re.sub('[^A-Za-z0-9._-]+', '-', last)[:60]}-{hashlib.sha256(database.encode()).hexdigest()[:16]}"


def _backup(path: Path) -> Path:
    return path.with_suffix(".backup.json")


def load_history(
    path: Path, on_damage: Callable[[Damage], object] | None = None, *, sets_aside: bool = True
) -> History | None:
    """The document, or its backup where it does not verify; None where neither is there and whole.

    Both are read every time; what does not verify is set aside under `quarantine` beside them (unless nothing is to be
    changed), logged, and given to `on_damage`. An older document of this database that was put in its place is whole,
    and taken for the right one: it says itself how much of each record it holds, so that a refresh makes it that.
    """
    found: dict[Path, History] = {}
    faults: dict[Path, str] = {}
    for file in (path, _backup(path)):
        try:
            found[file] = _read(file, path.stem)
        except DamagedFile as fault:
            faults[file] = str(fault)
    remedy = NEXT_BACKUP if path in found else BACKUP_USED if found else MADE_AGAIN
    if not sets_aside:
        remedy = ONLY_FOUND
    quarantine = Quarantine(path.parent / "quarantine", on_damage)
    for file, reason in faults.items():
        damage = Damage(f"history of {path.stem}", file.name, reason, remedy, time=now())
        if file.exists() and sets_aside:
            quarantine.try_to_set_aside([file], damage)
        elif file.exists() or (file == path and found):
            quarantine.report(damage)
    return next(iter(found.values()), None)


def refresh_history(
    settings: Settings,
    *,
    store_url: str,
    checkpoints: CheckpointStore,
    spaces: Collection[str] | None,
    failed: Mapping[str, FailedShard] | None,
    on_damage: Callable[[Damage], object] | None = None,
) -> History:
    """Takes in what is new since the last refresh, and writes the document with the one before as its backup.

    `spaces` are fingerprints, None for all; `failed` None leaves `failed_files` as the document has them. Raises
    `NoSpace`, `NotWritable` or `DiskFault` where it cannot be written, `Locked` where another refresh takes too long.
    """
    path, database = history_path(settings, store_url), database_of(store_url)
    with FileLock(path.with_suffix(".lock"), f"The history of {database}", WAIT_SECONDS):
        history = load_history(path, on_damage) or History(database)
        _bring_up_to_date(history, settings, checkpoints, spaces)
        if failed is not None:
            history.failed_files = {writable(shard): _described(failure) for shard, failure in sorted(failed.items())}
        with contextlib.suppress(DamagedFile):  # nothing damaged takes the place of a good backup
            write_atomically(_backup(path), _read(path, path.stem).to_json())
        write_atomically(path, history.to_json())
    return history


def present_history(settings: Settings, *, store_url: str, checkpoints: CheckpointStore) -> History:
    """The document as it would be now, for whoever looks at it: nothing is written."""
    database = database_of(store_url)
    history = load_history(history_path(settings, store_url), sets_aside=False) or History(database)
    _bring_up_to_date(history, settings, checkpoints, None)
    return history


def _bring_up_to_date(
    history: History, settings: Settings, checkpoints: CheckpointStore, spaces: Collection[str] | None
) -> None:
    history.take_in(settings.runs)
    history.processed_files = processed_files(checkpoints, spaces)
    history.last_update = as_iso(time.time())


def processed_files(checkpoints: CheckpointStore, spaces: Collection[str] | None) -> dict[str, ProcessedFile]:
    """What the manifests say of the shards that need no embedding, in these spaces or in all; reads no data."""
    found: dict[str, ProcessedFile] = {}
    for key in checkpoints.keys():  # noqa: SIM118 - no mapping
        if key.asset != "embeddings" or (spaces is not None and key.space not in spaces):
            continue
        embeddings, papers = checkpoints.manifest(key), checkpoints.manifest(CheckpointKey("papers", key.shard))
        if embeddings is None or papers is None or embeddings.source.sha256 != papers.source.sha256:
            continue
        file = ProcessedFile(papers.source.sha256, papers.generation, papers.counts.get("papers", 0), {})
        found.setdefault(key.shard, file).spaces[key.space] = Embedded(
            generation=embeddings.generation,
            papers=embeddings.counts.get("papers", 0),
            chunks=embeddings.counts.get("chunks", 0),
            rows=embeddings.files["vectors"].rows,
            failed_papers=embeddings.counts.get("failed", 0),
            time=embeddings.created,
            run_id=embeddings.run_id,
            reused_papers=embeddings.counts.get("resumed"),
        )
    return dict(sorted(found.items()))


def _read(path: Path, name: str) -> History:
    """Raises `DamagedFile`, or `NotReadable` or `DiskFault` where that is not known."""
    with reading(path):
        history = History.from_json(path.read_bytes())
    if _name(history.database) != name:
        raise DamagedHistory(f"it is the history of {history.database}")
    return history


def _described(failure: FailedShard) -> FailedShard:
    return replace(failure, error=writable(masked(failure.error)))
