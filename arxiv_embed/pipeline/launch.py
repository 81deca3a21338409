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
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from arxiv_embed.errors import Kind, sentence
from arxiv_embed.garbage import collect_rarely
from arxiv_embed.runs import hold_run, release_run
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment

JOB = "embed_pending"
WAITS_AT_START = {Kind.TRANSIENT: 3, Kind.RESOURCE: 1}
"""Some seconds: a command that has begun nothing yet is not to be silent for long."""
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
    collect_rarely()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without it
    request = LaunchRequest.from_line(sys.stdin.buffer.readline())
    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    settings = settings_from_environment()
    try:
        with hold_run(settings, request.run_id):
            try:
                return _execute(request, settings)
            finally:
                release_run(settings, request.run_id)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
        print(sentence(error), file=sys.stderr)  # the last line is what the command shows
        return FAILED


def _execute(request: LaunchRequest, settings: Settings) -> int:
    from dagster import Definitions
    from dagster._core.definitions.job_base import InMemoryJob
    from dagster._core.errors import DagsterExecutionInterruptedError
    from dagster._core.execution.api import execute_run

    from arxiv_embed.pipeline.instance import open_instance
    from arxiv_embed.pipeline.jobs import job_of_what_remains
    from arxiv_embed.pipeline.reporter import patiently
    from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource, resource_config

    # No pool: a run of the command line is refused at once where its devices are taken, and never waits for a slot.
    resources = {"embedding": EmbeddingResource.configure_at_launch(), "gpus": GpuResource.configure_at_launch()}
    job = Definitions(jobs=[job_of_what_remains(pool=None)], resources=resources).resolve_job_def(JOB)
    with patiently(lambda: open_instance(settings), most_waits=WAITS_AT_START) as instance:
        run = instance.create_run_for_job(
            job,
            run_id=request.run_id,
            run_config={
                "execution": {"config": {"in_process": {}}},
                "resources": resource_config(request.options),
            },
        )
        try:
            return SUCCEEDED if execute_run(InMemoryJob(job), run, instance).success else FAILED
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            return INTERRUPTED


def _interrupt_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # unbuffered: a lock held at the interpreter's end would be fatal
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
