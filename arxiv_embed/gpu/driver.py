"""The driver: what NVIDIA's says of itself and of its GPUs, whoever uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arxiv_embed.gpu.devices import ask, nvml_session
from arxiv_embed.gpu.readings import POWER_BRAKE, THERMAL, slowdowns_in


@dataclass(frozen=True)
class GpuState:
    """Memory in bytes, temperature in °C; None for what the driver does not tell. `instances` are MIG's, None where
    that is off; `uncorrected` counts errors of the memory since the driver was loaded; `remapping` is whether rows of
    it wait for a reset to be exchanged, `slowed_by` what lowers its clocks, but for its power limit."""

    name: str
    product: str
    total_memory: int | None
    free_memory: int | None
    persistence: bool | None
    ecc: bool | None
    uncorrected: int | None
    remapping: bool | None
    instances: int | None
    temperature: int | None
    slowed_by: Sequence[str]


@dataclass(frozen=True)
class DriverState:
    """`cuda` is the newest version that the driver runs, as (12, 8)."""

    version: str
    cuda: tuple[int, int] | None
    gpus: Sequence[GpuState]


def driver_state() -> DriverState | None:
    """None where there is no driver, or it does not answer."""
    with nvml_session() as nvml:
        if nvml is None:
            return None
        cuda = ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
        count = ask(nvml, "nvmlDeviceGetCount") or 0
        return DriverState(
            version=ask(nvml, "nvmlSystemGetDriverVersion") or "",
            cuda=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
            gpus=[_state(nvml, f"GPU {n}", ask(nvml, "nvmlDeviceGetHandleByIndex", n)) for n in range(count)],
        )


def _state(nvml: Any, name: str, handle: Any) -> GpuState:
    if handle is None:
        return GpuState(name, "", None, None, None, None, None, None, None, None, ())
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    persistence = ask(nvml, "nvmlDeviceGetPersistenceMode", handle)
    ecc = ask(nvml, "nvmlDeviceGetEccMode", handle)
    rows = ask(nvml, "nvmlDeviceGetRemappedRows", handle)
    mig, _ = ask(nvml, "nvmlDeviceGetMigMode", handle) or (nvml.NVML_DEVICE_MIG_DISABLE, None)
    instances = None
    if mig == nvml.NVML_DEVICE_MIG_ENABLE:
        places = range(ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0)
        found = [ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, place) for place in places]
        instances = sum(instance is not None for instance in found)
    reasons = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
    return GpuState(
        name=name,
        product=ask(nvml, "nvmlDeviceGetName", handle) or "",
        total_memory=int(memory.total) if memory else None,
        free_memory=int(memory.free) if memory else None,
        persistence=None if persistence is None else bool(persistence),
        ecc=None if ecc is None else bool(ecc[0]),
        uncorrected=ask(
            nvml,
            "nvmlDeviceGetTotalEccErrors",
            handle,
            nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            nvml.NVML_VOLATILE_ECC,
        ),
        remapping=None if rows is None else bool(rows[2]),
        instances=instances,
        temperature=ask(nvml, "nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        slowed_by=[why for why in slowdowns_in(nvml, reasons) if why in (*THERMAL, *POWER_BRAKE)],
    )
