"""A launched run: the process that does the work, seen from the command that started it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arxiv_embed.checkpoint.atomic import disk_faults_as_sentences
from arxiv_embed.pipeline.launch import LaunchRequest
from arxiv_embed.progress import RunProgress
from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.runs import REPORT
from arxiv_embed.settings import RunOptions, Settings

LAUNCH_MODULE = "arxiv_embed.pipeline.launch"


class LaunchedRun:
    """A context manager: the run goes on while it is open, and is interrupted when it is left early.

    The process has a group of its own, so that Ctrl-C reaches it once, through `interrupt`. `also` is given each line
    of the run's record.
    """

    def __init__(
        self,
        options: RunOptions,
        settings: Settings,
        also: Callable[[Mapping[str, Any]], object] = lambda line: None,
    ) -> None:
        self.run_id = str(uuid.uuid4())
        self._options = options
        self._record = progress_path(settings, self.run_id)
        self._reader = ProgressReader(self._record, also)

    @property
    def log(self) -> Path:
        """Everything that the process prints, Dagster's events among it."""
        return self._record.with_name("log.txt")

    @property
    def report(self) -> Path:
        """What the process leaves at its end, where it had something to do and was not killed."""
        return self._record.with_name(REPORT)

    def __enter__(self) -> Self:
        with disk_faults_as_sentences(self.log.parent):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            log = self.log.open("wb")
        with log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", LAUNCH_MODULE],  # -P: no file of the working folder shadows a module
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # killed already: its exit code says so
            self._process.stdin.write(LaunchRequest(self.run_id, self._options).to_line())
            self._process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        if self._process.poll() is None:
            self.interrupt()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def poll(self) -> RunProgress:
        """What the run has recorded so far."""
        return self._reader.poll()

    def ended(self, within: float) -> bool:
        """Waits so many seconds at most; whether the process has ended."""
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def exit_code(self) -> int:
        """Negative where a signal ended the process."""
        return self._process.returncode

    def last_words(self) -> str:
        """The last line that the process printed."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.is_file() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")

    def interrupt(self) -> None:
        """Asks the process to stop; it saves what is finished first."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Ends the process at once; what was saved before stands."""
        self._process.kill()
