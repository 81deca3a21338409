"""Atomic files: whole on disk under their name, or not there at all; and the disk's faults, told in sentences.

Everything that the checkpoint package changes on disk goes through the few functions here.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from arxiv_embed.errors import ArxivEmbedError, FatalError, Kind

DRAFT_PREFIX = ".draft-"

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
FAILING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.EUCLEAN, errno.EBADMSG)
"""What reading says of a file that is not there, or that the disk itself knows to be damaged."""


class NoSpace(FatalError):
    """The disk is full; nothing that was committed before is harmed."""

    kind = Kind.RESOURCE


class NotWritable(FatalError):
    """A place that cannot be written, or whose name is a file's."""


class NotReadable(ArxivEmbedError):
    """A file that is there and may not be read; it is not counted as damaged."""


class DiskFault(ArxivEmbedError):
    """The disk, or the way to it, fails; it may be back in a moment."""

    kind = Kind.TRANSIENT


class DamagedFile(ValueError):
    """What is under a name is not what was written there; the message says why, in a few words."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Temporary file in the same folder → fsync → rename → fsync of the folder.

    Raises `NoSpace` where the disk is full. The draft is removed then, as after any fault: a second fsync would claim
    to have written what the first one lost.
    """
    draft = path.with_name(f"{DRAFT_PREFIX}{os.getpid()}-{path.name}")
    with disk_faults_as_sentences(path.parent, len(content)):
        make_folder(path.parent)
        try:
            _write_durably(draft, memoryview(content))
            os.replace(draft, path)  # noqa: PTH105 - os's functions, as tests record every step there
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        sync_folder(path.parent)


def _write_durably(path: Path, content: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, root: Path | None = None) -> None:
    """Makes `folder` and what is missing above it, durably. With `root`, all from there down is made durable even
    where it is there already: a process may have made it and been killed before it was."""
    for place in reversed((folder, *folder.parents)):
        missing = not place.is_dir()
        if missing:
            place.mkdir(exist_ok=True)
        if missing or (root is not None and place.is_relative_to(root)):
            sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Makes what was named, renamed and removed within `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(path: Path, folder: Path) -> None:
    """Moves a file into another folder, durably there before it is durably gone from here. One that is no longer
    there, or lies in a folder that is not, has been moved already."""
    with contextlib.suppress(FileNotFoundError):
        path.rename(folder / path.name)
        sync_folder(folder)
        sync_folder(path.parent)


def remove(paths: Iterable[Path], folder: Path) -> None:
    """Removes files of a folder, durably; also those that a process removed which was killed before they were."""
    for path in paths:
        path.unlink(missing_ok=True)
    sync_folder(folder)


@contextlib.contextmanager
def disk_faults_as_sentences(place: Path, needed: int = 0) -> Iterator[None]:
    """Turns the operating system's words for a full disk into `NoSpace`, for a place that it does not let us write
    into `NotWritable`, and for a disk that fails into `DiskFault`; `needed` is how many bytes were to be written."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            some = f"{max(1, round(needed / 1e6)):,} MB and more" if needed else "some"
            raise NoSpace(
                f"No space is left in {place}: free {some} and run the same command again; what was finished is saved."
            ) from error
        if error.errno in FORBIDDEN:
            raise NotWritable(
                f"Nothing can be written to {place} ({error.strerror}): mend that, or name another place."
            ) from error
        if error.errno in FAILING:
            raise DiskFault(
                f"The disk of {place} fails ({error.strerror}): check it and run the same command again; what was "
                "finished is saved."
            ) from error
        raise


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tells a file that is damaged (`DamagedFile`) from one that cannot be read now (`NotReadable`, `DiskFault`)."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in LOST:
            raise DamagedFile(error.strerror or str(error)) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NotReadable(f"{path} may not be read ({error.strerror}): mend its rights and run again.") from error
        raise DiskFault(
            f"{path} cannot be read now ({error.strerror}): check its disk or network and run again."
        ) from error
