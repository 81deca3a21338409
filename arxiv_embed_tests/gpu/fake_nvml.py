"""A simulated NVML: the functions of `pynvml` that the package asks, over GPUs that a test describes."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pynvml

SWITCH = -1
"""The far end of an NVLink that goes to a switch."""


@dataclass(frozen=True)
class FakeInstance:
    """A MIG instance."""

    uuid: str
    memory: tuple[int, int] = (20 << 30, 19 << 30)


@dataclass(frozen=True)
class FakeGpu:
    """`memory` in all and free, bytes; `links` the bus at the far end of each NVLink, None for an inactive one;
    `instances` in MIG mode, None for an empty place; `silent` are the questions that it does not answer. `temperature`
    and the one from which it slows down in °C, `milliwatts` at most and in `usage`, `utilization` in percent, `clocks`
    as they are and at most, `reasons` why they are lower, `ecc` errors corrected and not. With `lost`, it answers
    nothing but this code."""

    uuid: str
    bus: int = 0x17
    product: str = "NVIDIA H100 80GB HBM3"
    memory: tuple[int, int] = (80 << 30, 79 << 30)
    capability: tuple[int, int] = (9, 0)
    milliwatts: int = 700_000
    links: tuple[int | None, ...] = ()
    instances: tuple[FakeInstance | None, ...] | None = None
    silent: frozenset[str] = frozenset()
    temperature: int = 45
    slowdown: int = 90
    usage: int = 300_000
    utilization: int = 97
    clocks: tuple[int, int] = (1755, 1980)
    reasons: int = 0
    ecc: tuple[int, int] = (0, 0)
    lost: int | None = None


Handle = FakeGpu | tuple[FakeGpu, FakeInstance]


def refusal(code: int) -> Exception:
    error: Exception = pynvml.NVMLError(code)
    return error


class FakeNvml:
    """Stands in for the module `pynvml`, with its own constants and errors; `init_error` is what there is instead of a
    driver."""

    def __init__(self, gpus: Sequence[FakeGpu] = (), init_error: int | None = None) -> None:
        self.gpus = gpus
        self.init_error = init_error
        self.sessions = 0
        self._event_sets: dict[str, list[deque[tuple[int, int]]]] = defaultdict(list)
        """Those that wait for errors of each GPU: XID and the number of the MIG instance."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("NVML", "nvmlEventType", "nvmlClocksEventReason")):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error is not None:
            raise refusal(self.init_error)
        self.sessions += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._must_be_open()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:  # noqa: N802
        self._must_be_open()
        return self._answers(self.gpus[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Handle:  # noqa: N802
        self._must_be_open()
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return self._answers(gpu, "nvmlDeviceGetHandleByUUID")
            for instance in gpu.instances or ():
                if instance is not None and instance.uuid == uuid:
                    return gpu, instance
        raise refusal(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:  # noqa: N802
        return handle[1].uuid if isinstance(handle, tuple) else self._answers(handle, "nvmlDeviceGetUUID").uuid

    def nvmlDeviceGetMigMode(self, device: Handle) -> list[int]:  # noqa: N802
        gpu = self._gpu(device, "nvmlDeviceGetMigMode")
        if gpu.instances is None:
            return [pynvml.NVML_DEVICE_MIG_DISABLE, pynvml.NVML_DEVICE_MIG_ENABLE]
        return [pynvml.NVML_DEVICE_MIG_ENABLE, pynvml.NVML_DEVICE_MIG_ENABLE]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Handle) -> int:  # noqa: N802
        return len(self._gpu(device, "nvmlDeviceGetMaxMigDeviceCount").instances or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Handle, index: int) -> Handle:  # noqa: N802
        gpu = self._gpu(device, "nvmlDeviceGetMigDeviceHandleByIndex")
        instance = (gpu.instances or ())[index]
        if instance is None:
            raise refusal(pynvml.NVML_ERROR_NOT_FOUND)
        return gpu, instance

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice: Handle) -> Handle:  # noqa: N802, N803
        if not isinstance(migDevice, tuple):
            raise refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return migDevice[0]

    def nvmlDeviceGetName(self, handle: Handle) -> str:  # noqa: N802
        if isinstance(handle, tuple):
            return f"{handle[0].product} MIG 1g.20gb"
        return self._answers(handle, "nvmlDeviceGetName").product

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> Any:  # noqa: N802
        memory = pynvml.c_nvmlMemory_t()
        has = handle[1] if isinstance(handle, tuple) else self._answers(handle, "nvmlDeviceGetMemoryInfo")
        memory.total, memory.free = has.memory
        return memory

    def nvmlDeviceGetCudaComputeCapability(self, handle: Handle) -> tuple[int, int]:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetCudaComputeCapability").capability

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Handle) -> int:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetEnforcedPowerLimit").milliwatts

    def nvmlDeviceGetPciInfo(self, handle: Handle) -> Any:  # noqa: N802
        return _pci(self._gpu(handle, "nvmlDeviceGetPciInfo").bus)

    def nvmlDeviceGetNvLinkState(self, device: Handle, link: int) -> int:  # noqa: N802
        return int(self._far_end(device, link, "nvmlDeviceGetNvLinkState") is not None)

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, handle: Handle, link: int) -> int:  # noqa: N802
        far = self._far_end(handle, link, "nvmlDeviceGetNvLinkRemoteDeviceType")
        kind = pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH if far == SWITCH else pynvml.NVML_NVLINK_DEVICE_TYPE_GPU
        return int(kind)

    def nvmlDeviceGetNvLinkRemotePciInfo(self, device: Handle, link: int) -> Any:  # noqa: N802
        far = self._far_end(device, link, "nvmlDeviceGetNvLinkRemotePciInfo")
        return _pci(0xF0 if far == SWITCH else far or 0)

    def nvmlDeviceGetTemperature(self, handle: Handle, sensor: int) -> int:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetTemperature").temperature

    def nvmlDeviceGetTemperatureThreshold(self, handle: Handle, threshold: int) -> int:  # noqa: N802
        assert threshold == pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        return self._gpu(handle, "nvmlDeviceGetTemperatureThreshold").slowdown

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetPowerUsage").usage

    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> Any:  # noqa: N802
        rates = pynvml.c_nvmlUtilization_t()
        rates.gpu = self._gpu(handle, "nvmlDeviceGetUtilizationRates").utilization
        return rates

    def nvmlDeviceGetClockInfo(self, handle: Handle, type: int) -> int:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetClockInfo").clocks[0]

    def nvmlDeviceGetMaxClockInfo(self, handle: Handle, type: int) -> int:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetMaxClockInfo").clocks[1]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Handle) -> int:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetCurrentClocksEventReasons").reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Handle) -> int:  # noqa: N802
        return self._gpu(handle, "nvmlDeviceGetCurrentClocksThrottleReasons").reasons

    def nvmlDeviceGetTotalEccErrors(self, handle: Handle, errorType: int, counterType: int) -> int:  # noqa: N802, N803
        assert counterType == pynvml.NVML_VOLATILE_ECC
        kinds = pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        return self._gpu(handle, "nvmlDeviceGetTotalEccErrors").ecc[kinds.index(errorType)]

    def nvmlDeviceGetGpuInstanceId(self, device: Handle) -> int:  # noqa: N802
        if not isinstance(device, tuple):
            raise refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return (device[0].instances or ()).index(device[1])

    def meets(self, uuid: str, xid: int, instance: int = 0xFFFFFFFF) -> None:
        """A GPU meets an error."""
        for events in self._event_sets[uuid]:
            events.append((xid, instance))

    def nvmlEventSetCreate(self) -> deque[tuple[int, int]]:  # noqa: N802
        self._must_be_open()
        return deque()

    def nvmlEventSetFree(self, eventSet: deque[tuple[int, int]]) -> None:  # noqa: N802, N803
        for waiting in self._event_sets.values():
            waiting[:] = [events for events in waiting if events is not eventSet]

    def nvmlDeviceRegisterEvents(  # noqa: N802
        self,
        handle: Handle,
        eventTypes: int,  # noqa: N803
        eventSet: deque[tuple[int, int]],  # noqa: N803
    ) -> None:
        assert eventTypes == pynvml.nvmlEventTypeXidCriticalError
        self._event_sets[self._gpu(handle, "nvmlDeviceRegisterEvents").uuid].append(eventSet)

    def nvmlEventSetWait_v2(self, eventSet: deque[tuple[int, int]], timeoutms: int) -> Any:  # noqa: N802, N803
        assert timeoutms == 0
        if not eventSet:
            raise refusal(pynvml.NVML_ERROR_TIMEOUT)
        event = pynvml.c_nvmlEventData_t()
        event.eventType = pynvml.nvmlEventTypeXidCriticalError
        event.eventData, event.gpuInstanceId = eventSet.popleft()
        return event

    def _far_end(self, handle: Handle, link: int, question: str) -> int | None:
        gpu = self._gpu(handle, question)
        if not gpu.links:
            raise refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if link >= len(gpu.links):
            raise refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return gpu.links[link]

    def _gpu(self, handle: Handle, question: str) -> FakeGpu:
        """Only of whole GPUs."""
        if isinstance(handle, tuple):
            raise refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self._answers(handle, question)

    def _answers(self, gpu: FakeGpu, question: str) -> FakeGpu:
        if gpu.lost is not None:
            raise refusal(gpu.lost)
        if question in gpu.silent:
            raise refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return gpu

    def _must_be_open(self) -> None:
        if not self.sessions:
            raise refusal(pynvml.NVML_ERROR_UNINITIALIZED)


def _pci(bus: int) -> Any:
    pci = pynvml.nvmlPciInfo_t()
    pci.domain, pci.bus, pci.device = 0, bus, 0
    return pci
