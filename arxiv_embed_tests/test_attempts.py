"""Attempts: passing errors are tried again, later and not for ever; what another process holds is left to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import arxiv_embed.attempts
import arxiv_embed.equipment
from arxiv_embed.attempts import STEPS, Attempts, FailedAttempt
from arxiv_embed.checkpoint.atomic import NoSpace
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.checks import CheckResult
from arxiv_embed.errors import ArxivEmbedError, FatalError, Kind
from arxiv_embed.journal import Journal
from arxiv_embed.plan import embeddings_key
from arxiv_embed.progress import RunProgress
from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.run import Report, Run
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.fake_pool import FakePool

FIRST, SECOND = "first.jsonl", "second.jsonl"
IN_FIRST = "Sparsity-certifying"


@dataclass
class Desk:
    """What a run is made of, and what it told."""

    options: RunOptions
    settings: Settings
    pool: FakePool
    waits: list[float]
    told: list[str] = field(default_factory=list)
    shards_begun: list[str] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    results: list[tuple[str, CheckResult]] = field(default_factory=list)
    failures: list[FailedAttempt] = field(default_factory=list)

    def run(self, *, before: dict[str, int] | None = None, assets: Sequence[str] = tuple(STEPS)) -> list[str]:
        with Run(self.options, self.settings, "run", self.told.append) as run:
            run.start([FIRST, SECOND])
            attempts = Attempts(run, before or {}, self)
            return attempts.take([FIRST, SECOND], assets)

    def begun(self, shard: str, assets: Sequence[str]) -> None:
        self.shards_begun.append(shard)

    def made(self, report: Report) -> None:
        self.reports.append(report)

    def checked(self, asset: str, shard: str, results: Sequence[CheckResult]) -> None:
        self.results.extend((shard, result) for result in results)

    def failed(self, attempt: FailedAttempt) -> None:
        self.failures.append(attempt)

    @property
    def progress(self) -> RunProgress:
        return ProgressReader(progress_path(self.settings, "run")).poll()


@pytest.fixture
def desk(small_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Desk:
    options = RunOptions(small_folder, settings.store, settings.checkpoints, devices="cpu:1")
    desk = Desk(options, settings, FakePool(), [])
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", desk.pool)
    monkeypatch.setattr(arxiv_embed.attempts.time, "sleep", lambda s: desk.waits.append(s) if s else None)
    return desk


def failing(monkeypatch: pytest.MonkeyPatch, desk: Desk, error: Exception, times: int, shard: str = FIRST) -> None:
    """The first shard's embedding fails so many times."""
    embed, left = STEPS["embeddings"], [times]

    def step(run: Run, key: str) -> Report:
        if key == shard and left[0]:
            left[0] -= 1
            raise error
        return embed(run, key)

    monkeypatch.setattr(arxiv_embed.attempts, "STEPS", {**STEPS, "embeddings": step})


def test_a_passing_error_is_tried_again_after_all_others_and_after_a_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, desk, ConnectionError("the database is away"), times=2)
    assert desk.run() == [SECOND, FIRST]
    assert [failure.attempt for failure in desk.failures] == [1, 2]
    assert {failure.kind for failure in desk.failures} == {Kind.TRANSIENT}
    first, second = desk.waits[-2:]
    assert 0 < first <= 3
    assert 2 <= second <= 6  # twice as long, and half to one and a half times of that
    assert desk.shards_begun == [FIRST, SECOND]
    assert desk.progress.state == "done"
    assert desk.progress.failed == {}
    [pattern] = desk.progress.errors.patterns()
    assert (pattern.count, pattern.kind) == (2, Kind.TRANSIENT)


def test_what_does_not_pass_is_given_up_after_as_many_attempts_as_were_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.options = replace(desk.options, attempts=4)
    failing(monkeypatch, desk, RuntimeError("the device fell over"), times=9)
    assert desk.run() == [SECOND]
    assert [failure.attempt for failure in desk.failures] == [1, 2, 3, 4]
    assert desk.progress.failed == {FIRST: "RuntimeError: the device fell over"}
    assert desk.progress.state == "failed"


def test_attempts_of_earlier_runs_count(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, desk, RuntimeError("the device fell over"), times=9)
    assert desk.run(before={FIRST: 2}) == [SECOND]
    assert [failure.attempt for failure in desk.failures] == [3]


def test_an_error_that_would_be_met_again_is_not_tried_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, desk, ArxivEmbedError("The file a.json cannot be read: mend that."), times=9)
    assert desk.run() == [SECOND]
    assert len(desk.failures) == 1
    assert desk.waits == []


def test_an_error_that_every_shard_would_meet_stops_the_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, desk, FatalError("The store is of another space."), times=9)
    with pytest.raises(FatalError, match="another space"):
        desk.run()
    assert desk.pool.embedded == []
    assert desk.progress.error == "The store is of another space."


def test_a_full_disk_pauses_the_run_which_goes_on_when_there_is_space(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, desk, NoSpace("No space is left in /data: free some."), times=2)
    assert desk.run() == [FIRST, SECOND]
    assert len(desk.waits) == 2
    assert desk.shards_begun == [FIRST, SECOND]
    assert desk.failures == []  # the disk's fault is no shard's
    assert any("paused, again in" in line for line in desk.told)
    [pattern] = desk.progress.errors.patterns()
    assert (pattern.count, pattern.kind) == (2, Kind.RESOURCE)


def test_a_disk_that_stays_full_stops_the_run_with_its_sentence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, desk, NoSpace("No space is left in /data: free some."), times=9)
    with pytest.raises(NoSpace, match="No space is left"):
        desk.run()
    assert len(desk.waits) == 2


def test_an_error_that_repeats_is_told_while_the_run_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.options = replace(desk.options, attempts=5)
    failing(monkeypatch, desk, ConnectionError("no answer from 10.0.0.7 after 31 s"), times=4)
    desk.run()
    assert [line for line in desk.told if line.startswith("3 times: ")] != []


HOLD = """
import sys
from pathlib import Path
from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.store import CheckpointStore
with CheckpointStore(Path(sys.argv[1])).hold(CheckpointKey(*sys.argv[2:])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(desk: Desk) -> Callable[[], None]:
    """Another process has the first shard; called, it lets go."""
    with Run(desk.options, desk.settings, "other") as run:
        key = embeddings_key(FIRST, run.space)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(desk.options.checkpoints), key.asset, key.shard, key.space],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"

    def let_go() -> None:
        process.communicate()

    let_go.pid = process.pid  # type: ignore[attr-defined]
    return let_go


def test_a_shard_that_another_process_has_is_left_to_it_and_others_are_taken(
    desk: Desk, held: Callable[[], None]
) -> None:
    try:
        assert desk.run() == [SECOND]
    finally:
        held()
    holder = desk.progress.left[FIRST]
    assert holder.startswith(f"process {held.pid} on ")  # type: ignore[attr-defined]
    assert f"{FIRST} is worked on by {holder}: others first" in desk.told
    assert desk.progress.failed == {}
    assert desk.failures == []


@pytest.fixture
def let_go_when_left(held: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process lets go as soon as it is found to have the shard."""
    leave = Journal.leave

    def leave_and_let_go(journal: Journal, shard: str, refusal: Locked) -> None:
        leave(journal, shard, refusal)
        held()

    monkeypatch.setattr(Journal, "leave", leave_and_let_go)


@pytest.mark.usefixtures("let_go_when_left")
def test_a_shard_that_is_let_go_meanwhile_is_taken_at_the_end(desk: Desk) -> None:
    assert desk.run() == [SECOND, FIRST]
    assert desk.progress.left == {}
    assert desk.progress.state == "done"


def test_pauses_that_are_over_do_not_count_against_later_ones(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    embed, left = STEPS["embeddings"], {FIRST: 2, SECOND: 2}

    def step(run: Run, key: str) -> Report:
        if left[key]:
            left[key] -= 1
            raise NoSpace("No space is left in /data: free some.")
        return embed(run, key)

    monkeypatch.setattr(arxiv_embed.attempts, "STEPS", {**STEPS, "embeddings": step})
    assert desk.run() == [FIRST, SECOND]
    assert len([wait for wait in desk.waits if wait]) == 4


def test_what_stops_a_run_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, desk, NoSpace("No space is left in /data: free some."), times=9)
    with pytest.raises(NoSpace):
        desk.run()
    assert any(line.endswith("(resource: stopped)") for line in desk.told)


def test_that_a_shard_is_left_is_told_once(desk: Desk, held: Callable[[], None]) -> None:
    try:
        desk.run()
    finally:
        held()
    assert len([line for line in desk.told if "is worked on by" in line]) == 1
