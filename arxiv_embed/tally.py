"""A tally: what the records of runs add up to for one database, of its devices and its errors.

The sums are the same in whatever order the records of several runs are taken in, and however often in between.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from arxiv_embed.error_patterns import ErrorPatterns, as_iso, kind_of_incident, writable
from arxiv_embed.errors import Kind, masked
from arxiv_embed.soundness import event_of

KEPT_BATCHES, KEPT_RUNS = 100, 20


@dataclass
class Record:
    """How far a run's record is taken in: its first `bytes`. `counted` says whether what follows there was done for
    this database, `began` when the run first did something for it."""

    bytes: int = 0
    counted: bool = False
    began: str = ""


@dataclass(frozen=True, order=True)
class Batch:
    """`time` is when it was done, UTC, ISO 8601."""

    time: str
    papers: int
    tokens: int
    seconds: float
    peak_memory_bytes: int

    @classmethod
    def of_event(cls, line: Mapping[str, Any]) -> Self:
        """Of an event `batch`."""
        seconds = round(float(line["seconds"]), 6)
        return cls(as_iso(line["time"]), line["papers"], line["tokens"], seconds, line["peak_memory"])


@dataclass
class DeviceStats:
    """What a device has done in all; `seconds` it computed, `product` as it was `last_found`."""

    product: str = ""
    last_found: str = ""
    papers: int = 0
    tokens: int = 0
    seconds: float = 0.0
    batches: int = 0
    peak_memory_bytes: int = 0
    incidents: Counter[str] = field(default_factory=Counter)

    def find(self, product: str, time: str) -> None:
        self.last_found, self.product = max((self.last_found, self.product), (time, product))

    def add(self, batch: Batch) -> None:
        self.papers += batch.papers
        self.tokens += batch.tokens
        self.seconds = _sum(self.seconds, batch.seconds)
        self.batches += 1
        self.peak_memory_bytes = max(self.peak_memory_bytes, batch.peak_memory_bytes)

    @classmethod
    def from_json(cls, stats: Mapping[str, Any]) -> Self:
        return cls(**{**stats, "incidents": Counter(stats["incidents"])})


@dataclass
class DeviceRun:
    """What a device did in one run."""

    run_id: str
    began: str
    papers: int = 0
    tokens: int = 0
    seconds: float = 0.0
    papers_per_second: float = 0.0
    tokens_per_second: float = 0.0

    def add(self, batch: Batch) -> None:
        self.papers += batch.papers
        self.tokens += batch.tokens
        self.seconds = _sum(self.seconds, batch.seconds)
        if self.seconds:
            self.papers_per_second = round(self.papers / self.seconds, 3)
            self.tokens_per_second = round(self.tokens / self.seconds, 3)


@dataclass
class DevicePerformance:
    """A device's last batches and runs, the oldest first."""

    batches: list[Batch] = field(default_factory=list)
    runs: list[DeviceRun] = field(default_factory=list)

    def add(self, batch: Batch, run_id: str, began: str) -> None:
        self.batches.append(batch)
        if len(self.batches) > 20 * KEPT_BATCHES:
            self.batches = sorted(self.batches)[-KEPT_BATCHES:]
        run = next((run for run in reversed(self.runs) if run.run_id == run_id), None)
        if run is None:
            run = DeviceRun(run_id, began)
            self.runs.append(run)
        run.add(batch)

    def forget_old(self) -> None:
        """To be called where a record has been taken in. A run that goes on when it has been forgotten is forgotten
        again, as when it began counts."""
        self.batches = sorted(self.batches)[-KEPT_BATCHES:]
        self.runs = sorted(self.runs, key=lambda run: (run.began, run.run_id))[-KEPT_RUNS:]

    @classmethod
    def from_json(cls, performance: Mapping[str, Any]) -> Self:
        return cls(
            [Batch(**batch) for batch in performance["batches"]], [DeviceRun(**run) for run in performance["runs"]]
        )


@dataclass
class Tally:
    """`database` is the store as `database_of` names it; `records` are by run id, all others by device."""

    database: str
    records: dict[str, Record] = field(default_factory=dict)
    gpu_stats: dict[str, DeviceStats] = field(default_factory=dict)
    performance_history: dict[str, DevicePerformance] = field(default_factory=dict)
    error_patterns: ErrorPatterns = field(default_factory=ErrorPatterns)

    def take_in(self, runs: Path) -> None:
        """What the records of all runs, `runs/<run id>/progress.jsonl`, say since they were last taken in; a line that
        is not whole or not sound is passed over. Of records that are gone, what they said is kept."""
        paths = {writable(path.parent.name): path for path in sorted(runs.glob("*/progress.jsonl"))}
        self.records = {run_id: self.records.get(run_id, Record()) for run_id in paths}
        for run_id, path in paths.items():
            for line in _new_lines(path, self.records[run_id]):
                with contextlib.suppress(ValueError, RecursionError):
                    self._apply(event_of(line), run_id)
            for performance in self.performance_history.values():
                performance.forget_old()

    def _apply(self, line: Mapping[str, Any], run_id: str) -> None:
        """Takes one event in."""
        record, event = self.records[run_id], line["event"]
        if event == "run_started":
            record.counted = database_of(line["store"]) == self.database
            if record.counted and not record.began:
                record.began = as_iso(line["time"])
        elif not record.counted:
            return
        elif event == "batch":
            batch, device = Batch.of_event(line), writable(line["device"])
            self._stats(device).add(batch)
            self.performance_history.setdefault(device, DevicePerformance()).add(batch, run_id, record.began)
        elif event == "devices_found":
            for facts in line["devices"]:
                self._stats(writable(facts["name"])).find(writable(facts.get("product", "")), as_iso(line["time"]))
        elif event == "device_incident":
            device, what = writable(line["device"]), writable(line["what"])
            if kind := kind_of_incident(what):
                self.error_patterns.meet(f"{what}: {line['detail']}", kind, line["time"], device)
            self._stats(device).incidents[what] += 1
        elif event == "paper_failed":
            self.error_patterns.meet(line["reason"], Kind.DATA, line["time"], line["shard"])
        elif event == "error":
            self.error_patterns.meet(line["message"], Kind(line["kind"]), line["time"], line["shard"])

    def _stats(self, device: str) -> DeviceStats:
        return self.gpu_stats.setdefault(device, DeviceStats())


def database_of(store_url: str) -> str:
    """A store as it is named to people: without a password, which may change while the database stays."""
    return writable(masked(store_url))


def _new_lines(path: Path, record: Record) -> Iterator[bytes]:
    """The whole lines that were added; half a last one is left for the next time."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        # A machine that lost its power may have lost the end of a record, too.
        record.bytes = min(record.bytes, path.stat().st_size)
        file.seek(record.bytes)
        for line in file:
            if line.endswith(b"\n"):
                record.bytes += len(line)
                yield line


def _sum(seconds: float, more: float) -> float:
    """Of durations in whole microseconds, so that the order of adding does not show."""
    return round(seconds + more, 6)
