"""The log's file: whole lines that several processes append, rotated by size."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path

from arxiv_embed.checkpoint.atomic import make_folder
from arxiv_embed.checkpoint.lock import FileLock, Locked

LARGEST = 20_000_000
"""Bytes, after which a file is rotated."""
FILES = 5
"""How many there are at most: `production_pipeline.log`, then `….log.1`, the newest of the others, and so on."""
WAIT_SECONDS = 2.0
"""For another process that rotates, which is the work of a moment."""


class LogFile:
    """Lines are appended from any thread and any process, each by one write, so that none is torn by another. Opened
    with the first line, and anew where somebody has moved it away. Raises `OSError` and `ArxivEmbedError`."""

    def __init__(self, path: Path, lock: Path, largest: int = LARGEST, files: int = FILES) -> None:
        self._path = path
        self._lock = lock
        self._largest = largest
        self._files = files
        self._descriptor: int | None = None
        self._is_torn = False
        self._writing = threading.Lock()

    def append(self, line: bytes) -> None:
        """A line without its end."""
        with self._writing:
            self._open_where_it_is(len(line))
            assert self._descriptor is not None
            content = b"\n" + line + b"\n" if self._is_torn else line + b"\n"
            self._is_torn = True
            if os.write(self._descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._is_torn = False

    def close(self) -> None:
        with self._writing:
            self._close()

    def _open_where_it_is(self, more: int) -> None:
        """Opens what has the name now, once there is room in it for so many bytes."""
        size = self._size()
        if size and size + more > self._largest:
            # Whoever comes second finds it rotated; whoever cannot get the lock in time makes it a little larger.
            with contextlib.suppress(Locked), FileLock(self._lock, "The log", WAIT_SECONDS):
                size = self._size()
                if size and size + more > self._largest:
                    self._rotate()
            self._size()
        if self._descriptor is None:
            make_folder(self._path.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o644)

    def _size(self) -> int:
        """Of the file with the name; what is open is closed where it is not that."""
        try:
            there = self._path.stat()
        except FileNotFoundError:
            self._close()
            return 0
        if self._descriptor is not None and not os.path.samestat(os.fstat(self._descriptor), there):
            self._close()
        return there.st_size

    def _rotate(self) -> None:
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._files))]
        for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
            with contextlib.suppress(FileNotFoundError):
                newer.rename(older)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
