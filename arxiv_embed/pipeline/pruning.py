"""Pruning: Dagster's records of old runs without what nobody asks for any more.

A run that made nothing is deleted whole. Of the others the lines of the log go: what is known of partitions stays
(materializations; observations, which count failed attempts; what was planned, which makes a partition red; checks),
and so do the events of a run as a whole, by which its page says when it began and how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as db
from dagster import DagsterInstance, RunRecord, RunsFilter
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, PIPELINE_EVENTS
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from arxiv_embed.errors import ArxivEmbedError

PRUNED = "arxiv_embed/pruned"
"""Tag of a run whose log was pruned: the day it was."""

NEWEST = 25
"""Runs that are never touched, however old."""

RUNS_AT_ONCE, ROWS_AT_ONCE = 200, 5_000
OF_PARTITIONS = [event.value for event in ASSET_EVENTS | ASSET_CHECK_EVENTS]
KEPT = [*OF_PARTITIONS, *(event.value for event in PIPELINE_EVENTS)]


@dataclass(frozen=True)
class Removed:
    """Whether a run was deleted whole, and how many lines of its log went."""

    whole: bool
    rows: int


def old_runs(instance: DagsterInstance, before: datetime) -> list[str]:
    """The ids of all runs that ended before that time and are not pruned yet, but for the newest."""
    newest = instance.get_run_ids(limit=NEWEST)
    cursor = newest[-1] if len(newest) == NEWEST else None
    found: list[str] = []
    while cursor is not None:
        filters = RunsFilter(statuses=FINISHED_STATUSES, created_before=before)
        page = instance.get_run_records(filters, limit=RUNS_AT_ONCE, cursor=cursor)
        cursor = page[-1].dagster_run.run_id if page else None
        found.extend(record.dagster_run.run_id for record in page if _is_old(record, before))
    return found


def _is_old(record: RunRecord, before: datetime) -> bool:
    ended = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp
    return ended < before and PRUNED not in record.dagster_run.tags


def prune_run(instance: DagsterInstance, run_id: str) -> Removed:
    """Removes what is not kept of a run. What is interrupted can be done again: the run itself comes last."""
    events = _events(instance)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    if _has_asset_events(events, run_id):
        rows = sum(_delete_lines(events, run_id))
        if isinstance(events, SqliteEventLogStorage) and rows:
            _give_back_space(events, run_id)
        instance.add_run_tags(run_id, {PRUNED: datetime.now(UTC).date().isoformat()})
        return Removed(False, rows)
    events.delete_events(run_id)
    if isinstance(events, SqliteEventLogStorage):
        _remove_file(events, run_id)
    instance.run_storage.delete_run(run_id)
    return Removed(True, 0)


def _events(instance: DagsterInstance) -> SqlEventLogStorage:
    events = instance.event_log_storage
    if not isinstance(events, SqlEventLogStorage):
        raise ArxivEmbedError(f"Events of a {type(events).__name__} cannot be pruned: stop schedule `prune_records`.")
    return events


def _has_asset_events(events: SqlEventLogStorage, run_id: str) -> bool:
    columns = SqlEventLogStorageTable.c
    of_run = db.select(columns.id).where(columns.run_id == run_id, columns.dagster_event_type.in_(OF_PARTITIONS))
    with events.index_connection() as connection:
        return connection.execute(of_run.limit(1)).first() is not None


def _delete_lines(events: SqlEventLogStorage, run_id: str) -> Iterator[int]:
    """Deletes a run's rows that are not kept, a bounded number at a time; yields how many."""
    columns = SqlEventLogStorageTable.c
    kind = columns.dagster_event_type
    unwanted = db.select(columns.id).where(columns.run_id == run_id, db.or_(kind.is_(None), kind.not_in(KEPT)))
    deleted = 1
    while deleted:
        batch = db.delete(SqlEventLogStorageTable).where(columns.id.in_(unwanted.limit(ROWS_AT_ONCE)))
        with events.run_connection(run_id) as connection:
            deleted = connection.execute(batch).rowcount
        yield deleted


def _remove_file(events: SqliteEventLogStorage, run_id: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{events.path_for_shard(run_id)}{suffix}").unlink(missing_ok=True)
    events._initialized_dbs.discard(run_id)  # or another look at it in this process would miss its tables


def _give_back_space(events: SqliteEventLogStorage, run_id: str) -> None:
    """SQLite keeps the place of deleted rows in the file."""
    engine = db.create_engine(
        events.conn_string_for_shard(run_id), poolclass=db.pool.NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(db.text("VACUUM"))
    engine.dispose()


def purge_ticks(instance: DagsterInstance, before: datetime) -> None:
    """Removes the ticks of all sensors and schedules before that time."""
    for state in instance.all_instigator_state():
        instance.purge_ticks(state.instigator_origin_id, state.selector_id, before.timestamp())
