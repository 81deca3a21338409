"""Changes of a driven run's process: a disk that answers with EIO, devices that are slow."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OPERATION, PLACE, TIMES = "FAULTY_OPERATION", "FAULTY_PLACE", "FAULTY_TIMES"
"""Environment variables: what the disk fails at ("write", "fsync" or "read"), a pattern of the paths concerned,
and how often; without that, for ever."""


CHANGED = pytest.MonkeyPatch()
"""Refuses to change what is not there, so that a change which has lost its object is noticed."""

DIMENSIONS = 32
"""Those of the fixture `tiny_model`."""


def faulty_disk() -> None:
    """Every operation of the named kind on the files that the pattern finds fails with EIO; devices are instant."""
    instant_devices()
    operation, place = os.environ[OPERATION], re.compile(os.environ[PLACE])
    left = int(os.environ.get(TIMES, sys.maxsize))

    def refuse(path: str) -> None:
        nonlocal left
        if left and place.search(path):
            left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def of_descriptor(real: Callable[..., Any]) -> Callable[..., Any]:
        def checked(descriptor: int, *arguments: Any) -> Any:
            refuse(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            return real(descriptor, *arguments)

        return checked

    if operation == "fsync":
        os.fsync = of_descriptor(os.fsync)
        return
    real_open = io.open

    class Faulty(io.FileIO):
        def write(self, content: Any) -> int:
            if operation == "write":
                refuse(str(self.name))
            return super().write(content)

        def read(self, size: int | None = -1) -> bytes:
            if operation == "read":
                refuse(str(self.name))
            return super().read(-1 if size is None else size)

        def readall(self) -> bytes:
            return self.read()

        def readinto(self, buffer: Any) -> int | None:
            if operation == "read":
                refuse(str(self.name))
            return super().readinto(buffer)

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or "b" not in mode or not place.search(str(file)):
            return real_open(file, mode, *arguments, **options)
        raw = Faulty(file, mode.replace("b", ""))
        return io.BufferedWriter(raw) if raw.writable() else io.BufferedReader(raw)

    io.open = opened
    if operation == "write":
        os.write = of_descriptor(os.write)
    else:
        os.read = of_descriptor(os.read)
        os.pread = of_descriptor(os.pread)


def short_waits() -> None:
    """No long wait for what stays ill."""
    import arxiv_embed.attempts

    for name in ("PAUSE_SECONDS", "FIRST_WAIT"):
        CHANGED.setattr(arxiv_embed.attempts, name, 0.1)


def instant_devices() -> None:
    """Short waits, and devices without a model."""
    short_waits()
    _replace_pool(delay=0.0)


def impatient() -> None:
    """Instant devices, and one look only whether Dagster's database is back."""
    instant_devices()
    from arxiv_embed.pipeline import reporter

    for kind in reporter.MOST_WAITS:
        reporter.MOST_WAITS[kind] = 1


def slow_devices() -> None:
    """Devices without a model, that take a quarter of a second a paper; every paper is a segment."""
    import arxiv_embed.embed

    CHANGED.setattr(arxiv_embed.embed, "SEGMENT_PAPERS", 1)
    _replace_pool(delay=0.25)


def _replace_pool(delay: float) -> None:
    import arxiv_embed.equipment
    from arxiv_embed_tests.fake_pool import FakePool

    CHANGED.setattr(arxiv_embed.equipment, "Pool", FakePool(DIMENSIONS, delay=delay))
