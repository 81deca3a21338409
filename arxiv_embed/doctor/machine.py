"""The machine: memory, disks, rights, shared memory, limits and clocks."""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from arxiv_embed.doctor.check import Check, Closed, State, Subject, fine, skipped, warn, wrong
from arxiv_embed.gpu.inventory import machine_memory
from arxiv_embed.settings import store_folders

GB = 1e9
LITTLE_MEMORY, SCARCE_MEMORY = 2 * GB, 0.5 * GB
LITTLE_DISK, SCARCE_DISK = 5 * GB, 0.5 * GB
LEAST_SHARED = 1_000_000
ADVISED_FILES, LEAST_FILES = 1024, 256
MOST_SECONDS_APART = 2.0
FILES_LOOKED_AT = 1000

ADJTIMEX_BYTES, STATUS_AT, UNSYNCHRONIZED = 256, 40, 0x40
"""Of Linux's `struct timex` on 64-bit machines: room for it, where its field `status` lies, and a bit of that."""


def memory(total: int, free: int | None) -> Check:
    """Of the machine, or of what its cgroup allows, in bytes."""
    if free is None:
        return fine("memory", f"{total / GB:.1f} GB")
    text = f"{free / GB:.1f} of {total / GB:.1f} GB free"
    if free < SCARCE_MEMORY:
        return wrong("memory", text, "end what takes it, or allow the container more: a model does not fit")
    if free < LITTLE_MEMORY:
        return warn("memory", text, "end what takes it, or give --devices cpu:1, as each worker has its own model")
    return fine("memory", text)


def this_memory() -> Iterator[Check]:
    yield memory(*machine_memory())


def disk(name: str, place: Path, free: int, inodes: int | None) -> Check:
    """`free` bytes and `inodes` for whoever is no superuser; None where the file system has no number of them."""
    text = f"{free / GB:.1f} GB free in {place}"
    if inodes == 0:
        return wrong(name, f"no file can be made any more in {place} (no inodes)", "remove small files there")
    if free < SCARCE_DISK:
        return wrong(name, text, "free some, or name another place: a run stops when it is full, with all saved")
    if free < LITTLE_DISK:
        return warn(name, text, "vectors are kept twice, in checkpoints and store: free some")
    return fine(name, text)


def disks(subject: Subject) -> Iterator[Check]:
    places = [("home", subject.settings.home), ("checkpoints", subject.checkpoints)]
    for name, place in [*places, *(("store", folder) for folder in store_folders(subject.store))]:
        there = _nearest(place)
        left = os.statvfs(there)
        yield disk(f"disk of {name}", there, left.f_bavail * left.f_frsize, left.f_favail if left.f_files else None)


def rights(subject: Subject) -> Iterator[Check]:
    settings = subject.settings
    below = (settings.runs, settings.stores, settings.history, settings.index, settings.leases, settings.locks)
    yield writable("home", [settings.home, *below, settings.dagster])
    yield writable("checkpoints", [subject.checkpoints])
    yield readable_metadata(subject.metadata_dir)


def writable(name: str, folders: Sequence[Path]) -> Check:
    """The first is there or can be made; of the others, those that are there."""
    first, *others = folders
    nearest = _nearest(first)
    may_enter = os.access(nearest, os.X_OK, effective_ids=True)
    there = [nearest, *(other for other in others if may_enter and other.exists())]
    for folder in there:
        if not folder.is_dir():
            return wrong(name, f"{folder} is no folder", "move that file away, or set ARXIV_EMBED_HOME elsewhere")
    closed = [folder for folder in there if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True)]
    if closed:
        owners = ", ".join(f"{folder} (owner {folder.stat().st_uid})" for folder in closed)
        remedy = (
            f"sudo chown -R $USER {shlex.join(map(str, closed))}, mount writable, or set ARXIV_EMBED_HOME elsewhere"
        )
        text = f"nothing can be written to {owners}; you are {os.geteuid()}"
        return Closed(name, State.WRONG, text, remedy, tuple(closed))
    return fine(name, f"{first} is writable" if first.exists() else f"{first} will be made")


def readable_metadata(folder: Path | None) -> Check:
    name = "metadata"
    if folder is None:
        return skipped(name, "no folder is named: set ARXIV_EMBED_METADATA_DIR, or give --metadata-dir")
    if not folder.is_dir():
        return wrong(name, f"there is no folder {folder}", "mend the path, or mount it")
    if not os.access(folder, os.R_OK | os.X_OK):
        return wrong(name, f"{folder} may not be read", f"chmod -R a+rX {folder}")
    files = list(islice((entry for entry in os.scandir(folder)), FILES_LOOKED_AT))
    if not files:
        return wrong(name, f"{folder} is empty", "put arXiv metadata there, or fetch some with `arxiv-embed harvest`")
    closed = [entry.name for entry in files if not os.access(entry.path, os.R_OK)]
    if closed:
        return wrong(
            name, f"{len(closed)} files of {folder} may not be read, as {closed[0]}", f"chmod -R a+rX {folder}"
        )
    return fine(name, f"{folder} is readable")


def shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Check]:
    name = "shared memory"
    if not sys.platform.startswith("linux"):
        yield skipped(name, "batches travel through files without a name here")
        return
    try:
        descriptor = os.memfd_create("doctor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, LEAST_SHARED)
            os.write(descriptor, b"x")
        finally:
            os.close(descriptor)
    except OSError as error:
        remedy = "batches travel through it: allow the call memfd_create (a sandbox or seccomp forbids it)"
        yield wrong(name, f"no memory without a name can be made ({error.strerror})", remedy)
        return
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        remedy = f"mount -t tmpfs tmpfs {folder} (in Docker: --shm-size 1g): workers are started through it"
        yield wrong(name, f"{folder} is not there, or not writable", remedy)
        return
    left = os.statvfs(folder)
    free = left.f_bavail * left.f_frsize
    if free < LEAST_SHARED:
        yield wrong(name, f"{folder} is full", "remove what programs left there, or give it more (--shm-size 1g)")
    else:
        yield fine(name, f"{free / GB:.2f} GB free in {folder}; batches need none of it")


def open_files(limit: int) -> Check:
    text = "no limit" if limit == resource.RLIM_INFINITY else f"{limit} at once"
    if limit != resource.RLIM_INFINITY and limit < ADVISED_FILES:
        remedy = "ulimit -n 65536 before the command (LimitNOFILE= in a systemd unit)"
        return (wrong if limit < LEAST_FILES else warn)("open files", text, remedy)
    return fine("open files", text)


def these_open_files() -> Iterator[Check]:
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def clock(ahead: float, synchronized: bool | None) -> Check:
    """`ahead` is how many seconds the file system's clock is before the system's."""
    if abs(ahead) > MOST_SECONDS_APART:
        text = f"the file system of the home is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine"
        return wrong("clocks", text, "synchronize both machines (chrony, systemd-timesyncd): changed files are missed")
    if synchronized is False:
        text = "nothing synchronizes the system's clock"
        return warn("clocks", text, "timedatectl set-ntp true (on the host of a container): dates of runs drift")
    known = "synchronized" if synchronized else "not known whether synchronized"
    return fine("clocks", f"the system's agrees with the file system's; {known}")


def clocks(subject: Subject) -> Iterator[Check]:
    home = subject.settings.home
    ahead = 0.0
    if home.is_dir() and os.access(home, os.W_OK):
        with tempfile.TemporaryFile(dir=home) as file:  # without a name: nothing is left
            file.write(b"x")
            file.flush()
            ahead = os.fstat(file.fileno()).st_mtime - time.time()
    yield clock(ahead, is_synchronized())


def is_synchronized() -> bool | None:
    """As Linux's kernel has it; None where it does not say."""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    answer = ctypes.create_string_buffer(ADJTIMEX_BYTES)  # its first field says that nothing is to be set
    if ctypes.CDLL(None).adjtimex(answer) < 0:
        return None
    status = ctypes.c_int.from_buffer(answer, STATUS_AT).value
    return not status & UNSYNCHRONIZED


def _nearest(place: Path) -> Path:
    """The place, or the nearest above it that is there, as far as may be seen."""
    return next(folder for folder in (place, *place.parents) if os.path.exists(folder))  # noqa: PTH110 - as it never raises
