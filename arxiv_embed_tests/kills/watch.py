"""A run seen from outside: its record as it grows, its processes, its locks."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

WORKER = b"arxiv_embed.gpu.worker"
Event = Mapping[str, Any]


def records_in(home: Path) -> set[Path]:
    """The records of all runs."""
    return set(home.glob("runs/*/progress.jsonl"))


def events_of(record: Path) -> list[Event]:
    """Every whole line of a record."""
    return list(_whole_lines(record.read_bytes()))


def kinds_of(events: Sequence[Event]) -> Counter[str]:
    return Counter(event["event"] for event in events)


def _whole_lines(content: bytes) -> Iterator[Event]:
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # half of one, where a killed run was gone on with


class Following:
    """The one record that is not among `known`, as it grows."""

    def __init__(self, home: Path, known: set[Path]) -> None:
        self._home = home
        self._known = known
        self._record: Path | None = None
        self._offset = 0
        self.events: list[Event] = []

    def poll(self) -> list[Event]:
        """All events so far."""
        if self._record is None:
            self._record = next(iter(records_in(self._home) - self._known), None)
            if self._record is None:
                return self.events
        with self._record.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        self._offset += new.rfind(b"\n") + 1
        self.events.extend(_whole_lines(new))
        return self.events


def children_of(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def workers_of(process: int) -> list[int]:
    return [child for child in children_of(process) if WORKER in _read(child, "cmdline")]


def processes_of(home: Path) -> list[int]:
    """Every living process that was given this home."""
    mark = f"ARXIV_EMBED_HOME={home}".encode()
    running = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for process in running if mark in _read(process, "environ").split(b"\0")]


def _read(process: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process}/{name}").read_bytes()
    except OSError:
        return b""


def held_locks(home: Path) -> list[Path]:
    """The locks below `home` that somebody holds, a record's among them."""
    found = []
    for path in home.rglob("*"):
        if path.is_file() and (path.name == "lock" or path.suffix in (".lock", ".jsonl")):
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path)
            finally:
                os.close(descriptor)
    return found


def wait_until(met: Callable[[], object], what: str, seconds: float) -> None:
    """Raises `AssertionError` where it is not met within so many seconds."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"{seconds:.0f} s were not enough until {what}"
        time.sleep(0.02)
