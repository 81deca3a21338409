"""Readings: what the driver, or the system, tells of each device at one moment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psutil

from arxiv_embed.gpu.devices import Device, ask, nvml_session
from arxiv_embed.gpu.health import Told
from arxiv_embed.gpu.inventory import machine_memory

THERMAL = ("software thermal slowdown", "hardware thermal slowdown")
POWER_BRAKE = ("hardware slowdown", "power brake slowdown")
POWER_CAP = "software power cap"

_SLOWDOWNS = {
    "nvmlClocksEventReasonSwPowerCap": POWER_CAP,
    "nvmlClocksEventReasonSwThermalSlowdown": THERMAL[0],
    "nvmlClocksEventReasonHwThermalSlowdown": THERMAL[1],
    "nvmlClocksEventReasonHwSlowdown": POWER_BRAKE[0],
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": POWER_BRAKE[1],
    "nvmlClocksEventReasonSyncBoost": "sync boost",
    "nvmlClocksEventReasonDisplayClockSetting": "display clock setting",
}
"""Not among them: that it is idle, and clocks that somebody has set."""

MOST_EVENTS = 100
ALL_INSTANCES = 0xFFFFFFFF
"""An event that is of no single MIG instance."""


@dataclass(frozen=True)
class Reading(Told):
    """What is told of one device. `lost` says why the driver has no such device any more, `slowdown_at` is the
    temperature from which it slows the device down, and `xid` are the errors since the reading before."""

    device: str
    lost: str = ""
    slowdown_at: float | None = None


class Instruments:
    """What readings of `devices` are taken with, which may become others in between; to be used by one thread, and
    closed. Of a device of another machine nothing is known here."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = devices
        self._processes = ProcessUse()
        self._session = ExitStack()
        self._nvml: Any = None
        self._is_open = False
        self._events: dict[str, Any] = {}
        """NVML's event set of each device: what is in it needs no other answer to be known as the device's."""
        self._known: set[str] = set()
        """Devices that NVML has known: one that it does not know any more is lost."""
        self._lost: set[str] = set()
        """Those of them that were lost when NVML answered last."""
        self._unsure: set[str] = set()
        """Those that gave an error without a name when they were read last."""

    def close(self) -> None:
        """Ends what was begun with the driver; it begins anew with the next reading."""
        self._is_open, self._nvml = False, None
        self._events.clear()
        self._session.close()

    def read(self, pids: Mapping[str, int | None]) -> list[Reading]:
        """A reading of each device; `pids` are the workers' by device. After one that was lost, the driver is asked
        from the start again: otherwise it would not see that device come back."""
        if not self._is_open and any(device.uuid for device in self.devices):
            self._nvml = self._session.enter_context(nvml_session())
            self._is_open = True
        readings = [self._read(device, pids.get(device.name)) for device in self.devices]
        if any(reading.lost for reading in readings):
            self.close()
        return readings

    def own_use(self) -> tuple[float | None, int | None]:
        """The share of one core that this process takes, and its bytes."""
        return self._processes.of(os.getpid())

    def _read(self, device: Device, pid: int | None) -> Reading:
        if device.node:
            return Reading(device.name)
        cpu, resident = self._processes.of(pid)
        if device.kind == "cpu":
            used, total = _machine_memory_used()
            told: dict[str, Any] = {"memory_used": used, "memory_total": total}
        else:
            try:
                told = self._ask_driver(device)
                self._unsure.discard(device.name)
            except _Lost as loss:
                self._lost.add(device.name)
                told = {"lost": str(loss)}
            except _Unsure as error:
                told = {"lost": str(error)} if device.name in self._unsure | self._lost else {}
                self._unsure.add(device.name)
        return Reading(device.name, cpu=cpu, process_memory=resident, **told)

    def _ask_driver(self, device: Device) -> dict[str, Any]:
        nvml = self._nvml
        if nvml is None or not device.uuid:
            if device.name in self._lost:  # the others may well compute on, as after an update of the driver
                raise _Lost("the driver does not answer")
            return {}
        handle = _sure(nvml, "nvmlDeviceGetHandleByUUID", device.uuid)
        memory = _sure(nvml, "nvmlDeviceGetMemoryInfo", handle) if handle is not None else None
        if handle is None:
            if device.name in self._known:
                raise _Lost("the driver does not know it any more")
            return {}
        self._known.add(device.name)
        self._lost.discard(device.name)
        parent = ask(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
        whole = handle if parent is None else parent  # an instance's heat and clocks are its GPU's
        milliwatts = _ask(nvml, "nvmlDeviceGetPowerUsage", handle)
        limit = _ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
        rates = _ask(nvml, "nvmlDeviceGetUtilizationRates", handle)
        ups = [_ask(nvml, "nvmlDeviceGetNvLinkState", handle, link) for link in range(nvml.NVML_NVLINK_MAX_LINKS)]
        links = [up for up in ups if up is not None]
        ecc = nvml.NVML_VOLATILE_ECC
        corrected, uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        return {
            "memory_used": int(memory.total - memory.free) if memory else None,
            "memory_total": int(memory.total) if memory else None,
            "utilization": rates.gpu / 100 if rates else None,
            "temperature": _ask(nvml, "nvmlDeviceGetTemperature", whole, nvml.NVML_TEMPERATURE_GPU),
            "slowdown_at": _ask(
                nvml, "nvmlDeviceGetTemperatureThreshold", whole, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
            ),
            "power": milliwatts / 1000 if milliwatts is not None else None,
            "power_limit": limit / 1000 if limit is not None else None,
            "clock": _ask(nvml, "nvmlDeviceGetClockInfo", whole, nvml.NVML_CLOCK_SM),
            "clock_limit": _ask(nvml, "nvmlDeviceGetMaxClockInfo", whole, nvml.NVML_CLOCK_SM),
            "throttled_by": _slowdowns(nvml, whole),
            "ecc_corrected": _ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, corrected, ecc),
            "ecc_uncorrected": _ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, uncorrected, ecc),
            "xid": self._new_xids(device, whole, _instance(nvml, handle, parent)),
            "links_up": sum(up == nvml.NVML_FEATURE_ENABLED for up in links) if links else None,
            "links_down": sum(up != nvml.NVML_FEATURE_ENABLED for up in links) if links else None,
        }

    def _new_xids(self, device: Device, handle: Any, instance: int | None) -> tuple[int, ...]:
        """The errors that have come up since the last call; there are none before the first, which asks for them."""
        nvml, kind = self._nvml, self._nvml.nvmlEventTypeXidCriticalError
        if device.name not in self._events:
            self._events[device.name] = events = ask(nvml, "nvmlEventSetCreate")
            if events is not None:
                self._session.callback(ask, nvml, "nvmlEventSetFree", events)
                ask(nvml, "nvmlDeviceRegisterEvents", handle, kind, events)
            return ()
        events, found = self._events[device.name], []
        if events is not None:
            for _ in range(MOST_EVENTS):
                event = _ask(nvml, "nvmlEventSetWait_v2", events, 0)
                if event is None:
                    break
                if event.eventType == kind and event.gpuInstanceId in (instance, ALL_INSTANCES):
                    found.append(int(event.eventData))
        return tuple(found)


class ProcessUse:
    """How much of the processor and of memory processes take; each share of a core is of the time since the same
    process was asked about before."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}

    def of(self, pid: int | None) -> tuple[float | None, int | None]:
        """The share of one core (None at first) and the resident bytes; (None, None) where there is no such process."""
        if pid is None:
            return None, None
        try:
            if pid not in self._processes:
                process = psutil.Process(pid)
                process.cpu_percent()
                self._processes[pid] = process
                return None, process.memory_info().rss
            process = self._processes[pid]
            return process.cpu_percent() / 100, process.memory_info().rss
        except psutil.Error:
            self._processes.pop(pid, None)
            return None, None


class _Lost(Exception):
    """The driver has no such device any more."""


class _Unsure(Exception):
    """The driver knows no better name than "unknown" for what is wrong, as some do for a loss: it is one if it is so
    again."""


def _ask(nvml: Any, question: str, *about: Any, sure: bool = False) -> Any:
    """As `ask`; raises `_Lost` where it is the device itself that is gone."""
    try:
        return getattr(nvml, question)(*about)
    except nvml.NVMLError as error:
        if error.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
            raise _Lost(str(error)) from error
        if sure and error.value == nvml.NVML_ERROR_UNKNOWN:
            raise _Unsure(str(error)) from error
        return None


def _sure(nvml: Any, question: str, *about: Any) -> Any:
    """For what any device that is there can answer; raises `_Unsure`, too."""
    return _ask(nvml, question, *about, sure=True)


def _instance(nvml: Any, handle: Any, parent: Any) -> int | None:
    """The number of a MIG instance; for a whole GPU that of no single instance."""
    return ALL_INSTANCES if parent is None else ask(nvml, "nvmlDeviceGetGpuInstanceId", handle)


def _slowdowns(nvml: Any, handle: Any) -> tuple[str, ...]:
    reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:  # as it was called before driver 535
        reasons = _ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
    return slowdowns_in(nvml, reasons)


def slowdowns_in(nvml: Any, reasons: int) -> tuple[str, ...]:
    """NVML's bits for why clocks are lower, in words."""
    return tuple(words for name, words in _SLOWDOWNS.items() if reasons & getattr(nvml, name))


def _machine_memory_used() -> tuple[int | None, int]:
    total, free = machine_memory()
    if free is None:
        try:
            free = psutil.virtual_memory().available
        except (OSError, psutil.Error):  # without /proc
            return None, total
    return total - free, total
