"""A timeline: what a run's record says happened when, beside the figures that it adds up to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metrics import RunMetrics, metrics_of
from arxiv_embed.progress import RunProgress
from arxiv_embed.record import ProgressReader
from arxiv_embed.runs import look_at

RUNNING = ("starting", "running")


@dataclass(frozen=True)
class DoneBatch:
    """`time` is when it was done, in seconds since the epoch; the others as in `events.BatchDone`."""

    time: float
    device: str
    papers: int
    tokens: int
    padded_tokens: int
    seconds: float
    predicted_memory: int
    peak_memory: int
    longest: int
    waiting: int


@dataclass(frozen=True)
class Health:
    """One report; `devices` are the fields of `gpu.health.DeviceHealth` by the device's name."""

    time: float
    late: float
    devices: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Trouble:
    """An incident of a device."""

    time: float
    shard: str
    device: str
    what: str
    detail: str


@dataclass
class ShardLine:
    """A shard of the run; `state` is waiting, read, embedded, stored, failed, given up or left."""

    shard: str
    state: str = "waiting"
    papers: int = 0
    reused: int = 0
    failed: int = 0
    rejects: int = 0
    tokens: int = 0
    rows: int = 0
    seconds: float = 0.0
    """Of all its steps."""
    why: str = ""


@dataclass
class Timeline:
    """Times in seconds since the epoch. A step that was tried again in a new process went on in the same record:
    `attempts` counts them, and all else is of the last one."""

    progress: RunProgress = field(default_factory=RunProgress)
    metrics: RunMetrics = field(default_factory=lambda: metrics_of(RunProgress(), 0.0))
    now: float = 0.0
    attempts: int = 0
    batches: list[DoneBatch] = field(default_factory=list)
    reports: list[Health] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    shards: dict[str, ShardLine] = field(default_factory=dict)
    reject_reasons: Counter[str] = field(default_factory=Counter)
    """Of rejects, where they could be looked up (`rejects.py`): the record has their number only."""

    @property
    def end(self) -> float:
        return self.now if self.progress.state in RUNNING else self.progress.updated

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.progress.started) if self.progress.started else 0.0

    @property
    def devices(self) -> list[str]:
        return list(self.progress.devices)

    def of(self, device: str) -> list[DoneBatch]:
        return [batch for batch in self.batches if batch.device == device]

    def health_of(self, device: str) -> list[tuple[float, Mapping[str, Any]]]:
        """(time, fields) of each report that tells of it."""
        return [(report.time, report.devices[device]) for report in self.reports if device in report.devices]

    def shard(self, key: str) -> ShardLine:
        return self.shards.setdefault(key, ShardLine(key))

    def take(self, line: Mapping[str, Any]) -> None:
        """Takes one event in."""
        take = getattr(self, f"_on_{line['event']}", None)
        if take is not None:
            take(line)

    def _on_run_started(self, line: Mapping[str, Any]) -> None:
        vars(self).update({**vars(Timeline()), "attempts": self.attempts + 1})
        for key in line["shards"]:
            self.shard(key)

    def _on_papers_read(self, line: Mapping[str, Any]) -> None:
        shard = self.shard(line["shard"])
        shard.state, shard.papers, shard.rejects = "read", line["papers"], line["rejects"]
        shard.seconds += line["seconds"]

    def _on_batch(self, line: Mapping[str, Any]) -> None:
        self.batches.append(
            DoneBatch(
                line["time"],
                line["device"],
                line["papers"],
                line["tokens"],
                line["padded_tokens"],
                line["seconds"],
                line["predicted_memory"],
                line["peak_memory"],
                line.get("longest", 0),
                line.get("waiting", 0),
            )
        )

    def _on_health(self, line: Mapping[str, Any]) -> None:
        devices = {device["device"]: device for device in line["devices"]}
        self.reports.append(Health(line["time"], line["late"], devices))

    def _on_device_incident(self, line: Mapping[str, Any]) -> None:
        self.troubles.append(Trouble(line["time"], line["shard"], line["device"], line["what"], line["detail"]))

    def _on_shard_embedded(self, line: Mapping[str, Any]) -> None:
        shard = self.shard(line["shard"])
        shard.state, shard.papers, shard.reused = "embedded", line["papers"], line["resumed"]
        shard.failed, shard.tokens = line.get("failed", 0), line["tokens"]
        shard.seconds += line["seconds"]

    def _on_shard_stored(self, line: Mapping[str, Any]) -> None:
        shard = self.shard(line["shard"])
        shard.state, shard.rows, shard.why = "stored", line["rows"], ""
        shard.seconds += line["seconds"]

    def _on_shard_failed(self, line: Mapping[str, Any]) -> None:
        shard = self.shard(line["shard"])
        shard.state, shard.why = "failed", line["error"]

    def _on_shard_left(self, line: Mapping[str, Any]) -> None:
        shard = self.shard(line["shard"])
        shard.state, shard.why = "left", f"{line['holder']} is at work on it"

    def _on_shard_given_up(self, line: Mapping[str, Any]) -> None:
        shard = self.shard(line["shard"])
        shard.state, shard.why = "given up", f"{line['error']} (tried {line['attempts']} times)"


def read_timeline(record: Path) -> Timeline:
    """The timeline of a run as it stands now; one whose process is gone without a word is "killed". Raises
    `ArxivEmbedError` for a record that does not say that a run began."""
    timeline = Timeline()
    progress = look_at(record, ProgressReader(record, also=timeline.take))
    if not progress.started and not progress.error:
        raise ArxivEmbedError(f"Run {record.parent.name} had not begun: its record, {record}, says nothing yet.")
    timeline.progress, timeline.now = progress, time.time()
    timeline.metrics = metrics_of(progress, timeline.now)
    return timeline
