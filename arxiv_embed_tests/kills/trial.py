"""A trial: a run of the real command, killed at random moments and gone on with, and what must hold afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster import DagsterRunStatus

from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.settings import settings_from_environment
from arxiv_embed_tests.cli.commands import arxiv_embed, environment_here
from arxiv_embed_tests.kills.changes import SEGMENT_PAPERS
from arxiv_embed_tests.kills.driven import driven, environment_of_driven, start_driven
from arxiv_embed_tests.kills.ground import (
    CHANGE,
    DEVICES,
    PAPERS,
    SHARDS,
    Ground,
    check_equal,
    stored_rows,
)
from arxiv_embed_tests.kills.watch import (
    Event,
    Following,
    children_of,
    events_of,
    held_locks,
    kinds_of,
    processes_of,
    records_in,
    wait_until,
    workers_of,
)

LOOK_SECONDS = 0.002
PATIENCE_SECONDS = 120.0
NOTICE_SECONDS = 20.0
"""Within so many seconds whatever a killed run has left behind is gone; it takes one or two where little else runs."""

TARGETS = ("coordinator", "worker", "both", "command")
DELAYS = {
    "starting": 0.3,
    "reading": 0.04,
    "opening": 0.5,
    "embedding": 0.05,
    "committing": 0.04,
    "storing": 0.15,
    "closing": 0.4,
}
"""The phases of a run, each with the most seconds that pass between the event which is waited for and the kill."""

FIRST_TEN = (
    ("embedding", "coordinator"),
    ("embedding", "worker"),
    ("embedding", "both"),
    ("embedding", "command"),
    ("starting", "coordinator"),
    ("opening", "both"),
    ("reading", "coordinator"),
    ("committing", "both"),
    ("storing", "coordinator"),
    ("closing", "coordinator"),
)
"""The first kill of each of the first ten trials: they go through all phases and targets."""

WEIGHTS = {
    "starting": 1,
    "reading": 1,
    "opening": 1,
    "embedding": 6,
    "committing": 2,
    "storing": 2,
    "closing": 1,
}


@dataclass(frozen=True)
class Kill:
    """`where` in [0, 1) says which of a phase's occurrences within the run, `delay` how many seconds later."""

    phase: str
    target: str
    where: float
    delay: float


@dataclass(frozen=True)
class Landed:
    """A kill that was done, and the phase in which the record says that it came."""

    target: str
    phase: str


@dataclass(frozen=True)
class Tried:
    """`repeated` papers were embedded more than once; `missed` kills were meant for a moment after the run's end."""

    landed: tuple[Landed, ...]
    missed: int
    repeated: int
    seconds: float


def kills_of(seed: int, number: int) -> list[Kill]:
    """The kills of a trial: most have one, every fifth two, every tenth three."""
    rng = random.Random(f"{seed}/{number}")
    times = 3 if number % 10 == 2 else 2 if number % 5 == 0 else 1
    kills = []
    for time_ in range(times):
        phase = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        target = rng.choices(TARGETS, (5, 2, 3, 2))[0]
        if time_ == 0 and number < len(FIRST_TEN):
            phase, target = FIRST_TEN[number]
        if target == "worker" and phase in ("starting", "reading"):
            target = "coordinator"  # there is no worker yet, or none that has begun
        kills.append(Kill(phase, target, rng.random(), rng.uniform(0, DELAYS[phase])))
    return kills


def try_kills(kills: Sequence[Kill], ground: Ground, home: Path) -> Tried:
    """Runs, kills, goes on, and raises `AssertionError` where something was lost, done twice or left behind."""
    begun = time.monotonic()
    landed: list[Landed] = []
    waiting = list(kills)
    try:
        while waiting:
            before = len(waiting)
            landed.extend(_run_and_kill(waiting, ground, home))
            if len(waiting) == before:  # the run came to its end first
                break
        missed = len(waiting)
        last = driven(home, CHANGE, *ground.arguments)
        assert last.returncode == 0, f"the last run failed:\n{last.stdout}{last.stderr}"
        check_equal(stored_rows(home), ground.rows)
        _check_dagster(home)
        return Tried(tuple(landed), missed, _check_repeated(home, landed), time.monotonic() - begun)
    finally:
        for process in processes_of(home):
            os.kill(process, signal.SIGKILL)


def _run_and_kill(waiting: list[Kill], ground: Ground, home: Path) -> Iterator[Landed]:
    """One run of the command, until it is killed or ends; takes from `waiting` the kills that it has met."""
    records = records_in(home)
    kept = _kept(records)
    following = Following(home, records)
    command = start_driven(home, CHANGE, *ground.arguments)
    begun = time.monotonic()
    while waiting:
        kill = waiting[0]
        while command.poll() is None and not _is_reached(
            kill, following.poll(), kept, time.monotonic() - begun, ground
        ):
            time.sleep(LOOK_SECONDS)
        time.sleep(kill.delay)
        if not _kill(command, kill.target):
            break
        waiting.pop(0)
        yield Landed(kill.target, phase_of(following.poll(), kept))
        if kill.target != "worker":
            _check_aftermath(command, kill, following, home)
            return
    printed, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, f"a run that only lost workers failed:\n{printed}"


def _is_reached(kill: Kill, events: Sequence[Event], kept: Counter[str], seconds: float, ground: Ground) -> bool:
    shards = _shards_of(events)
    if not shards:
        return kill.phase == "starting" and seconds >= kill.where * ground.starting_seconds
    kinds = kinds_of(events)
    nth = 1 + int(kill.where * len(shards))
    if kinds["shard_stored"] >= len(shards):
        return True
    match kill.phase:
        case "starting":
            return True
        case "reading":
            return kinds["shard_started"] >= nth
        case "opening":
            read = next((event["time"] for event in events if event["event"] == "papers_read"), None)
            return read is not None and time.time() >= read + kill.where * ground.opening_seconds
        case "embedding":
            remain = PAPERS - kept.total()
            return sum(event["papers"] for event in events if event["event"] == "batch") > kill.where * 0.95 * remain
        case "committing":
            done = _embedded(events) + kept
            whole = [shard for shard in shards if done[shard] >= SHARDS[shard]]
            return len(whole) >= nth
        case "storing":
            return kinds["shard_embedded"] >= nth
    return False


def _shards_of(events: Sequence[Event]) -> list[str]:
    """What the run has said that it is about to do; empty where it has not come so far."""
    return next((list(event["shards"]) for event in events if event["event"] == "run_started"), [])


def _embedded(events: Sequence[Event]) -> Counter[str]:
    """Papers of each shard, by the batches."""
    papers: Counter[str] = Counter()
    for event in events:
        if event["event"] == "batch":
            papers[event["shard"]] += event["papers"]
    return papers


def _kept(records: set[Path]) -> Counter[str]:
    """Papers of each shard that earlier runs have made durable, as far as their records tell."""
    kept: Counter[str] = Counter()
    whole = set()
    for record in records:
        for event in events_of(record):
            if event["event"] == "segment":
                kept[event["shard"]] += event["papers"]
            elif event["event"] == "shard_embedded":
                whole.add(event["shard"])
    return Counter({shard: SHARDS[shard] if shard in whole else kept[shard] for shard in {*kept, *whole}})


def phase_of(events: Sequence[Event], kept: Counter[str]) -> str:
    """What a run was at after these events; `kept` papers of each shard were durable when it began."""
    shards = _shards_of(events)
    if not shards:
        return "starting"
    last = next(
        event for event in reversed(events) if event["event"] not in ("device_incident", "error", "damage", "health")
    )
    match last["event"]:
        case "papers_read" | "devices_found" | "pool_ready":
            return "embedding" if kinds_of(events)["pool_ready"] else "opening"
        case "batch" | "segment":
            done = _embedded(events) + kept
            return "committing" if done[last["shard"]] >= SHARDS[last["shard"]] else "embedding"
        case "shard_embedded":
            return "storing"
        case "shard_stored" if kinds_of(events)["shard_stored"] >= len(shards):
            return "closing"
        case "run_finished":
            return "closing"
    return "reading"


def _kill(command: subprocess.Popen[str], target: str) -> bool:
    """Whether there was something left to be killed; waits for it where it has not begun yet."""
    while command.poll() is None:
        run = children_of(command.pid)
        workers = workers_of(run[0]) if run else []
        found = {
            "coordinator": run,
            "worker": workers[:1],
            "both": [*run, *workers],
            "command": [command.pid] if run else [],
        }[target]
        if found:
            for process in found:
                _end(process)
            return True
        time.sleep(LOOK_SECONDS)
    return False


def _end(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return  # it had just come to its own end


def _check_aftermath(command: subprocess.Popen[str], kill: Kill, following: Following, home: Path) -> None:
    """Right after a kill: one sentence on the terminal, nothing left behind, nothing locked, a status that is told."""
    printed, _ = command.communicate(timeout=PATIENCE_SECONDS)
    finished = following.poll()[-1:] and following.events[-1]["event"] == "run_finished"
    assert "Traceback" not in printed, printed
    if kill.target != "command" and not finished:
        assert command.returncode == 1, f"exit code {command.returncode} after a kill:\n{printed}"
        assert "was killed by signal 9" in printed, printed
    wait_until(lambda: not processes_of(home), "the killed run's other processes ended", NOTICE_SECONDS)
    locked = held_locks(home)
    assert not locked, f"locks are held though nothing runs: {locked}"
    status = arxiv_embed(home, "status")
    assert (status.returncode, status.stderr) == (0, ""), status.stdout + status.stderr


def _check_dagster(home: Path) -> None:
    """None of the runs is on its way for ever, and no slot of the pool stays taken."""
    with environment_here(environment_of_driven(home)), open_instance(settings_from_environment()) as instance:
        states = Counter(run.status for run in instance.get_runs())
        slots = [instance.event_log_storage.get_concurrency_info(key) for key in ("gpu",)]
    on_their_way = {state: n for state, n in states.items() if state not in _ENDED}
    assert not on_their_way, f"Dagster shows runs as {on_their_way} though nothing runs"
    taken = sum(slot.active_slot_count for slot in slots)
    assert not taken, f"{taken} slots of the pool are taken though nothing runs"


_ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


def _check_repeated(home: Path, landed: Sequence[Landed]) -> int:
    """Papers embedded more than once: at most one segment of each device a killed run; a worker's end costs none."""
    kills = sum(kill.target != "worker" for kill in landed)
    embedded = Counter[str]()
    for record in records_in(home):
        embedded += _embedded(events_of(record))
    repeated = embedded.total() - PAPERS
    assert repeated >= 0 or landed, f"{-repeated} papers are in the store that no batch embedded"
    most = kills * DEVICES * SEGMENT_PAPERS
    assert repeated <= most, f"{repeated} papers were embedded again by {kills} killed runs, {most} may be"
    return max(repeated, 0)
