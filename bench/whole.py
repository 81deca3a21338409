"""A whole command, timed from its start to its end, with the memory of all its processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from arxiv_embed.errors import ArxivEmbedError

LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Whole:
    """`bytes` at the peak, what processes share counted once (proportional set size)."""

    seconds: float
    bytes: int


def timed(command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> Whole:
    """Raises `ArxivEmbedError` where the command fails; it, and all that it starts, has a session of its own."""
    begun, peak = time.monotonic(), 0
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **environment},
            start_new_session=True,
        )  # fmt: skip
        while process.poll() is None:
            peak = max(peak, _held_in(process.pid))
            time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise ArxivEmbedError(f"{command[0]} ended with exit code {process.returncode}: see {log}.")
    return Whole(time.monotonic() - begun, peak)


def _held_in(session: int) -> int:
    held = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session:
                held += process.memory_full_info().pss
    return held
