"""Atomic files: whole on disk under their name, or not there at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from arxiv_embed.errors import FatalError, Kind

DRAFT_PREFIX = ".draft-"


FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)


class NoSpace(FatalError):
    """The disk is full; nothing that was committed before is harmed."""

    kind = Kind.RESOURCE


class NotWritable(FatalError):
    """A place that cannot be written, or whose name is a file's."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Temporary file in the same folder → fsync → rename → fsync of the folder.

    Raises `NoSpace` where the disk is full; the draft is removed then.
    """
    draft = path.with_name(f"{DRAFT_PREFIX}{os.getpid()}-{path.name}")
    with disk_faults_as_sentences(path.parent):
        make_folder(path.parent)
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes `folder` and what is missing above it, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames within `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_faults_as_sentences(place: Path) -> Iterator[None]:
    """Turns the operating system's words for a full disk into `NoSpace`, and for a place that it does not let us write
    into `NotWritable`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(
                f"No space is left in {place}: free some and run the same command again; what was finished is saved."
            ) from error
        if error.errno in FORBIDDEN:
            raise NotWritable(
                f"Nothing can be written to {place} ({error.strerror}): mend that, or name another place."
            ) from error
        raise
