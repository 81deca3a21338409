"""A launch: the process that does the work of the command `run`, through the job `embed_pending` of Dagster.

`python -m arxiv_embed.pipeline.launch` takes a request as the first line of its standard input, and is interrupted
when that input closes: it never outlives the command that started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arxiv_embed.checkpoint.lock import FileLock, Locked
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment

if TYPE_CHECKING:
    from dagster import DagsterInstance

JOB = "embed_pending"
LOCK = "process.lock"
DEFINITIONS = "arxiv_embed.definitions"
SUCCEEDED, FAILED, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class LaunchRequest:
    """What to run, under which id of a Dagster run."""

    run_id: str
    options: RunOptions

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self), default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> LaunchRequest:
        fields = json.loads(line)
        options = fields["options"]
        folders = {name: Path(options[name]) for name in ("metadata_dir", "checkpoints")}
        priority = tuple(options["priority"])
        return cls(fields["run_id"], RunOptions(**{**options, **folders, "priority": priority}))


def main() -> int:
    """Runs the job in this process; returns the exit code."""
    request = LaunchRequest.from_line(sys.stdin.buffer.readline())
    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    from dagster._core.definitions.reconstruct import ReconstructableRepository
    from dagster._core.errors import DagsterExecutionInterruptedError
    from dagster._core.execution.api import execute_run

    from arxiv_embed.pipeline.instance import open_instance
    from arxiv_embed.pipeline.resources import resource_config

    repository = ReconstructableRepository.for_module(DEFINITIONS, "defs")
    job = repository.get_reconstructable_job(JOB)
    settings = settings_from_environment()
    with _lock(settings, request.run_id), open_instance(settings) as instance:
        report_killed_runs(instance, settings)
        run = instance.create_run_for_job(
            job.get_definition(),
            run_id=request.run_id,
            run_config={
                "execution": {"config": {"in_process": {}}},
                "resources": resource_config(request.options),
            },
            job_code_origin=job.get_python_origin(),
        )
        try:
            return SUCCEEDED if execute_run(job, run, instance).success else FAILED
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            return INTERRUPTED


def _interrupt_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # unbuffered: a lock held at the interpreter's end would be fatal
        pass
    os.kill(os.getpid(), signal.SIGINT)


def report_killed_runs(instance: DagsterInstance, settings: Settings) -> None:
    """Tells Dagster which launched runs are gone without a word, and takes back the pool's slots that they held."""
    from dagster import DagsterRunStatus, RunsFilter

    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING, DagsterRunStatus.STARTED])):
        if not (settings.runs / run.run_id / LOCK).exists():
            continue  # launched by Dagster itself, which watches over its own
        try:
            with _lock(settings, run.run_id):
                instance.report_run_failed(run, "The process of this run was killed.")
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        except Locked:
            continue


def _lock(settings: Settings, run_id: str) -> FileLock:
    """Held by a launched run while its process lives."""
    return FileLock(settings.runs / run_id / LOCK, f"Run {run_id}")


if __name__ == "__main__":
    sys.exit(main())
