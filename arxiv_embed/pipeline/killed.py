"""Killed runs, told to Dagster: it shows them as failed, gives their slots back to its pools, and tries them again."""

from __future__ import annotations

from collections.abc import Callable

from dagster import (
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunsFilter,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)
from dagster._core.events import EngineEventData
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.tags import GRPC_INFO_TAG

from arxiv_embed.checkpoint.lock import is_held
from arxiv_embed.processes import began
from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.runs import LOCK, close_record, killed_runs
from arxiv_embed.settings import Settings, settings_from_environment

UNDER_WAY = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
CLOCK_SECONDS = 2.0
"""By which the clocks of a process's start and of the event that tells of it may differ."""


@sensor(
    name="killed_runs",
    minimum_interval_seconds=30,
    default_status=DefaultSensorStatus.RUNNING,
    description="Notices runs whose process is gone, so that they are shown as failed and tried again.",
)
def watch_for_killed_runs(context: SensorEvaluationContext) -> SkipReason:
    """Runs beside the runs' own processes, as code server and runs share a machine."""
    told: list[str] = []
    beside = isinstance(context.instance.run_launcher, DefaultRunLauncher)
    report_killed_runs(context.instance, settings_from_environment(), told.append, beside=beside)
    return SkipReason("\n".join(told) or "No run was killed.")


def report_killed_runs(
    instance: DagsterInstance,
    settings: Settings,
    tell: Callable[[str], object],
    *,
    but: str = "",
    beside: bool = False,
) -> None:
    """Tells Dagster, and whoever watches, which runs are gone without a word; `but` is the run that asks. `beside` says
    that what the code server launches runs on this machine; where Dagster's storage is SQLite, every run does."""
    found = {killed.run_id: killed for killed in killed_runs(settings) if killed.run_id != but}
    for run in instance.get_runs(RunsFilter(statuses=UNDER_WAY)):
        here = isinstance(instance.run_storage, SqliteRunStorage) or (beside and GRPC_INFO_TAG in run.tags)
        if run.run_id != but and (run.run_id in found or _is_gone(instance, run, settings, here=here)):
            now = instance.get_run_by_id(run.run_id)
            if now is None or now.is_finished:
                continue  # it has ended since they were listed
            instance.report_run_failed(run, "The process of this run was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            if run.run_id not in found:
                tell(f"Run {run.run_id} was killed.")
    for killed in found.values():
        tell(str(killed))
        close_record(settings, killed)


def _is_gone(instance: DagsterInstance, run: DagsterRun, settings: Settings, *, here: bool) -> bool:
    """Whether no process of a run is left that Dagster itself launched; where it has written no record yet, the
    processes that Dagster has noted are looked for, if they would be `here`."""
    if (settings.runs / run.run_id / LOCK).exists():
        return False  # of the command line, and alive
    record = progress_path(settings, run.run_id)
    process = ProgressReader(record).poll().process
    if process is not None:
        return process.is_gone and not is_held(record)  # a step may outlive its run by a moment, and still write
    noted = noted_processes(instance, run) if here else []
    return bool(noted) and not any(is_there(pid, time) for pid, time in noted)


def noted_processes(instance: DagsterInstance, run: DagsterRun) -> list[tuple[int, float]]:
    """The processes that Dagster says it has started for a run, and when it said so."""
    found = []
    for record in instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ENGINE_EVENT).records:
        event = record.event_log_entry.dagster_event
        data = event.event_specific_data if event else None
        if isinstance(data, EngineEventData) and "pid" in data.metadata:
            found.append((int(str(data.metadata["pid"].value)), record.event_log_entry.timestamp))
    return found


def is_there(pid: int, noted: float) -> bool:
    """Whether it is that process, and not a later one that was given its number."""
    start = began(pid)
    return start is not None and start <= noted + CLOCK_SECONDS
