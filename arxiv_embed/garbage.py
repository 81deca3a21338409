"""Garbage: looked for less often in a process that consists of imported libraries, and no more when it ends.

Importing torch, Dagster or LanceDB makes hundreds of thousands of objects that live as long as the process. To walk
through them again and again while they grow in number, and once more at the end, took a third of a small run's time.
"""

from __future__ import annotations

import atexit
import gc

OBJECTS = 10_000
"""So many more of them are made before the youngest are looked through; Python's own number is 700."""


def collect_rarely() -> None:
    """For the beginning of a process: at its end everything counts as alive, and goes with the process."""
    gc.set_threshold(OBJECTS)
    atexit.register(gc.freeze)  # the last to be called, as the first to be registered
