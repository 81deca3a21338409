"""Devices: what a run computes on, as the user names them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from arxiv_embed.settings import ArxivEmbedError

DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""What a driver of CUDA devices shows: NVIDIA's, the one within WSL, AMD's."""


@dataclass(frozen=True)
class Device:
    """`name` is unique in a run ("cpu:0", "cuda:1"); `kind` is "cpu" or "cuda"."""

    name: str
    kind: str

    @property
    def torch_name(self) -> str:
        return "cpu" if self.kind == "cpu" else self.name


def parse_devices(spec: str) -> list[Device]:
    """Reads `auto`, `cpu:2` (two workers, of one thread each) or `cuda:0,cuda:1`.

    `auto` is every CUDA device, or without one a worker for each CPU core. Raises `ArxivEmbedError` for anything
    else, and for a CUDA device that is not there.
    """
    if spec == "auto":
        count = _cuda_devices()
        return [Device(f"cuda:{n}", "cuda") for n in range(count)] if count else _cpus(usable_cores())
    if match := re.fullmatch(r"cpu(?::([1-9][0-9]{0,2}))?", spec):
        return _cpus(int(match[1] or 1))
    if not re.fullmatch(r"cuda:[0-9]+(,cuda:[0-9]+)*", spec):
        raise ArxivEmbedError(f"Unknown --devices '{spec}': write auto, cpu:2 or cuda:0,cuda:1.")
    numbers = list(dict.fromkeys(int(name.removeprefix("cuda:")) for name in spec.split(",")))
    count = _cuda_devices()
    if max(numbers) >= count:
        raise ArxivEmbedError(f"There is no device cuda:{max(numbers)} here ({count} CUDA devices): see nvidia-smi.")
    return [Device(f"cuda:{number}", "cuda") for number in numbers]


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpus(count: int) -> list[Device]:
    return [Device(f"cpu:{number}", "cpu") for number in range(count)]


def _cuda_devices() -> int:
    if not any(driver.exists() for driver in DRIVERS):
        return 0  # known without the seconds that loading torch takes
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
