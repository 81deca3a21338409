"""Killed runs, told to Dagster: it shows them as failed, and its pools have their slots back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.events import EngineEventData
from dagster._core.storage.runs import SqliteRunStorage

from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.runs import LOCK, close_record, killed_runs
from arxiv_embed.settings import Settings

UNDER_WAY = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def report_killed_runs(
    instance: DagsterInstance, settings: Settings, tell: Callable[[str], object], *, but: str = ""
) -> None:
    """Tells Dagster, and whoever watches, which runs are gone without a word; `but` is the run that asks."""
    found = {killed.run_id: killed for killed in killed_runs(settings) if killed.run_id != but}
    for run in instance.get_runs(RunsFilter(statuses=UNDER_WAY)):
        if run.run_id != but and (run.run_id in found or _is_gone(instance, run, settings)):
            instance.report_run_failed(run, "The process of this run was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            if run.run_id not in found:
                tell(f"Run {run.run_id} was killed.")
    for killed in found.values():
        tell(str(killed))
        close_record(settings, killed)


def _is_gone(instance: DagsterInstance, run: DagsterRun, settings: Settings) -> bool:
    """Whether no process of a run is left that Dagster itself launched; where it has written no record yet, that can
    only be known if Dagster's storage is this machine's own."""
    if (settings.runs / run.run_id / LOCK).exists():
        return False  # of the command line, and alive
    process = ProgressReader(progress_path(settings, run.run_id)).poll().process
    if process is not None:
        return process.is_gone
    pids = _pids(instance, run) if isinstance(instance.run_storage, SqliteRunStorage) else set()
    return bool(pids) and not any(_is_dagsters(pid) for pid in pids)


def _pids(instance: DagsterInstance, run: DagsterRun) -> set[str]:
    """The processes that Dagster says it has started for a run."""
    records = instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ENGINE_EVENT).records
    events = [record.event_log_entry.dagster_event for record in records]
    details = [event.event_specific_data for event in events if event is not None]
    found = [data.metadata for data in details if isinstance(data, EngineEventData) and "pid" in data.metadata]
    return {str(metadata["pid"].value) for metadata in found}


def _is_dagsters(pid: str) -> bool:
    try:
        return b"dagster" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
