"""Metrics: the figures of a run, made from its progress; every display, report and endpoint reads these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arxiv_embed.progress import DeviceProgress, RunProgress

RETRIED = ("failed", "lost", "hung", "restarted", "out of memory")
"""Incidents after which a batch is tried again, whole or in halves."""


@dataclass(frozen=True)
class DeviceMetrics:
    """One device: rates of the last `progress.RATE_SECONDS` in papers/s and tokens/s, durations in seconds, memory in
    bytes, shares of 1. `computing` is of the time since the devices were ready; `padding` of the tokens computed.
    `health` is the last report's (the fields of `gpu.health.DeviceHealth`), {} before there is one."""

    device: str
    product: str
    papers: int
    tokens: int
    papers_per_second: float
    tokens_per_second: float
    batches: int
    batch_seconds: float
    longest_batch_seconds: float
    busy_seconds: float
    computing: float
    padding: float
    predicted_memory: int
    measured_memory: int
    peak_memory: int
    out_of_memory: int
    retries: int
    incidents: Mapping[str, int]
    trouble: str
    health: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """Errors of one pattern; `last` is when it was met last (UTC, ISO 8601)."""

    pattern: str
    kind: str
    count: int
    last: str
    example: str


@dataclass(frozen=True)
class RunMetrics:
    """A run; units as in `DeviceMetrics`, times since the epoch. `balance` is how long the busiest device computed over
    the mean of all (1: all alike), `waiting` how many papers wait tokenized, `reused` the papers by where their vectors
    were. `cpu` and `memory` are of the process that has the pool, `report` counts the reports of health."""

    run_id: str
    state: str
    error: str
    metadata_dir: str
    model: str
    dtype: str
    store: str
    started: float
    updated: float
    elapsed_seconds: float
    seconds_left: float | None
    shard: str
    shards: int
    shards_done: int
    shards_failed: int
    papers: int
    papers_done: int
    papers_embedded: int
    papers_reused: int
    reused: Mapping[str, int]
    papers_failed: int
    rejects: int
    duplicates: int
    rows: int
    tokens: int
    papers_per_second: float
    tokens_per_second: float
    padding: float
    balance: float | None
    waiting: int
    retries: int
    out_of_memory: int
    cpu: float | None
    memory: int | None
    report: int
    report_late: float
    devices: Sequence[DeviceMetrics]
    failures: Sequence[Failure]
    notices: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def metrics_of(progress: RunProgress, now: float) -> RunMetrics:
    """The figures of a run as they are `now`; of one that has ended, as they were then."""
    running = progress.state in ("starting", "running")
    now = now if running else progress.updated
    devices = [_of_device(name, device, progress, now) for name, device in progress.devices.items()]
    busy = [device.busy_seconds for device in devices]
    computed = sum(device.padded_tokens for device in progress.devices.values())
    return RunMetrics(
        run_id=progress.run_id,
        state=progress.state,
        error=progress.error,
        metadata_dir=progress.metadata_dir,
        model=progress.model,
        dtype=progress.dtype,
        store=progress.store,
        started=progress.started,
        updated=progress.updated,
        elapsed_seconds=max(0.0, now - progress.started) if progress.started else 0.0,
        seconds_left=progress.seconds_left(now) if running else None,
        shard=progress.shard,
        shards=progress.shards,
        shards_done=progress.shards_done,
        shards_failed=len(progress.failed),
        papers=progress.papers,
        papers_done=progress.papers_done,
        papers_embedded=progress.papers_embedded,
        papers_reused=progress.papers_reused,
        reused={
            "checkpoints": progress.reused_from_checkpoints,
            "store": progress.reused_from_store,
            "same text": progress.reused_same_text,
            "own shard": progress.papers_reused
            - progress.reused_from_checkpoints
            - progress.reused_from_store
            - progress.reused_same_text,
        },
        papers_failed=len(progress.failed_papers),
        rejects=progress.rejects,
        duplicates=progress.duplicates,
        rows=progress.rows,
        tokens=progress.tokens,
        papers_per_second=sum(device.papers_per_second for device in devices),
        tokens_per_second=sum(device.tokens_per_second for device in devices),
        padding=1 - progress.tokens / computed if computed else 0.0,
        balance=max(busy) * len(busy) / sum(busy) if sum(busy) else None,
        waiting=progress.waiting,
        retries=sum(device.retries for device in devices),
        out_of_memory=sum(device.out_of_memory for device in devices),
        cpu=progress.cpu,
        memory=progress.memory,
        report=progress.reports,
        report_late=progress.late,
        devices=devices,
        failures=[
            Failure(pattern.signature, str(pattern.kind), pattern.count, pattern.last, pattern.example)
            for pattern in progress.errors.patterns()
        ],
        notices=list(progress.notices),
    )


def _of_device(name: str, device: DeviceProgress, progress: RunProgress, now: float) -> DeviceMetrics:
    papers, tokens = device.rates(now, progress.ready) if progress.ready else (0.0, 0.0)
    since_ready = max(now - progress.ready, device.busy_seconds) if progress.ready else 0.0
    product = next((facts.get("product", "") for facts in progress.facts if facts.get("name") == name), "")
    return DeviceMetrics(
        device=name,
        product=product,
        papers=device.papers,
        tokens=device.tokens,
        papers_per_second=papers,
        tokens_per_second=tokens,
        batches=device.batches,
        batch_seconds=device.busy_seconds / device.batches if device.batches else 0.0,
        longest_batch_seconds=device.longest_batch,
        busy_seconds=device.busy_seconds,
        computing=device.busy_seconds / since_ready if since_ready else 0.0,
        padding=1 - device.tokens / device.padded_tokens if device.padded_tokens else 0.0,
        predicted_memory=device.predicted_memory,
        measured_memory=device.measured_memory,
        peak_memory=device.peak_memory,
        out_of_memory=device.incidents["out of memory"],
        retries=sum(device.incidents[what] for what in RETRIED),
        incidents=dict(device.incidents),
        trouble=device.trouble,
        health=device.health,
    )
