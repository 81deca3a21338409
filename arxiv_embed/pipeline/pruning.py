"""Pruning: the records of old runs, Dagster's and the home's, without what nobody asks for any more.

What decides how partitions, checks and attempts stand is the newest event of each, over all runs. Of old runs all other
events go, and the lines of their logs but for those of the run as a whole, by which its page says when it began and how
it ended; one of which no event is left is deleted whole. SQLite has a file for each run and an index of them all, which
is what partitions are read from: there events of assets stay in the index alone.

Nothing that decides is deleted at any moment, so what is interrupted can be done again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as db
from dagster import DagsterEventType, DagsterInstance, EventLogEntry, RunRecord, RunsFilter
from dagster._core.events import ASSET_EVENTS, PIPELINE_EVENTS
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME as INDEX
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import deserialize_value
from dagster_shared.serdes.errors import DeserializationError

from arxiv_embed.checkpoint.atomic import disk_faults_as_sentences
from arxiv_embed.checkpoint.lock import is_held
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.pipeline.failures import ATTEMPT, SPACE
from arxiv_embed.pipeline.jobs import embed_pending
from arxiv_embed.record import RECORD, ProgressReader, has_ended
from arxiv_embed.runs import LOCK, last_run
from arxiv_embed.settings import Settings

PRUNED = "arxiv_embed/pruned"
"""Tag of a run whose log was pruned: the day it was."""

NEWEST = 25
"""Runs that are never touched, however old."""

RUNS_AT_ONCE, ROWS_AT_ONCE = 200, 5_000
OBSERVATION = DagsterEventType.ASSET_OBSERVATION.value
OF_ASSETS = [event.value for event in ASSET_EVENTS]
OF_RUNS = [event.value for event in PIPELINE_EVENTS]
COMPLETED = [status.value for status in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES]


About: TypeAlias = tuple[str | None, ...]
"""What a row says something of."""


@dataclass(frozen=True)
class OldRun:
    """A run that ended before the time from which on everything is kept."""

    run_id: str
    is_pruned: bool


@dataclass(frozen=True)
class Removed:
    """Whether a run was deleted whole, and how many lines of its log went."""

    whole: bool
    rows: int


def old_runs(instance: DagsterInstance, before: datetime) -> list[OldRun]:
    """All runs that ended before that time, but for the newest, and the last one that went over all shards: what an
    earlier one has left is asked for again where there is no later one."""
    newest = instance.get_run_ids(limit=NEWEST)
    over_all = instance.get_run_ids(RunsFilter(job_name=embed_pending.name, statuses=FINISHED_STATUSES), limit=1)
    cursor = newest[-1] if len(newest) == NEWEST else None
    found: list[OldRun] = []
    while cursor is not None:
        filters = RunsFilter(statuses=FINISHED_STATUSES, created_before=before)
        page = instance.get_run_records(filters, limit=RUNS_AT_ONCE, cursor=cursor)
        cursor = page[-1].dagster_run.run_id if page else None
        runs = [record.dagster_run for record in page if _ended(record) < before]
        found.extend(OldRun(run.run_id, PRUNED in run.tags) for run in runs if run.run_id not in over_all)
    return found


def _ended(record: RunRecord) -> datetime:
    return datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp


def remove_superseded(instance: DagsterInstance, runs: Collection[OldRun], before: datetime) -> int:
    """Removes the evaluations and events of those runs, and of no run before that time, of which there is a newer one;
    returns how many. What the newest evaluations are about stays."""
    events, old = _events(instance), {run.run_id for run in runs}
    removed = 0
    for unwanted in _superseded_evaluations(events, old, before):
        with events.index_connection() as connection:
            connection.execute(_deletion(AssetCheckExecutionsTable.c.id, unwanted))
        removed += len(unwanted)
    for unwanted in _superseded_events(events, old, before):
        with events.index_connection() as connection:
            connection.execute(_deletion(AssetEventTagsTable.c.event_id, unwanted))
            connection.execute(_deletion(SqlEventLogStorageTable.c.id, unwanted))
        removed += len(unwanted)
    if isinstance(events, SqliteEventLogStorage):
        _delete_lines(events, RUNLESS_RUN_ID, SqlEventLogStorageTable.c.timestamp < _stored(before))
    return removed


def _superseded_evaluations(events: SqlEventLogStorage, old: set[str], before: datetime) -> Iterator[list[int]]:
    """The ids, page by page. A planned evaluation does not supersede a completed one."""
    columns = AssetCheckExecutionsTable.c
    query = db.select(
        columns.id,
        columns.run_id,
        columns.asset_key,
        columns.check_name,
        columns.partition,
        columns.execution_status,
        columns.evaluation_event_timestamp.label("timestamp"),
    )

    def abouts(row: Any) -> set[About]:
        check = (row.asset_key, row.check_name, row.partition)
        return {check, ("completed", *check)} if row.execution_status in COMPLETED else {check}

    return _superseded(_newest_first(events, query, columns.id), abouts, lambda row: _is_old(row, old, before))


def _superseded_events(events: SqlEventLogStorage, old: set[str], before: datetime) -> Iterator[list[int]]:
    """The ids in the index, page by page."""
    columns = SqlEventLogStorageTable.c
    query = db.select(
        columns.id,
        columns.run_id,
        columns.dagster_event_type,
        columns.asset_key,
        columns.partition,
        columns.timestamp,
        db.case((columns.dagster_event_type == OBSERVATION, columns.event)).label("observation"),
    ).where(columns.dagster_event_type.in_(OF_ASSETS))
    with events.index_connection() as connection:
        targets = db.select(AssetCheckExecutionsTable.c.materialization_event_storage_id).distinct()
        checked = set(connection.execute(targets).scalars())
    return _superseded(
        _newest_first(events, query, columns.id),
        lambda row: {_about(row)},
        lambda row: row.id not in checked and _is_old(row, old, before),
    )


def _superseded(
    pages: Iterable[Sequence[db.Row[Any]]], abouts: Callable[[Any], set[About]], may_go: Callable[[Any], bool]
) -> Iterator[list[int]]:
    """The ids of rows that say nothing that a newer one does not, page by page; the newest come first."""
    seen: set[About] = set()
    for page in pages:
        unwanted = []
        for row in page:
            said = abouts(row)
            if said <= seen and may_go(row):
                unwanted.append(row.id)
            seen |= said
        if unwanted:
            yield unwanted


def _about(row: Any) -> About:
    """What an event says something of, so that a newer one of the same supersedes it. Attempts at a shard are counted
    in each space, whichever asset they were to make; other observations are told apart by what they name."""
    of_partition = (row.dagster_event_type, row.asset_key, row.partition)
    if row.dagster_event_type != OBSERVATION:
        return of_partition
    try:
        observation = deserialize_value(row.observation, EventLogEntry).asset_observation
    except DeserializationError:
        observation = None
    if observation is None:  # by a version that wrote it differently: it stays
        return *of_partition, str(row.id)
    if ATTEMPT in observation.metadata and SPACE in observation.metadata:
        return ATTEMPT, row.partition, str(observation.metadata[SPACE].value)
    return *of_partition, *sorted(observation.metadata), *sorted(observation.tags)


def _newest_first(
    events: SqlEventLogStorage, query: db.Select[Any], ids: db.ColumnElement[int]
) -> Iterator[Sequence[db.Row[Any]]]:
    """What a query of the index finds, a bounded number of rows at a time."""
    page: Sequence[db.Row[Any]] = []
    while True:
        further = query.where(ids < page[-1].id) if page else query
        with events.index_connection() as connection:
            page = connection.execute(further.order_by(ids.desc()).limit(ROWS_AT_ONCE)).all()
        if not page:
            return
        yield page


def _is_old(row: Any, old: set[str], before: datetime) -> bool:
    return row.run_id in old or (row.run_id == RUNLESS_RUN_ID and row.timestamp < _stored(before))


def _stored(time: datetime) -> datetime:
    """As Dagster writes times into its tables."""
    return time.astimezone(UTC).replace(tzinfo=None)


def _deletion(column: db.Column[int], values: Sequence[int]) -> db.Delete:
    return db.delete(column.table).where(column.in_(values))


def prune_run(instance: DagsterInstance, run: OldRun) -> Removed:
    """Removes what is not kept of a run. What is interrupted can be done again: the run itself comes last."""
    events = _events(instance)
    if not run.is_pruned:
        instance.compute_log_manager.delete_logs(prefix=[run.run_id])
    if _decides(events, run.run_id):
        return Removed(False, 0 if run.is_pruned else _prune_log(instance, events, run.run_id))
    events.delete_events(run.run_id)
    if isinstance(events, SqliteEventLogStorage):
        _remove_file(events, run.run_id)
    instance.run_storage.delete_run(run.run_id)
    return Removed(True, 0)


def _events(instance: DagsterInstance) -> SqlEventLogStorage:
    events = instance.event_log_storage
    if not isinstance(events, SqlEventLogStorage):
        raise ArxivEmbedError(f"Events of a {type(events).__name__} cannot be pruned: stop schedule `prune_records`.")
    return events


def _decides(events: SqlEventLogStorage, run_id: str) -> bool:
    """Whether an event or an evaluation of a run is left that says how a partition or an attempt stands."""
    columns, checks = SqlEventLogStorageTable.c, AssetCheckExecutionsTable.c
    of_assets = db.select(columns.id).where(columns.run_id == run_id, columns.dagster_event_type.in_(OF_ASSETS))
    evaluations = db.select(checks.id).where(checks.run_id == run_id)
    with events.index_connection() as connection:
        return any(connection.execute(query.limit(1)).first() for query in (of_assets, evaluations))


def _prune_log(instance: DagsterInstance, events: SqlEventLogStorage, run_id: str) -> int:
    kind = SqlEventLogStorageTable.c.dagster_event_type
    of_run = SqlEventLogStorageTable.c.run_id == run_id
    rows = _delete_lines(events, INDEX, of_run, db.or_(kind.is_(None), kind.not_in([*OF_ASSETS, *OF_RUNS])))
    if isinstance(events, SqliteEventLogStorage):
        rows = _delete_lines(events, run_id, db.or_(kind.is_(None), kind.not_in(OF_RUNS)))
        _vacuum(events, run_id)
    instance.add_run_tags(run_id, {PRUNED: datetime.now(UTC).date().isoformat()})
    return rows


def _delete_lines(events: SqlEventLogStorage, place: str, *unwanted: db.ColumnElement[bool]) -> int:
    """Deletes rows of the index or of a run's own file, a bounded number at a time; returns how many."""
    some = db.select(SqlEventLogStorageTable.c.id).where(*unwanted).limit(ROWS_AT_ONCE)
    deleted = 0
    while True:
        with events.index_connection() if place == INDEX else events.run_connection(place) as connection:
            rows = connection.execute(
                db.delete(SqlEventLogStorageTable).where(SqlEventLogStorageTable.c.id.in_(some))
            ).rowcount
        if not rows:
            return deleted
        deleted += rows


def _remove_file(events: SqliteEventLogStorage, run_id: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{events.path_for_shard(run_id)}{suffix}").unlink(missing_ok=True)
    events._initialized_dbs.discard(run_id)  # or another look at it in this process would miss its tables


def give_back_space(instance: DagsterInstance) -> None:
    """To be called when all is removed: where the index is a file, makes it as small as it can be."""
    events = _events(instance)
    if isinstance(events, SqliteEventLogStorage):
        _vacuum(events, INDEX)


def _vacuum(events: SqliteEventLogStorage, place: str) -> None:
    """SQLite keeps the place of deleted rows in the file."""
    engine = db.create_engine(
        events.conn_string_for_shard(place),
        poolclass=db.pool.NullPool,
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
    )
    with engine.connect() as connection:
        connection.execute(db.text("VACUUM"))
    engine.dispose()


def purge_ticks(instance: DagsterInstance, before: datetime) -> None:
    """Removes the ticks of all sensors and schedules before that time."""
    for state in instance.all_instigator_state():
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, before.timestamp())


def remove_records(settings: Settings, before: datetime) -> int:
    """Removes the home's records of runs that ended before that time, but for the last run's; returns how many."""
    last = last_run(settings)
    removed = 0
    for folder in sorted(settings.runs.glob("*/")):
        with contextlib.suppress(FileNotFoundError), disk_faults_as_sentences(settings.runs):
            if _was_written(folder) < before.timestamp() and _is_over(folder) and folder.name != (last and last.run_id):
                shutil.rmtree(folder)
                removed += 1
    return removed


def _was_written(folder: Path) -> float:
    """When anything in it was, in seconds since the epoch."""
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def _is_over(folder: Path) -> bool:
    """Whether a run has ended, and there is nothing to tell of it: of what names no process, nobody will."""
    record = folder / RECORD
    if (folder / LOCK).exists() or is_held(record):
        return False
    return not record.exists() or has_ended(record) or ProgressReader(record).poll().process is None
