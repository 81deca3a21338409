"""Meters: what a worker's device has of memory, and what a batch took of it; bytes throughout."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import Protocol

from arxiv_embed.gpu.inventory import cpu_memory, cpu_model

MALLOC_KEPT = 2**31 - 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


class Meter(Protocol):
    """One device as its worker sees it."""

    device_type: str
    keeps: bool

    def total(self) -> int:
        """What the device has."""

    def held(self) -> int:
        """What this worker holds now."""

    def other(self) -> int:
        """What others hold now."""

    def available(self) -> int:
        """What a batch can be given now."""

    def begin(self) -> None:
        """A batch begins."""

    def peak(self) -> int:
        """The most that this worker has held since."""

    def is_out_of_memory(self, error: Exception) -> bool: ...

    def free(self) -> None:
        """Gives back what a failed batch has left."""

    def is_sound(self) -> bool:
        """Whether the device still computes after an error."""


class CudaMeter:
    """A GPU by torch's own account of its memory; the worker sees this GPU alone."""

    keeps = False

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda
        self._out_of_memory = torch.OutOfMemoryError
        self.device_type = torch.cuda.get_device_name()

    def total(self) -> int:
        return int(self._cuda.mem_get_info()[1])

    def held(self) -> int:
        return int(self._cuda.memory_allocated())

    def other(self) -> int:
        free, total = self._cuda.mem_get_info()
        return max(0, int(total - free - self._cuda.memory_reserved()))

    def available(self) -> int:
        return int(self._cuda.mem_get_info()[0] + self._cuda.memory_reserved() - self._cuda.memory_allocated())

    def begin(self) -> None:
        self._cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return int(self._cuda.max_memory_allocated())

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, self._out_of_memory)

    def free(self) -> None:
        gc.collect()
        self._cuda.empty_cache()

    def is_sound(self) -> bool:
        try:
            self._cuda.synchronize()
        except RuntimeError:
            return False
        return True


class CpuMeter:
    """A share of the machine's memory: this process's own, of what `sharers` workers have together."""

    keeps = True

    def __init__(self, sharers: int) -> None:
        self._sharers = sharers
        self.device_type = cpu_model()
        _keep_freed_memory()

    def total(self) -> int:
        return cpu_memory()[0] // self._sharers

    def held(self) -> int:
        return _status("VmRSS") or self.peak()

    def other(self) -> int:
        total, available = cpu_memory()
        return max(0, (total - available) // self._sharers - self.held())

    def available(self) -> int:
        return sys.maxsize  # an operating system grants what it may later have to swap

    def begin(self) -> None:
        try:
            PEAK_RESET.write_text(RESET_PEAK)
        except OSError:  # not Linux, or not allowed: the peak is then of the whole process
            return

    def peak(self) -> int:
        return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError) or "can't allocate memory" in str(error)

    def free(self) -> None:
        gc.collect()
        _call_of_libc("malloc_trim", 0)

    def is_sound(self) -> bool:
        return True


def _status(name: str) -> int:
    """A figure of this process in /proc, 0 where there is none."""
    try:
        return int(STATUS.read_text().partition(f"{name}:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed memory: every batch needs the same again, and fresh pages cost time."""
    _call_of_libc("mallopt", M_MMAP_THRESHOLD, MALLOC_KEPT)
    _call_of_libc("mallopt", M_TRIM_THRESHOLD, MALLOC_KEPT)


def _call_of_libc(name: str, *arguments: int) -> None:
    """Calls a function of glibc; other libraries need not have it."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
