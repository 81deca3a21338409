"""Records of runs that a test makes up: events at the times that it says, and whole runs that went this way or that."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

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
    RunFinished,
    RunStarted,
    SegmentSaved,
    ShardEmbedded,
    ShardFailed,
    ShardStarted,
    ShardStored,
    TextsWaiting,
)
from arxiv_embed.gpu.health import Action, DeviceHealth, Verdict
from arxiv_embed.gpu.inventory import DeviceFacts

BEGUN = 1_790_000_000.0
GB = 10**9

Timed = tuple[float, Event]
"""An event, and how many seconds after `BEGUN` it happened."""


def write(path: Path, events: Iterable[Timed]) -> Path:
    """Appends to a run's record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for time, event in events:
            line = {"time": round(BEGUN + time, 3), "event": event.name, **asdict(event)}
            file.write(json.dumps(line) + "\n")
    return path


def started(
    shards: Iterable[str] = ("a.jsonl",),
    papers: int = 100,
    devices: Iterable[str] = ("cuda:0", "cuda:1"),
    run_id: str = "5f2c9a1e",
) -> RunStarted:
    model, store = "bge-small-en-v1.5", "/data/home/stores/papers"
    return RunStarted(run_id, "/data/arxiv", [*shards], papers, 0, model, "c6a2", [*devices], store)


def batch(
    device: str = "cuda:0",
    papers: int = 10,
    seconds: float = 1.0,
    *,
    shard: str = "a.jsonl",
    padded: int | None = None,
    waiting: int = 50,
) -> BatchDone:
    """Of papers of a hundred tokens each, without padding where nothing is said of it."""
    tokens = 100 * papers
    padded = tokens if padded is None else padded
    return BatchDone(shard, device, papers, tokens, padded, seconds, 3 * GB, 3 * GB, 1, 200, waiting)


def embedded(
    shard: str, papers: int = 100, *, resumed: int = 0, seconds: float = 60.0, failed: int = 0
) -> ShardEmbedded:
    return ShardEmbedded(
        shard,
        papers,
        resumed,
        3 * papers,
        200 * papers,
        200 * papers,
        210 * papers,
        0,
        0,
        0,
        seconds,
        failed,
        from_checkpoints=resumed,
    )


def gpu(device: str, verdict: Verdict = Verdict.OK, **told: Any) -> DeviceHealth:
    """One that is told everything of, and well where nothing else is said."""
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
    return DeviceHealth(device, verdict, **{**known, **told})


def healthy(
    number: int, *devices: DeviceHealth, late: float = 0.0, waiting: int = 0, cpu: float = 0.4, memory: int = GB
) -> HealthReported:
    return HealthReported(number, late, waiting, cpu, memory, [asdict(device) for device in devices])


def plain_run(seconds: float = 100.0, *, devices: Iterable[str] = ("cuda:0", "cuda:1")) -> list[Timed]:
    """A run without anything to change: each device computes a batch a second, from the fourth second to the end."""
    devices = list(devices)
    events: list[Timed] = [
        (0.0, started(devices=devices)),
        (1.0, ShardStarted("a.jsonl", 100)),
        (2.0, PapersRead("a.jsonl", 100, 0, 0, 0, 0.5)),
        (3.0, PoolReady("bfloat16", 1.0)),
    ]
    events += [(float(second), batch(device)) for second in range(4, int(seconds)) for device in devices]
    events += [(seconds, embedded("a.jsonl", 10 * len(devices) * (int(seconds) - 4), seconds=seconds - 3))]
    events += [(seconds + 1, ShardStored("a.jsonl", 400, 400, 0, 0.5)), (seconds + 2, RunFinished("done", "", seconds))]
    return events


def eventful_run(minutes: int = 90) -> list[Timed]:
    """Four GPUs for that long: one is throttled, one runs out of memory and loses its worker, a shard fails."""
    chance = np.random.default_rng(7)
    devices = [f"cuda:{number}" for number in range(4)]
    shards = [f"arxiv-{year}.jsonl" for year in range(2012, 2021)]
    end = 60.0 * minutes
    facts = [asdict(DeviceFacts(name, "cuda", "NVIDIA A100-SXM4-80GB", total_memory=80 * GB)) for name in devices]
    events: list[Timed] = [
        (0.0, started(shards, 27_000 * minutes, devices)),
        (1.0, DevicesFound(facts)),
        (41.0, PoolReady("bfloat16", 40.0)),
    ]
    papers = dict.fromkeys(shards, 0)
    for number, device in enumerate(devices):
        time = 43.0
        while time < end - 30:
            slow = 1.7 if device == "cuda:1" and 0.55 * end < time < 0.75 * end else 1.0
            shard = shards[min(int((time - 43) / (end - 73) * len(shards)), len(shards) - 1)]
            within = ((time - 43) / (end - 73) * len(shards)) % 1
            longest = int(90 + 420 * (1 - within) ** 2 + chance.normal(0, 12))
            count = int(min(200, 26_000 / longest))
            tokens = int(count * longest * chance.uniform(0.92, 0.99))
            seconds = tokens / 21_000 * slow * chance.uniform(0.95, 1.05) * (1 + 0.03 * number)
            measured = (9 + 32 * count * longest / 30_000 + chance.normal(0, 0.6)) * GB
            predicted = measured * chance.uniform(1.0, 1.12)
            time += seconds
            if time > 0.4 * end and device == "cuda:3" and time < 0.43 * end:
                time = 0.43 * end
                continue
            done = BatchDone(
                shard, device, count, tokens, count * longest, seconds, int(predicted), int(measured), 1, longest, 900
            )
            papers[shard] += count
            events.append((time, done))
            time += 0.05 + 0.4 * (within < 0.02)
    for number in range(1, int(end / 30)):
        time = 30.0 * number
        warm = 1 - math.exp(-time / 400)
        told = []
        for index, device in enumerate(devices):
            hot = device == "cuda:1" and 0.55 * end < time < 0.75 * end
            away = device == "cuda:3" and 0.4 * end < time < 0.43 * end
            verdict = Verdict.THROTTLED if hot and time > 0.57 * end else Verdict.HOT if hot else Verdict.OK
            verdict = Verdict.FAILING if away else verdict
            told.append(
                DeviceHealth(
                    device,
                    verdict,
                    ["89 °C"] if hot else ["its worker ended"] if away else [],
                    Action.SHRINK if hot else Action.NONE,
                    memory_used=41 * GB,
                    memory_total=80 * GB,
                    memory_target=60 * GB,
                    memory_critical=72 * GB,
                    utilization=0.0 if away else 0.55 if hot else float(chance.uniform(0.93, 0.99)),
                    temperature=34
                    + warm * (30 + 3 * index)
                    + (18 if hot else 0)
                    - (20 if away else 0)
                    + chance.normal(0, 0.8),
                    power=80.0 if away else (260.0 if hot else 372.0) * warm + 50 + chance.normal(0, 6),
                    power_limit=400.0,
                    throttled_by=["thermal slowdown"] if verdict is Verdict.THROTTLED else [],
                )
            )
        events.append((time, healthy(number, *told, late=3.1 if number == 77 else 0.02)))
    for number, shard in enumerate(shards):
        begun, done = 43 + number * (end - 73) / len(shards), 43 + (number + 1) * (end - 73) / len(shards)
        rejects = [0, 14, 0, 0, 231, 0, 3, 0, 0][number]
        events.append((begun, ShardStarted(shard, 3_000 * minutes)))
        events.append((begun, PapersRead(shard, papers[shard], rejects, 0, 0, 2.1)))
        if shard == "arxiv-2018.jsonl":
            refusal = "the server closed the connection unexpectedly (db.example.org:5432)"
            for time in (done, done + 4, done + 11):
                events.append((time, ErrorMet(shard, "transient", refusal, "again in 4 s")))
            events.append((done + 12, ShardFailed(shard, refusal)))
            continue
        events.append((done + 3, embedded(shard, papers[shard], seconds=done - begun)))
        events.append((done + 20, ShardStored(shard, 4 * papers[shard], 4 * papers[shard], 0, 17.0)))
    for time, what, detail in (
        (0.21, "out of memory", "104 papers of 250 tokens"),
        (0.22, "out of memory", "104 papers of 251 tokens"),
        (0.40, "lost", "its worker ended with exit code -9"),
        (0.43, "back", "its worker answers again"),
    ):
        events.append((time * end, DeviceIncident(shards[int(time * 9)], "cuda:3", what, detail)))
    for paper in ("1604.01234", "1611.04321"):
        events.append((0.5 * end, PaperFailed(shards[4], paper, "it ends the worker that embeds it")))
    events.sort(key=lambda timed: timed[0])
    return [*events, (end + 30, RunFinished("failed", "", end + 30))]


def under_way(devices: int = 4, minutes: int = 20) -> list[Timed]:
    """A run under way on GPUs, one of them hot and one short of memory, with failures and a shard that failed."""
    names = [f"cuda:{number}" for number in range(devices)]
    shards = [f"month:{year:02d}{month:02d}" for year in range(19, 26) for month in range(1, 13)]
    reached = 5 * len(shards) // 8
    each = 60 * minutes / reached
    facts = [asdict(DeviceFacts(name, "cuda", "NVIDIA H200", power_limit=700.0)) for name in names]
    events: list[Timed] = [
        (0.0, started(shards, 2_000 * len(shards), names)),
        (2.0, DevicesFound(facts)),
        (12.0, PoolReady("bfloat16", 9.0)),
    ]
    for number, shard in enumerate(shards[:reached]):
        at = 12 + number * each
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
                seconds, tokens = each / 4 * 0.96, 210 * papers
                done = BatchDone(
                    shard, device, papers, tokens, 215 * papers, seconds, 9 * GB, 8 * GB, 1, 512, waiting=900
                )
                events.append((end, done))
        events.append((at + each / 2, SegmentSaved(shard, 850)))
        if number == 7:
            events.append((at + each, ShardFailed(shard, "The store does not answer: connection refused.")))
        elif not is_last:
            events.append((at + each, embedded(shard, 2_000, resumed=300)))
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
    reports = [gpu(name) for name in names]
    reports[1:2] = [
        gpu(
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
        reports[-1] = gpu(
            names[-1],
            Verdict.MEMORY_CRITICAL,
            reasons=["140 of 150 GB in use, above 138 GB"],
            action=Action.SHRINK,
            memory_used=140 * GB,
            memory_allocated=96 * GB,
        )
    events.append((end, healthy(40, *reports, late=0.1, waiting=912, cpu=1.4, memory=3 * GB)))
    return events
