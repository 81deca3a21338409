"""Progress: the one record of a run, written by the process that does the work and read by every display.

A run's record is a file of JSON lines, `<home>/runs/<run id>/progress.jsonl`: one event a line, with its time and name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from arxiv_embed.error_patterns import ErrorPattern, ErrorPatterns, kind_of_incident
from arxiv_embed.errors import Kind
from arxiv_embed.processes import ProcessId
from arxiv_embed.settings import Settings

LONGEST_LAST_LINE = 16_384
"""Bytes; an error's message is cut long before."""

FEW = 3
"""An error is told each time until it has been met so often."""

RATE_SECONDS = 30.0
"""A device's present speed is taken over this long."""


@dataclass(frozen=True)
class Event:
    """What happened; a subclass's fields are what is written."""

    name: ClassVar[str]


@dataclass(frozen=True)
class RunStarted(Event):
    """`shards` are the keys with work to do, `papers` an estimate of theirs, `unchanged` how many need nothing;
    `process` is the fields of the `ProcessId` whose end is the run's."""

    name = "run_started"
    run_id: str
    metadata_dir: str
    shards: Sequence[str]
    papers: int
    unchanged: int
    model: str
    space: str
    devices: Sequence[str]
    store: str
    process: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DevicesFound(Event):
    """The devices that the run has taken for itself: the fields of `DeviceFacts` of each."""

    name = "devices_found"
    devices: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PoolReady(Event):
    name = "pool_ready"
    dtype: str
    seconds: float


@dataclass(frozen=True)
class ShardStarted(Event):
    """`records` is the estimate that the run's `papers` counted for this shard."""

    name = "shard_started"
    shard: str
    records: int


@dataclass(frozen=True)
class PapersRead(Event):
    name = "papers_read"
    shard: str
    papers: int
    rejects: int
    duplicates: int
    withdrawn: int
    seconds: float
    urgent: int = 0
    """Papers that `--priority` marks."""


@dataclass(frozen=True)
class BatchDone(Event):
    """`tokens` are real ones; `padded_tokens` are what was computed; bytes that the device's worker held at most, as
    predicted and as measured."""

    name = "batch"
    shard: str
    device: str
    papers: int
    tokens: int
    padded_tokens: int
    seconds: float
    predicted_memory: int
    peak_memory: int


@dataclass(frozen=True)
class DeviceIncident(Event):
    """Something went wrong on a device, or came right again (`gpu.outcomes.Incident`)."""

    name = "device_incident"
    shard: str
    device: str
    what: str
    detail: str


@dataclass(frozen=True)
class PaperFailed(Event):
    """No device could embed the paper; the others of its shard are not touched by that."""

    name = "paper_failed"
    shard: str
    paper_id: str
    reason: str


@dataclass(frozen=True)
class SegmentSaved(Event):
    name = "segment"
    shard: str
    papers: int


@dataclass(frozen=True)
class ShardEmbedded(Event):
    """`resumed` papers had vectors of their very text already and took no time of a device; `tokens` counts all
    papers', `embedded_tokens` those done in `seconds`, `padded_tokens` what was computed for them. `cut_tokens` lay
    beyond the token limit, in `cut_papers` papers; `long_papers` have their own vector from their first tokens only
    (`Space.paper_tokens`)."""

    name = "shard_embedded"
    shard: str
    papers: int
    resumed: int
    chunks: int
    tokens: int
    embedded_tokens: int
    padded_tokens: int
    long_papers: int
    cut_papers: int
    cut_tokens: int
    seconds: float
    failed: int = 0


@dataclass(frozen=True)
class ShardStored(Event):
    """`skipped_papers` are held by the store in a newer record, from another shard."""

    name = "shard_stored"
    shard: str
    rows: int
    skipped_papers: int
    seconds: float


@dataclass(frozen=True)
class ShardFailed(Event):
    name = "shard_failed"
    shard: str
    error: str


@dataclass(frozen=True)
class ErrorMet(Event):
    """Something went wrong with a shard, or around it; `kind` is an `errors.Kind`, `action` what is done about it.
    What a device met stands in `DeviceIncident`, a paper's failure in `PaperFailed`."""

    name = "error"
    shard: str
    kind: str
    message: str
    action: str


@dataclass(frozen=True)
class DamageFound(Event):
    """A file of a checkpoint did not verify (`checkpoint.quarantine.Damage`)."""

    name = "damage"
    checkpoint: str
    file: str
    reason: str
    remedy: str
    place: str


@dataclass(frozen=True)
class ShardLeft(Event):
    """Another process is at work on the shard; this run leaves it to that."""

    name = "shard_left"
    shard: str
    holder: str


@dataclass(frozen=True)
class ShardGivenUp(Event):
    """The shard has failed so often before that this run does not try it."""

    name = "shard_given_up"
    shard: str
    attempts: int
    error: str


@dataclass(frozen=True)
class RunFinished(Event):
    """`state` is done, failed, unfinished (others are at work on some shards), interrupted or, as whoever came after
    it found out, killed."""

    name = "run_finished"
    state: str
    error: str
    seconds: float


def progress_path(settings: Settings, run_id: str) -> Path:
    return settings.runs / run_id / "progress.jsonl"


class ProgressWriter:
    """A context manager that appends events, each by one write of one whole line; the record is locked meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._is_torn = False

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # an attempt that was killed left half a line
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, event: Event) -> None:
        line = {"time": round(time.time(), 3), "event": event.name, **asdict(event)}
        content = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        if self._is_torn:
            content = b"\n" + content
        self._is_torn = True
        if os.write(self._descriptor, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._is_torn = False


def has_ended(path: Path) -> bool:
    """Whether the last whole line of a run's record says that the run is over."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST_LAST_LINE))
        lines = file.read().split(b"\n")
    return len(lines) > 1 and b'"event":"run_finished"' in lines[-2]


def is_being_written(path: Path) -> bool:
    """Whether the process that writes a run's record still lives: its lock dies with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@dataclass
class DeviceProgress:
    papers: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    peak_memory: int = 0
    incidents: Counter[str] = field(default_factory=Counter)
    """How often what went wrong."""
    trouble: str = ""
    """What keeps it from working at present."""
    recent: deque[tuple[float, int, int]] = field(default_factory=deque)
    """(time, papers, tokens) of the batches of the last `RATE_SECONDS`."""

    def rates(self, now: float, since: float) -> tuple[float, float]:
        """Papers/s and tokens/s at present; `since` is when the device could begin."""
        while self.recent and self.recent[0][0] < now - RATE_SECONDS:
            self.recent.popleft()
        seconds = max(now - max(since, now - RATE_SECONDS), 0.1)
        return sum(b[1] for b in self.recent) / seconds, sum(b[2] for b in self.recent) / seconds


@dataclass
class RunProgress:
    """The state that a run's events add up to; rates in papers/s and tokens/s, times in seconds since the epoch."""

    run_id: str = ""
    state: str = "starting"
    error: str = ""
    started: float = 0.0
    ready: float = 0.0
    updated: float = 0.0
    metadata_dir: str = ""
    model: str = ""
    store: str = ""
    dtype: str = ""
    shards: int = 0
    shards_done: int = 0
    unchanged: int = 0
    papers: int = 0
    """How many the run has to embed: estimated, then counted shard by shard."""
    papers_done: int = 0
    papers_reused: int = 0
    """Those of them that had vectors of their very text already."""
    embedding_seconds: float = 0.0
    """Seconds that the devices were at work, not counting their start."""
    rejects: int = 0
    duplicates: int = 0
    withdrawn: int = 0
    urgent: int = 0
    """Papers that `--priority` marks."""
    long_papers: int = 0
    cut_papers: int = 0
    cut_tokens: int = 0
    rows: int = 0
    skipped_papers: int = 0
    """Papers that the store holds in a newer record, from another shard."""
    shard: str = ""
    """The shard last begun or gone on with."""
    failed: dict[str, str] = field(default_factory=dict)
    failed_papers: dict[str, str] = field(default_factory=dict)
    """Why no device could embed them, by id."""
    given_up: dict[str, str] = field(default_factory=dict)
    """Shards that were not tried again, and why."""
    left: dict[str, str] = field(default_factory=dict)
    """Shards that another process is at work on, and which."""
    damages: list[str] = field(default_factory=list)
    """What did not verify, and what was done about it."""
    errors: ErrorPatterns = field(default_factory=ErrorPatterns)
    """Everything that went wrong, folded by what it has in common."""
    notices: list[str] = field(default_factory=list)
    """What whoever watches should read as it happens; an error that repeats only now and then."""
    process: ProcessId | None = None
    """Whose end is the run's."""
    devices: dict[str, DeviceProgress] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    """What is known of each device, once the run has taken them (`DevicesFound`)."""
    _embedded_before: int = 0
    _estimates: dict[str, int] = field(default_factory=dict)
    _done_in: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(device.tokens for device in self.devices.values())

    def seconds_left(self, now: float) -> float | None:
        """From the papers done since the devices were ready; None while that says nothing."""
        worked = now - self.ready
        embedded = sum(device.papers for device in self.devices.values()) - self._embedded_before
        if not self.ready or embedded == 0 or worked < 3:
            return None
        return max(0, self.papers - self.papers_done) * worked / embedded

    def apply(self, line: Mapping[str, Any]) -> None:
        """Takes one event in."""
        take = getattr(self, f"_on_{line['event']}", None)
        if take is not None:
            take(line)
        self.updated = line["time"]

    def _on_run_started(self, line: Mapping[str, Any]) -> None:
        # A retry goes on in the same record, and counts what remained; what was to be read is still to be read.
        vars(self).update({**vars(RunProgress()), "notices": self.notices})
        self.run_id, self.state, self.started = line["run_id"], "running", line["time"]
        self.metadata_dir, self.model, self.store = line["metadata_dir"], line["model"], line["store"]
        self.shards, self.unchanged, self.papers = len(line["shards"]), line["unchanged"], line["papers"]
        self.devices = {name: DeviceProgress() for name in line["devices"]}
        self.process = ProcessId(**line["process"]) if line.get("process") else None

    def _on_devices_found(self, line: Mapping[str, Any]) -> None:
        self.facts = line["devices"]

    def _on_pool_ready(self, line: Mapping[str, Any]) -> None:
        self.ready, self.dtype = line["time"], line["dtype"]
        self._embedded_before = sum(device.papers for device in self.devices.values())
        for device in self.devices.values():
            device.recent.clear()  # a pool that was started anew has a speed of its own

    def _on_shard_started(self, line: Mapping[str, Any]) -> None:
        self.shard = line["shard"]
        self.left.pop(line["shard"], None)
        self._estimates.setdefault(line["shard"], line["records"])

    def _on_papers_read(self, line: Mapping[str, Any]) -> None:
        estimate = self._estimates.get(line["shard"], line["papers"])
        self.papers += line["papers"] - estimate
        self._estimates[line["shard"]] = line["papers"]
        self.rejects += line["rejects"]
        self.duplicates += line["duplicates"]
        self.withdrawn += line["withdrawn"]
        self.urgent += line.get("urgent", 0)

    def _on_batch(self, line: Mapping[str, Any]) -> None:
        self.shard = line["shard"]
        device = self.devices.setdefault(line["device"], DeviceProgress())
        device.papers += line["papers"]
        device.tokens += line["tokens"]
        device.padded_tokens += line["padded_tokens"]
        device.peak_memory = max(device.peak_memory, line["peak_memory"])
        device.recent.append((line["time"], line["papers"], line["tokens"]))
        self.papers_done += line["papers"]
        self._done_in[line["shard"]] = self._done_in.get(line["shard"], 0) + line["papers"]

    def _on_device_incident(self, line: Mapping[str, Any]) -> None:
        device = self.devices.setdefault(line["device"], DeviceProgress())
        device.incidents[line["what"]] += 1
        if line["what"] in ("lost", "hung", "retired", "back"):
            device.trouble = "" if line["what"] == "back" else f"{line['what']}: {line['detail']}"
        if kind := kind_of_incident(line["what"]):
            self._meet(f"{line['what']}: {line['detail']}", kind, line, line["device"])

    def _on_paper_failed(self, line: Mapping[str, Any]) -> None:
        self.failed_papers[line["paper_id"]] = line["reason"]
        self._meet(line["reason"], Kind.DATA, line, line["shard"])

    def _on_error(self, line: Mapping[str, Any]) -> None:
        pattern = self._meet(line["message"], Kind(line["kind"]), line, line["shard"])
        if pattern.count < FEW:
            shard = f"{line['shard']}: " if line["shard"] else ""
            self.notices.append(f"{shard}{line['message']} ({line['kind']}: {line['action']})")

    def _meet(self, message: str, kind: Kind, line: Mapping[str, Any], where: str) -> ErrorPattern:
        pattern = self.errors.meet(message, kind, line["time"], where)
        if pattern.is_worth_telling:
            self.notices.append(f"{pattern.count} times: {pattern.signature} ({kind})")
        return pattern

    def _on_damage(self, line: Mapping[str, Any]) -> None:
        self.damages.append(f"{line['checkpoint']}: {line['file']}: {line['reason']}; {line['remedy']}")
        self.notices.append(f"damaged: {self.damages[-1]}")

    def _on_shard_left(self, line: Mapping[str, Any]) -> None:
        self.left[line["shard"]] = line["holder"]
        self.notices.append(f"{line['shard']} is worked on by {line['holder']}: others first")

    def _on_shard_given_up(self, line: Mapping[str, Any]) -> None:
        self.given_up[line["shard"]] = f"{line['error']} (tried {line['attempts']} times)"

    def _on_shard_embedded(self, line: Mapping[str, Any]) -> None:
        embedded = self._done_in.get(line["shard"], 0)
        self._done_in[line["shard"]] = line["papers"] + line.get("failed", 0)
        self.papers_done += line["papers"] + line.get("failed", 0) - embedded
        self.papers_reused += line["papers"] - embedded
        if embedded:
            self.embedding_seconds += line["seconds"]
        self.long_papers += line["long_papers"]
        self.cut_papers += line["cut_papers"]
        self.cut_tokens += line["cut_tokens"]

    def _on_shard_stored(self, line: Mapping[str, Any]) -> None:
        self.shards_done += 1
        self.rows += line["rows"]
        self.skipped_papers += line["skipped_papers"]
        self.failed.pop(line["shard"], None)

    def _on_shard_failed(self, line: Mapping[str, Any]) -> None:
        self.failed[line["shard"]] = line["error"]

    def _on_run_finished(self, line: Mapping[str, Any]) -> None:
        self.state, self.error = line["state"], line["error"]


class ProgressReader:
    """Follows a run's record as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.progress = RunProgress()

    def poll(self) -> RunProgress:
        """Takes in every whole line written since the last call; a record that is not there yet is an empty one, and
        a line that a killed writer has cut, or that has been damaged, is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return self.progress
        end = new.rfind(b"\n") + 1
        self._offset += end
        for line in new[:end].splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                self.progress.apply(json.loads(line))
        return self.progress
