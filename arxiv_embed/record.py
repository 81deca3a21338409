"""The record of a run, written by the process that does the work and read by every display.

A file of JSON lines, `<home>/runs/<run id>/progress.jsonl`: one event a line, with its time and name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arxiv_embed.events import Event
from arxiv_embed.progress import RunProgress
from arxiv_embed.settings import Settings
from arxiv_embed.soundness import event_of

RECORD = "progress.jsonl"
LONGEST_LAST_LINE = 16_384
"""Bytes; an error's message is cut long before."""


def progress_path(settings: Settings, run_id: str) -> Path:
    return settings.runs / run_id / RECORD


class ProgressWriter:
    """A context manager that appends events, each by one write of one whole line, from any thread; the record is locked
    meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._is_torn = False
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")  # an attempt that was killed left half a line
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, event: Event) -> None:
        line = {"time": round(time.time(), 3), "event": event.name, **asdict(event)}
        content = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._writing:
            if self._is_torn:
                content = b"\n" + content
            self._is_torn = True
            if os.write(self._descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._is_torn = False


def has_ended(path: Path) -> bool:
    """Whether the last whole line of a run's record says that the run is over."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST_LAST_LINE))
        lines = file.read().split(b"\n")
    return len(lines) > 1 and b'"event":"run_finished"' in lines[-2]


class ProgressReader:
    """Follows a run's record as it grows; each event that was taken in is handed on to `also`."""

    def __init__(self, path: Path, also: Callable[[Mapping[str, Any]], object] = lambda line: None) -> None:
        self._path = path
        self._also = also
        self._offset = 0
        self.progress = RunProgress()

    def poll(self) -> RunProgress:
        """Takes in every whole line written since the last call; a record that is not there yet is an empty one, and
        a line that a killed writer has cut, that has been damaged, or that another version has written otherwise,
        is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except OSError:
            return self.progress
        end = new.rfind(b"\n") + 1
        self._offset += end
        for line in new[:end].splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                event = event_of(line)
                self.progress.apply(event)
                self._also(event)
        return self.progress
