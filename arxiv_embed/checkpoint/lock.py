"""A lock held by a process on a file: it dies with the process and names it meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from arxiv_embed.checkpoint.atomic import disk_faults_as_sentences, make_folder
from arxiv_embed.errors import ArxivEmbedError, Kind

LOOK_AGAIN_SECONDS = 0.05


class Locked(ArxivEmbedError):
    """Another process holds the lock; the message names it, and `holder`, as in "process 123 on host"."""

    kind = Kind.TRANSIENT

    def __init__(self, what: str, holder: str) -> None:
        super().__init__(f"{what} is in use by {holder}: wait for it to end, or stop it, and run again.")
        self.holder = holder


class FileLock:
    """A context manager; `what` says in an error what is being held, as in "The store /data/papers"."""

    def __init__(self, path: Path, what: str, wait_seconds: float = 0.0) -> None:
        self._path = path
        self._what = what
        self._wait_seconds = wait_seconds
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """Takes the lock; raises `Locked` where another process keeps it longer than `wait_seconds`."""
        with disk_faults_as_sentences(self._path.parent):
            make_folder(self._path.parent)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(LOOK_AGAIN_SECONDS)
                    continue
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
                os.close(descriptor)
                raise Locked(self._what, holder) from None
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # a full disk keeps nobody from the lock, only from its name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a file; it dies with that process."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
