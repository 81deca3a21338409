"""The sensor `failed_shards`: what it asks for again, how often, and what it leaves alone."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from dagster import AssetObservation, DagsterInstance, DagsterRunStatus, RunRequest, SensorResult, build_sensor_context
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import arxiv_embed.attempts
import arxiv_embed.pipeline.failed_shards as sensor_module
from arxiv_embed.definitions import defs
from arxiv_embed.errors import Kind
from arxiv_embed.pipeline.failed_shards import JOBS, NEVER, WAITS, Asked, Case, _due, failed_shards
from arxiv_embed.pipeline.failures import ATTEMPT, ERROR, KIND, SOURCE, SPACE, newest_failures
from arxiv_embed.pipeline.jobs import embed_pending
from arxiv_embed.pipeline.resources import resource_config
from arxiv_embed.pipeline.versions import code_versions_by_default
from arxiv_embed.pipeline.work import STOPPED_FOR
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from arxiv_embed.stores.protocol import StoreAway
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, materialized

FIRST, SECOND = SHARDS
IN_FIRST = "Sparsity-certifying"
REPOSITORY = RemoteRepositoryOrigin(
    InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="arxiv_embed.definitions")), "__repository__"
)
LATER = 7 * 24 * 3600.0


class Clock:
    """The time by which the sensor goes, and the sensor's last cursor."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        self.now = time.time()
        self.cursor: str | None = None

    def tick(self, after: float = 0.0) -> SensorResult:
        self.now += after
        with build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            result = failed_shards(context)
        assert isinstance(result, SensorResult)
        if result.cursor is not None:
            self.cursor = result.cursor
        return result

    def asked(self, after: float = 0.0) -> list[str] | None:
        """The shards that a tick asks for; None where it asks for no run."""
        request = request_of(self.tick(after))
        return None if request is None else request.run_config["ops"]["embed_what_remains"]["config"]["retry"]

    def said(self, after: float = 0.0) -> str:
        reason = self.tick(after).skip_reason
        assert reason is not None
        return reason.skip_message or ""


def request_of(result: SensorResult) -> RunRequest | None:
    if not result.run_requests:
        return None
    [request] = result.run_requests
    assert request.job_name == "embed_pending"
    return request


@pytest.fixture
def clock(
    instance: DagsterInstance,
    settings: Settings,
    small_folder: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Clock:
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    monkeypatch.setenv("ARXIV_EMBED_METADATA_DIR", str(small_folder))
    monkeypatch.setenv("ARXIV_EMBED_MODEL", str(tiny_model))
    clock = Clock(instance)
    monkeypatch.setattr(sensor_module, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def observe(
    instance: DagsterInstance,
    shard: str,
    *,
    kind: Kind = Kind.TRANSIENT,
    source: str = "1",
    attempt: int = 3,
    space: str = "",
) -> None:
    """What a run tells Dagster of an attempt that failed; with `attempt` 0, of the success after some. The space is by
    default that of the environment."""
    of_environment = code_versions_by_default(settings_from_environment())["embeddings"]
    metadata = {ATTEMPT: attempt, SPACE: space or of_environment, SOURCE: source}
    if attempt:
        metadata |= {ERROR: "RuntimeError: the device fell over", KIND: kind.value}
    instance.report_runless_asset_event(AssetObservation(asset_key="embeddings", partition=shard, metadata=metadata))


def begin_run(instance: DagsterInstance, status: DagsterRunStatus, job: str = "embed_pending", **tags: str) -> str:
    origin = RemoteJobOrigin(REPOSITORY, job)
    return create_run_for_test(instance, job, status=status, tags=tags, remote_job_origin=origin).run_id


@pytest.mark.parametrize("kind", [Kind.TRANSIENT, Kind.RESOURCE])
def test_what_failed_for_a_passing_reason_is_asked_for_three_times_after_growing_waits(
    clock: Clock, kind: Kind
) -> None:
    observe(clock.instance, FIRST, kind=kind)
    assert clock.asked() is None
    for wait in WAITS:
        assert clock.asked(wait - 10) is None
        assert clock.asked(20) == [FIRST]
        assert clock.asked() is None
        observe(clock.instance, FIRST, kind=kind)
    assert f"Asked for 3 times, and not any more: {FIRST}; `arxiv-embed run --resume`" in clock.said(LATER)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.PERMANENT])
def test_what_would_fail_again_is_never_asked_for_and_the_tick_says_what_would_try_it(clock: Clock, kind: Kind) -> None:
    observe(clock.instance, FIRST, kind=kind)
    observe(clock.instance, SECOND)
    assert clock.asked(LATER) == [SECOND]
    observe(clock.instance, SECOND, attempt=0)
    said = clock.said(LATER)
    assert "the reason does not pass: 1 in number" in said
    assert "--resume` or a changed file tries them again" in said


def test_the_newest_attempt_decides_of_which_kind_a_failure_is(clock: Clock) -> None:
    observe(clock.instance, FIRST, attempt=1)
    observe(clock.instance, FIRST, kind=Kind.PERMANENT, attempt=2)
    assert clock.asked(LATER) is None


def test_all_that_is_due_is_one_run(clock: Clock) -> None:
    observe(clock.instance, SECOND)
    observe(clock.instance, FIRST)
    assert clock.asked(LATER) == [FIRST, SECOND]


def test_a_waits_time_is_counted_from_the_last_asking_where_nothing_came_of_it(clock: Clock) -> None:
    observe(clock.instance, FIRST)
    assert clock.asked(LATER) == [FIRST]
    assert clock.asked(WAITS[1] - 10) is None
    assert clock.asked(10) == [FIRST]


def test_what_went_through_is_forgotten_and_its_count_begins_anew(clock: Clock) -> None:
    observe(clock.instance, FIRST)
    assert clock.asked(LATER) == [FIRST]
    observe(clock.instance, FIRST, attempt=0)
    assert clock.said() == "Nothing has failed."
    assert json.loads(clock.cursor or "") == {}
    observe(clock.instance, FIRST)
    assert clock.asked(LATER) == [FIRST]
    assert [times for _, times, _ in json.loads(clock.cursor or "").values()] == [1]


def test_a_changed_source_begins_the_count_anew(clock: Clock) -> None:
    for _ in WAITS:
        observe(clock.instance, FIRST)
        assert clock.asked(LATER) == [FIRST]
    assert clock.asked(LATER) is None
    observe(clock.instance, FIRST, source="2")
    assert clock.asked(LATER) == [FIRST]
    assert len(json.loads(clock.cursor or "")) == 1


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    "status",
    [DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING],
)
def test_while_a_run_is_queued_or_under_way_nothing_is_asked_for(
    clock: Clock, status: DagsterRunStatus, job: str
) -> None:
    observe(clock.instance, FIRST)
    run_id = begin_run(clock.instance, status, job)
    assert f"Run {run_id} is under way" in clock.said(LATER)


def test_one_asking_has_one_name_and_the_next_another(clock: Clock) -> None:
    observe(clock.instance, FIRST)
    clock.now += LATER
    with build_sensor_context(instance=clock.instance) as context:
        lost = request_of(failed_shards(context))  # its cursor was never kept
    first = request_of(clock.tick())
    assert first is not None
    assert lost is not None
    assert lost.run_key == first.run_key
    second = request_of(clock.tick(LATER))
    assert second is not None
    assert second.run_key != first.run_key
    observe(clock.instance, FIRST, attempt=0)
    clock.tick()
    observe(clock.instance, FIRST)
    again = request_of(clock.tick(LATER))
    assert again is not None
    assert again.run_key not in (first.run_key, second.run_key)


@pytest.mark.parametrize("kind", ["transient", "resource"])
@pytest.mark.parametrize("job", JOBS)
def test_after_a_run_that_was_stopped_as_a_whole_another_is_asked_for_three_times(
    clock: Clock, kind: str, job: str
) -> None:
    for wait in WAITS:
        begin_run(clock.instance, DagsterRunStatus.FAILURE, job, **{STOPPED_FOR: kind})
        assert clock.asked(wait - 10) is None
        assert clock.asked(20) == []
    begin_run(clock.instance, DagsterRunStatus.FAILURE, job, **{STOPPED_FOR: kind})
    assert "not any more: what a stopped run has left" in clock.said(LATER)


@pytest.mark.parametrize("status", [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_a_run_that_was_not_stopped_ends_what_a_stopped_one_began(clock: Clock, status: DagsterRunStatus) -> None:
    begin_run(clock.instance, DagsterRunStatus.FAILURE, **{STOPPED_FOR: "transient"})
    assert clock.asked(LATER) == []
    begin_run(clock.instance, status)
    assert clock.said(LATER) == "Nothing has failed."
    begin_run(clock.instance, DagsterRunStatus.FAILURE, **{STOPPED_FOR: "transient"})
    assert clock.asked(LATER) == []
    assert [times for _, times, _ in json.loads(clock.cursor or "").values()] == [1]


def test_a_run_of_chosen_shards_does_not_end_what_a_stopped_run_has_left(clock: Clock) -> None:
    begin_run(clock.instance, DagsterRunStatus.FAILURE, **{STOPPED_FOR: "resource"})
    begin_run(clock.instance, DagsterRunStatus.SUCCESS, "embed_shards")
    assert clock.asked(LATER) == []


def test_without_a_metadata_folder_nothing_is_asked_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    observe(clock.instance, FIRST)
    monkeypatch.delenv("ARXIV_EMBED_METADATA_DIR")
    assert "ARXIV_EMBED_METADATA_DIR" in clock.said(LATER)


@pytest.mark.parametrize("cursor", ["", "{", "[]", '{"a": 1}', '{"a space first.jsonl": ["1"]}', "null"])
def test_what_is_no_cursor_of_the_sensor_is_taken_for_none(clock: Clock, cursor: str) -> None:
    observe(clock.instance, FIRST)
    clock.cursor = cursor
    assert clock.asked(LATER) == [FIRST]


def test_what_a_run_would_not_find_is_not_asked_for(clock: Clock) -> None:
    observe(clock.instance, "gone.jsonl")
    observe(clock.instance, SECOND, space="of another model")
    for _ in WAITS:
        said = clock.said(LATER)
        assert "a run would not find them" in said
        assert "gone.jsonl" in said
        assert SECOND in said
    observe(clock.instance, FIRST)
    assert clock.asked(LATER) == [FIRST]


def test_what_a_stopped_run_has_left_is_not_forgotten_for_a_shard_that_is_due_before(clock: Clock) -> None:
    observe(clock.instance, FIRST)
    clock.tick(WAITS[0] - 60)
    begin_run(clock.instance, DagsterRunStatus.FAILURE, **{STOPPED_FOR: "transient"})
    request = request_of(clock.tick(120))
    assert request is not None
    config = request.run_config["ops"]["embed_what_remains"]["config"]
    assert config == {"retry": [FIRST], "nothing_else": False}


def test_a_folder_that_is_away_uses_up_no_asking(clock: Clock, small_folder: Path) -> None:
    observe(clock.instance, FIRST)
    away = small_folder.rename(small_folder.with_name("away"))
    for _ in WAITS:
        assert clock.asked(LATER) is None
    away.rename(small_folder)
    assert clock.asked(LATER) == [FIRST]


def test_more_shards_than_one_run_is_given_come_in_the_next(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor_module, "SHARDS_AT_ONCE", 1)
    observe(clock.instance, FIRST)
    observe(clock.instance, SECOND)
    assert clock.asked(LATER) == [FIRST]
    assert clock.asked() == [SECOND]
    assert clock.asked() is None


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10 * 3600), st.booleans()), max_size=60))
def test_whenever_it_is_looked_at_a_case_is_asked_for_three_times_at_most_and_never_too_soon(
    looks: list[tuple[float, bool]],
) -> None:
    now, case, asked = 0.0, Case("s", "a", "1", 0.0), dict[str, Asked]()
    times = []
    for wait, fails_again in looks:
        now += wait
        if _due([case], asked, now):
            times.append(now)
            asked[case.key] = Asked(case.state, asked.get(case.key, NEVER).times + 1, now)
            if fails_again:
                now += 60.0
                case = replace(case, since=now)
    assert len(times) <= len(WAITS)
    for before, after, wait in zip([0.0, *times], times, WAITS, strict=False):
        assert after - before >= wait


@pytest.fixture
def failing(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> FakePool:
    """Fails on the first shard, which is tried again at once."""
    pool.fail_on = IN_FIRST
    monkeypatch.setattr(arxiv_embed.attempts, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(arxiv_embed.attempts, "PAUSE_SECONDS", 0.0)
    return pool


def execute_request(request: RunRequest, options: RunOptions, instance: DagsterInstance) -> bool:
    return (
        defs.resolve_job_def("embed_pending")
        .execute_in_process(
            run_config={**request.run_config, "resources": resource_config(options)},
            instance=instance,
            raise_on_error=False,
        )
        .success
    )


def test_the_run_that_is_asked_for_does_what_was_given_up_and_nothing_else(
    options: RunOptions, clock: Clock, failing: FakePool
) -> None:
    assert not execute("embed_shards", options, clock.instance, shards=[FIRST]).success
    request = request_of(clock.tick(LATER))
    assert request is not None
    failing.fail_on = ""
    assert execute_request(request, options, clock.instance)
    assert clock.said(LATER) == "Nothing has failed."
    assert materialized(clock.instance, "vector_store") == {FIRST}


def test_a_run_of_some_shards_does_not_end_a_fresh_start_of_all(
    options: RunOptions, clock: Clock, pool: FakePool
) -> None:
    assert execute("embed_pending", options, clock.instance).success
    before = len(pool.embedded)
    options = replace(options, attempts=1)
    pool.fail_on = "Numerical solution of shock"
    assert not execute("embed_pending", replace(options, fresh=True), clock.instance).success
    pool.fail_on = ""
    config = {"embed_what_remains": {"config": {"retry": [FIRST], "nothing_else": True}}}
    assert execute_request(RunRequest(run_config={"ops": config}), options, clock.instance)
    assert execute("embed_pending", replace(options, attempts=3), clock.instance).success
    assert len(pool.embedded) - before == 6 + 5


def test_a_shard_whose_changed_source_goes_through_is_not_asked_for(
    options: RunOptions, clock: Clock, failing: FakePool
) -> None:
    assert not execute("embed_pending", options, clock.instance).success
    failing.fail_on = ""
    source = options.metadata_dir / FIRST
    source.write_bytes(source.read_bytes() + b"\n")
    assert execute("embed_pending", options, clock.instance).success
    assert list(newest_failures(clock.instance)) == []
    assert clock.said(LATER) == "Nothing has failed."


def test_a_run_that_the_store_stopped_is_asked_for_again_and_does_what_it_left(
    options: RunOptions, clock: Clock, failing: FakePool
) -> None:
    failing.fault = StoreAway(options.store)
    assert not execute("embed_pending", options, clock.instance).success
    request = request_of(clock.tick(LATER))
    assert request is not None
    failing.fail_on = ""
    assert execute_request(request, options, clock.instance)
    assert clock.said(LATER) == "Nothing has failed."


def test_the_sensor_asks_for_jobs_that_there_are() -> None:
    names = {job.name for job in defs.get_repository_def().get_all_jobs()}
    assert names >= set(JOBS)
    assert [op.name for op in embed_pending.nodes] == [sensor_module.OP]
