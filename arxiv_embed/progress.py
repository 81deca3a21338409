"""Progress: the state of a run, which its events add up to."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from arxiv_embed.error_patterns import ErrorPattern, ErrorPatterns, kind_of_incident
from arxiv_embed.errors import Kind
from arxiv_embed.events import NOT_PACKED
from arxiv_embed.processes import ProcessId

FEW = 3
"""An error is told each time until it has been met so often."""

RATE_SECONDS = 30.0
"""A device's present speed is taken over this long."""


@dataclass
class DeviceProgress:
    papers: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0
    busy_seconds: float = 0.0
    """How long it computed."""
    longest_batch: float = 0.0
    """Seconds."""
    predicted_memory: int = 0
    measured_memory: int = 0
    """Of the last batch, in bytes."""
    peak_memory: int = 0
    health: dict[str, Any] = field(default_factory=dict)
    """As it was last reported: the fields of `gpu.health.DeviceHealth`."""
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
    space: str = ""
    """Its fingerprint."""
    store: str = ""
    dtype: str = ""
    shards: int = 0
    shards_done: int = 0
    unchanged: int = 0
    papers: int = 0
    """How many the run has to embed: estimated, then counted shard by shard."""
    papers_done: int = 0
    papers_reused: int = 0
    """Those of them that had vectors of their very text already, and took no time of a device."""
    reused_from_checkpoints: int = 0
    reused_from_store: int = 0
    reused_same_text: int = 0
    """Of those: as `ShardEmbedded` tells them apart; the others are from their shard's own last checkpoint."""
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
    held: tuple[int, int] | None = None
    """Papers and rows that the store holds of the space, when its indexes were brought up to date."""
    waiting: int = 0
    """Papers that waited tokenized when that was last told."""
    reports: int = 0
    """How often the devices' health was reported, and how late the last report was, in seconds."""
    late: float = 0.0
    cpu: float | None = None
    memory: int | None = None
    """Of the process that has the pool: the share of one core, and bytes."""
    facts: list[dict[str, Any]] = field(default_factory=list)
    """What is known of each device, once the run has taken them (`DevicesFound`)."""
    _embedded_before: int = 0
    _tokens_before: int = 0
    _waiting: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Papers and tokens that shards under way have still to embed, by an estimate."""
    _estimated: tuple[int, int] = (0, 0)
    """All papers that there were estimates of, and the estimates."""
    _estimates: dict[str, int] = field(default_factory=dict)
    _read: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _done_in: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return sum(device.tokens for device in self.devices.values())

    @property
    def papers_embedded(self) -> int:
        """By the devices, in this run."""
        return sum(device.papers for device in self.devices.values())

    def seconds_left(self, now: float) -> float | None:
        """From what was done since the devices were ready, in tokens where these were estimated, as the longest papers
        go first, otherwise in papers; None while that says nothing."""
        worked = now - self.ready
        embedded = self.papers_embedded - self._embedded_before
        if not self.ready or embedded == 0 or worked < 3:
            return None
        left = max(0, self.papers - self.papers_done)
        papers, tokens = self._estimated
        if not papers:
            return left * worked / embedded
        others = max(0, left - sum(waiting for waiting, _ in self._waiting.values()))
        tokens_left = sum(max(0, expected) for _, expected in self._waiting.values()) + others * tokens / papers
        return tokens_left * worked / (self.tokens - self._tokens_before)

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
        self.space = line["space"]
        self.shards, self.unchanged, self.papers = len(line["shards"]), line["unchanged"], line["papers"]
        self.devices = {name: DeviceProgress() for name in line["devices"]}
        process = line.get("process")
        self.process = ProcessId(process["host"], process["pid"], process["started"]) if process else None

    def _on_devices_found(self, line: Mapping[str, Any]) -> None:
        self.facts = line["devices"]

    def _on_metrics_served(self, line: Mapping[str, Any]) -> None:
        self.notices.append(f"metrics are served at {line['url']}")

    def _on_pool_ready(self, line: Mapping[str, Any]) -> None:
        self.ready, self.dtype = line["time"], line["dtype"]
        notice = f"{self.model}: {NOT_PACKED}"
        if not line.get("packed", True) and notice not in self.notices:  # a pool that is started anew is no news
            self.notices.append(notice)
        self._embedded_before = self.papers_embedded
        self._tokens_before = self.tokens
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
        before = self._read.get(line["shard"], {})  # a shard that is tried again is read again
        self.rejects += line["rejects"] - before.get("rejects", 0)
        self.duplicates += line["duplicates"] - before.get("duplicates", 0)
        self.withdrawn += line["withdrawn"] - before.get("withdrawn", 0)
        self.urgent += line.get("urgent", 0) - before.get("urgent", 0)
        self._read[line["shard"]] = line

    def _on_texts_waiting(self, line: Mapping[str, Any]) -> None:
        self._waiting[line["shard"]] = line["papers"], line["tokens"]
        self._estimated = self._estimated[0] + line["papers"], self._estimated[1] + line["tokens"]

    def _on_batch(self, line: Mapping[str, Any]) -> None:
        self.shard = line["shard"]
        device = self.devices.setdefault(line["device"], DeviceProgress())
        device.papers += line["papers"]
        device.tokens += line["tokens"]
        device.padded_tokens += line["padded_tokens"]
        device.batches += 1
        device.busy_seconds += line["seconds"]
        device.longest_batch = max(device.longest_batch, line["seconds"])
        device.predicted_memory, device.measured_memory = line.get("predicted_memory", 0), line["peak_memory"]
        device.peak_memory = max(device.peak_memory, line["peak_memory"])
        self.waiting = line.get("waiting", 0)
        device.recent.append((line["time"], line["papers"], line["tokens"]))
        self.papers_done += line["papers"]
        self._done_in[line["shard"]] = self._done_in.get(line["shard"], 0) + line["papers"]
        if waiting := self._waiting.get(line["shard"]):
            self._waiting[line["shard"]] = waiting[0] - line["papers"], waiting[1] - line["tokens"]

    def _on_health(self, line: Mapping[str, Any]) -> None:
        self.reports, self.late, self.waiting = line["number"], line["late"], line["waiting"]
        self.cpu, self.memory = line["cpu"], line["memory"]
        for health in line["devices"]:
            self.devices.setdefault(health["device"], DeviceProgress()).health = health

    def _on_device_incident(self, line: Mapping[str, Any]) -> None:
        device = self.devices.setdefault(line["device"], DeviceProgress())
        device.incidents[line["what"]] += 1
        if line["what"] in ("lost", "hung", "restarted", "retired", "paused"):
            device.trouble = f"{line['what']}: {line['detail']}"
        elif line["what"] == "back" or (line["what"] == "cool again" and device.trouble.startswith("paused: ")):
            device.trouble = ""
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
        self._waiting.pop(line["shard"], None)
        self._done_in[line["shard"]] = line["papers"] + line.get("failed", 0)
        self.papers_done += line["papers"] + line.get("failed", 0) - embedded
        self.papers_reused += line["papers"] - embedded
        self.reused_from_checkpoints += line.get("from_checkpoints", 0)
        self.reused_from_store += line.get("from_store", 0)
        self.reused_same_text += line.get("same_text", 0)
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
        self._waiting.pop(line["shard"], None)

    def _on_store_finished(self, line: Mapping[str, Any]) -> None:
        self.held = line["papers"], line["rows"]

    def _on_run_finished(self, line: Mapping[str, Any]) -> None:
        self.state, self.error = line["state"], line["error"]
