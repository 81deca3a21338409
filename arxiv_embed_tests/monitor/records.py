"""Records of runs as a test wants them: devices at work for a while, their health, what goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from arxiv_embed.events import (
    BatchDone,
    DeviceIncident,
    DevicesFound,
    ErrorMet,
    Event,
    HealthReported,
    PaperFailed,
    PapersRead,
    PoolReady,
    RunStarted,
    SegmentSaved,
    ShardEmbedded,
    ShardFailed,
    ShardStarted,
    ShardStored,
    TextsWaiting,
)
from arxiv_embed.gpu.health import Action, DeviceHealth, Verdict

BEGAN = 1_790_000_000.0
GB = 10**9
Timed = tuple[float, Event]


def write(path: Path, events: Iterable[Timed]) -> Path:
    """Appends to a run's record, at times of the test's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for time, event in events:
            line: dict[str, Any] = {"time": round(time, 3), "event": event.name, **asdict(event)}
            file.write(json.dumps(line) + "\n")
    return path


def started(shards: Iterable[str], papers: int, devices: Iterable[str], run_id: str = "5f2c9a1e") -> RunStarted:
    return RunStarted(
        run_id=run_id,
        metadata_dir="/data/arxiv",
        shards=list(shards),
        papers=papers,
        unchanged=0,
        model="all-MiniLM-L6-v2",
        space="c6a2",
        devices=list(devices),
        store="/data/home/stores/papers",
    )


def batch(shard: str, device: str, papers: int, seconds: float = 0.5, waiting: int = 900) -> BatchDone:
    return BatchDone(shard, device, papers, 210 * papers, 215 * papers, seconds, 9 * GB, 8 * GB, 1, 512, waiting)


def embedded(shard: str, papers: int, resumed: int = 0) -> ShardEmbedded:
    return ShardEmbedded(shard, papers, resumed, 3 * papers, 210 * papers, 0, 0, 9, 0, 0, 60.0, 0, resumed, 0, 0)


def health(device: str, verdict: Verdict = Verdict.OK, **told: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "memory_used": 92 * GB,
        "memory_total": 150 * GB,
        "memory_allocated": 84 * GB,
        "memory_target": 112 * GB,
        "memory_critical": 138 * GB,
        "utilization": 0.97,
        "temperature": 64.0,
        "power": 512.0,
        "power_limit": 700.0,
        "clock": 1980,
        "clock_limit": 1980,
        "queue": 2,
        "computing": 0.3,
        "expected": 0.5,
    }
    return asdict(DeviceHealth(device, verdict, **{**known, **told}))


def eventful(devices: int = 4, minutes: int = 20) -> list[Timed]:
    """A run under way on GPUs, one of them hot and one short of memory, with failures and a shard that failed."""
    names = [f"cuda:{number}" for number in range(devices)]
    shards = [f"month:{year:02d}{month:02d}" for year in range(19, 26) for month in range(1, 13)]
    reached = 5 * len(shards) // 8
    each = 60 * minutes / reached
    done = [(BEGAN, started(shards, 2_000 * len(shards), names))]
    events: list[Timed] = [*done]
    facts = [{"name": name, "kind": "cuda", "product": "NVIDIA H200", "power_limit": 700.0} for name in names]
    events += [(BEGAN + 2, DevicesFound(facts)), (BEGAN + 12, PoolReady("bfloat16", 9.0))]
    for number, shard in enumerate(shards[:reached]):
        at = BEGAN + 12 + number * each
        is_last = number == reached - 1
        events += [(at, ShardStarted(shard, 2_000)), (at, PapersRead(shard, 2_000, number % 3, 1, 2, 0.4))]
        events += [(at, TextsWaiting(shard, 1_700, 360_000))]
        for place, device in enumerate(names):
            count = 1_700 // devices
            for part in range(4):
                slower = 0.55 if place == 1 and number > reached // 2 else 1.0
                pace = slower * (0.85 + 0.15 * math.sin(number / 3 + place))
                papers = int(count / 4 * pace)
                end = at + each * (part + 1) / 4
                if is_last and part > 1:
                    continue
                events.append((end, batch(shard, device, papers, each / 4 * 0.96)))
        events.append((at + each / 2, SegmentSaved(shard, 850)))
        if number == 7:
            events.append((at + each, ShardFailed(shard, "The store does not answer: connection refused.")))
        elif not is_last:
            events.append((at + each, embedded(shard, 2_000, 300)))
            events.append((at + each, ShardStored(shard, 6_000, 6_000, 0, 0.2)))
    end = events[-1][0]
    for number in range(7):
        paper = f"2301.{number:05d}"
        events.append((end - 90 + number, PaperFailed(shards[9], paper, f"{paper}: the text is empty after folding")))
    events += [
        (end - 60, DeviceIncident(shards[9], names[-1], "out of memory", "412 papers of 90,112 tokens")),
        (end - 30, DeviceIncident(shards[9], names[-1], "out of memory", "398 papers of 88,064 tokens")),
        (end - 40, ErrorMet(shards[7], "transient", "The store does not answer: connection refused", "tried again")),
    ]
    reports = [health(name) for name in names]
    reports[1:2] = [
        health(
            name,
            Verdict.HOT,
            reasons=["91 °C, above 87 °C"],
            action=Action.PAUSE,
            temperature=91.0,
            clock=1_410,
            throttled_by=["thermal slowdown"],
        )
        for name in names[1:2]
    ]
    if devices > 2:
        reports[-1] = health(
            names[-1],
            Verdict.MEMORY_CRITICAL,
            reasons=["140 of 150 GB in use, above 138 GB"],
            action=Action.SHRINK,
            memory_used=140 * GB,
            memory_allocated=96 * GB,
        )
    events.append((end, HealthReported(40, 0.1, 912, 1.4, 3 * GB, reports)))
    return events
