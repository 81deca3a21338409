"""Devices: what a run computes on, as the user names them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from arxiv_embed.settings import ArxivEmbedError


@dataclass(frozen=True)
class Device:
    """`name` is unique in a run ("cpu:0", "cuda:1"); `kind` is "cpu" or "cuda"; `threads` are a CPU device's own."""

    name: str
    kind: str
    threads: int = 1

    @property
    def torch_name(self) -> str:
        return "cpu" if self.kind == "cpu" else self.name


def parse_devices(spec: str) -> list[Device]:
    """Reads `auto`, `cpu:2` (two workers) or `cuda:0,cuda:1`.

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
    names = list(dict.fromkeys(spec.split(",")))
    count = _cuda_devices()
    for name in names:
        if int(name.removeprefix("cuda:")) >= count:
            raise ArxivEmbedError(f"There is no device {name} here ({count} CUDA devices): see nvidia-smi.")
    return [Device(name, "cuda") for name in names]


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpus(count: int) -> list[Device]:
    return [Device(f"cpu:{n}", "cpu", threads=max(1, usable_cores() // count)) for n in range(count)]


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
