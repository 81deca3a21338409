"""Devices: what a run computes on, as the user names them and as CUDA finds them."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import visible_gpus

DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""What a driver of CUDA devices shows: NVIDIA's, the one within WSL, AMD's."""


@dataclass(frozen=True)
class Device:
    """`name` is unique in a run ("cpu:0", "cuda:1"); `kind` is "cpu" or "cuda".

    `uuid` is a GPU's ("GPU-…") or a MIG instance's ("MIG-…"), "" where NVML does not tell it and for a CPU; `ordinal`
    is then how the driver counts the GPU, where its name's number is not that. `node` is the machine of a cluster that
    has it, "" for this one.
    """

    name: str
    kind: str
    uuid: str = ""
    ordinal: str = ""
    node: str = ""

    @property
    def torch_name(self) -> str:
        """What torch calls the device in its own worker, which sees no other."""
        return "cpu" if self.kind == "cpu" else "cuda:0"

    @property
    def environment(self) -> dict[str, str]:
        """What the worker's process must have in its environment, from its start: CUDA shows it this device alone.

        Of several MIG instances a process could see only the first.
        """
        if self.kind == "cpu":
            return {"CUDA_VISIBLE_DEVICES": ""}
        if self.uuid:
            return {"CUDA_VISIBLE_DEVICES": self.uuid}
        ordinal = self.ordinal or self.name.removeprefix("cuda:")
        return {"CUDA_VISIBLE_DEVICES": ordinal, "HIP_VISIBLE_DEVICES": ordinal}


def parse_devices(spec: str, environment: Mapping[str, str] | None = None) -> list[Device]:
    """Reads `auto`, `cpu:2` (two workers, of one thread each) or `cuda:0,cuda:1`.

    `auto` is every CUDA device that CUDA_VISIBLE_DEVICES leaves visible (in `environment`, by default the process's
    own), or without one a worker for each CPU core. `cuda:0` is the first that is visible. Raises `ArxivEmbedError`
    for anything else, and for a CUDA device that is not there.
    """
    if spec == "auto":
        return _cuda_devices(environment) or _cpus(usable_cores())
    if match := re.fullmatch(r"cpu(?::([1-9][0-9]{0,2}))?", spec):
        return _cpus(int(match[1] or 1))
    if not re.fullmatch(r"cuda:[0-9]+(,cuda:[0-9]+)*", spec):
        raise ArxivEmbedError(f"Unknown --devices '{spec}': write auto, cpu:2 or cuda:0,cuda:1.")
    numbers = list(dict.fromkeys(int(name.removeprefix("cuda:")) for name in spec.split(",")))
    devices = _cuda_devices(environment)
    if max(numbers) >= len(devices):
        raise ArxivEmbedError(
            f"There is no device cuda:{max(numbers)} here ({len(devices)} CUDA devices): see nvidia-smi."
        )
    return [devices[number] for number in numbers]


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVML knows it: its UUID, and in MIG mode those of its instances (otherwise None)."""

    uuid: str
    instances: tuple[str, ...] | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """UUIDs of what can be computed on."""
        return (self.uuid,) if self.instances is None else self.instances


def visible_uuids(gpus: Sequence[Gpu | None], variable: str | None) -> list[str]:
    """UUIDs of the devices that a value of CUDA_VISIBLE_DEVICES (None: not set) leaves visible, in its order.

    As in CUDA, the list is of indices, of UUIDs or of MIG instances' UUIDs, each perhaps abbreviated, and ends at the
    first entry that is none or is ambiguous; one that names a device twice leaves none. Otherwise than in CUDA, a GPU
    in MIG mode is all of its instances, and several instances may be named: a process could use the first only, but
    every device here has a process of its own.

    Indices count `gpus`, which NVML orders by PCI bus, as nvidia-smi does (None: one that cannot be used). CUDA does so
    under CUDA_DEVICE_ORDER=PCI_BUS_ID, and puts the fastest first without it: where GPUs differ, UUIDs are clearer.
    """
    if variable is None:
        return [uuid for gpu in gpus if gpu for uuid in gpu.devices]
    if variable.startswith("MIG-"):
        return _named(variable, "MIG-", [uuid for gpu in gpus if gpu for uuid in gpu.instances or ()])
    if variable.startswith("GPU-"):
        by_uuid = {gpu.uuid: gpu for gpu in gpus if gpu}
        return [uuid for name in _named(variable, "GPU-", list(by_uuid)) for uuid in by_uuid[name].devices]
    leading = (re.match(r"\s*\+?([0-9]+)", entry) for entry in variable.split(","))
    indices = [int(number[1]) for number in takewhile(bool, leading) if number]
    if len({*indices}) < len(indices):
        return []
    named = (gpus[index] if index < len(gpus) else None for index in indices)
    return [uuid for gpu in takewhile(bool, named) if gpu for uuid in gpu.devices]


def _named(variable: str, kind: str, uuids: Sequence[str]) -> list[str]:
    found: list[str] = []
    prefixes = list(takewhile(lambda entry: entry.startswith(kind), variable.split(",")))
    if len({*prefixes}) < len(prefixes):
        return []  # before any of them is looked up, as torch does it
    for prefix in prefixes:
        matches = [uuid for uuid in uuids if uuid.startswith(prefix)]
        if len(matches) != 1:
            break
        found += matches
    return found if len({*found}) == len(found) else []


@contextmanager
def nvml_session() -> Iterator[Any]:
    """The module `pynvml`, ready to be asked; None where the driver's library cannot be had."""
    nvml = _nvml()
    with ExitStack() as session:
        try:
            nvml.nvmlInit()
            session.callback(ask, nvml, "nvmlShutdown")
        except nvml.NVMLError:
            nvml = None
        yield nvml


def ask(nvml: Any, question: str, *about: Any) -> Any:
    """An answer of NVML; None where this device or this driver has none."""
    try:
        return getattr(nvml, question)(*about)
    except nvml.NVMLError:
        return None


def _nvml() -> Any:
    import pynvml

    return pynvml


def _cpus(count: int) -> list[Device]:
    return [Device(f"cpu:{number}", "cpu") for number in range(count)]


def _cuda_devices(environment: Mapping[str, str] | None) -> list[Device]:
    build = _torch_build()
    if build is None:
        return []
    if build == "cuda":
        with nvml_session() as nvml:
            if nvml is not None:
                uuids = visible_uuids(_gpus(nvml), visible_gpus(environment))
                return [Device(f"cuda:{number}", "cuda", uuid) for number, uuid in enumerate(uuids)]
    if not any(driver.exists() for driver in DRIVERS):
        return []  # known without the seconds that loading torch takes
    variable = visible_gpus(environment, hip=build == "hip")
    count = _counted_by_torch()
    ordinals = [entry.strip() for entry in variable.split(",")] if variable else [str(n) for n in range(count)]
    return [Device(f"cuda:{number}", "cuda", "", ordinals[number]) for number in range(count)]


def _gpus(nvml: Any) -> list[Gpu | None]:
    """Every GPU in NVML's order; None for one that does not answer."""
    count = ask(nvml, "nvmlDeviceGetCount") or 0
    return [_gpu(nvml, ask(nvml, "nvmlDeviceGetHandleByIndex", index)) for index in range(count)]


def _gpu(nvml: Any, handle: Any) -> Gpu | None:
    uuid = ask(nvml, "nvmlDeviceGetUUID", handle) if handle is not None else None
    if uuid is None:
        return None
    current_mode, _ = ask(nvml, "nvmlDeviceGetMigMode", handle) or (nvml.NVML_DEVICE_MIG_DISABLE, None)
    if current_mode != nvml.NVML_DEVICE_MIG_ENABLE:
        return Gpu(uuid)
    places = range(ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0)  # an empty place is "not found"
    instances = [ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, place) for place in places]
    uuids = [ask(nvml, "nvmlDeviceGetUUID", instance) for instance in instances if instance is not None]
    return Gpu(uuid, tuple(uuid for uuid in uuids if uuid))


def _torch_build() -> str | None:
    """What the installed torch was built for, "cuda" or "hip"; None where it computes on CPUs only.

    Read from its `version.py` by itself: loading torch takes seconds.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return next((build for build in ("cuda", "hip") if version.get(build)), None)


def _counted_by_torch() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
