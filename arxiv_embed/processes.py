"""Processes: which one it was, known again after its number has been given to another."""

from __future__ import annotations

import multiprocessing
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

STARTED_FIELD = 19
"""Of /proc/<pid>/stat, counted after the process's name: ticks since the system booted."""


@dataclass(frozen=True)
class ProcessId:
    """`started` is as the system counts it, "" where it does not say."""

    host: str
    pid: int
    started: str

    @classmethod
    def of_run(cls) -> Self:
        """The process whose end is the run's: this one, or the one that it was spawned by as one of a run's steps."""
        parent = multiprocessing.parent_process()
        pid = os.getpid() if parent is None or parent.pid is None else parent.pid
        return cls(socket.gethostname(), pid, _started(pid) or "")

    @property
    def is_gone(self) -> bool:
        """Whether it has certainly ended; what runs on another machine cannot be known."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        started = _started(self.pid)
        return started is not None and started != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def began(pid: int) -> float | None:
    """When a process of this machine began, seconds since the epoch; None where there is none, or a zombie."""
    started = _started(pid)
    if not started:
        return None
    [booted] = (line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    return int(booted) + int(started) / os.sysconf("SC_CLK_TCK")


def _started(pid: int) -> str | None:
    """None where the system does not say; a zombie's is "": it does nothing any more."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] == "Z" else fields[STARTED_FIELD]
