"""Readings: what NVML tells of a GPU and the system of a process, and what is not told or not there any more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pynvml
import pytest

from arxiv_embed.gpu import devices
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.readings import Instruments, ProcessUse, Reading
from arxiv_embed_tests.gpu.fake_nvml import SWITCH, FakeGpu, FakeInstance, FakeNvml

GIB = 1 << 30
GPU = FakeGpu(
    "GPU-aa",
    memory=(80 * GIB, 60 * GIB),
    temperature=71,
    slowdown=89,
    usage=512_000,
    clocks=(1500, 1980),
    ecc=(3, 1),
    links=(SWITCH, None, SWITCH),
)


class Bench:
    """GPUs that a test describes, and the instruments on them."""

    def __init__(self, nvml: FakeNvml, uuids: Sequence[str]) -> None:
        self.nvml = nvml
        self.instruments = Instruments([Device(f"cuda:{n}", "cuda", uuid) for n, uuid in enumerate(uuids)])

    def read(self, *gpus: FakeGpu) -> list[Reading]:
        """A reading of each device, after the GPUs have become these."""
        self.nvml.gpus = gpus or self.nvml.gpus
        return self.instruments.read({})


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    nvml = FakeNvml([GPU])
    monkeypatch.setattr(devices, "_nvml", lambda: nvml)
    return nvml


@pytest.fixture
def bench(nvml: FakeNvml) -> Iterator[Bench]:
    bench = Bench(nvml, ["GPU-aa"])
    yield bench
    bench.instruments.close()
    assert nvml.sessions == 0


def test_a_gpu_is_read_in_the_units_of_reports(bench: Bench) -> None:
    heat = pynvml.nvmlClocksEventReasonHwThermalSlowdown | pynvml.nvmlClocksEventReasonGpuIdle
    [reading] = bench.read(replace(GPU, reasons=heat))
    assert reading == Reading(
        device="cuda:0",
        memory_used=20 * GIB,
        memory_total=80 * GIB,
        utilization=0.97,
        temperature=71,
        slowdown_at=89,
        power=512.0,
        power_limit=700.0,
        clock=1500,
        clock_limit=1980,
        throttled_by=("hardware thermal slowdown",),
        ecc_corrected=3,
        ecc_uncorrected=1,
        links_up=2,
        links_down=1,
    )


def test_a_gpu_that_is_idle_or_has_its_clocks_set_by_somebody_is_not_slowed_down(bench: Bench) -> None:
    reasons = pynvml.nvmlClocksEventReasonGpuIdle | pynvml.nvmlClocksEventReasonApplicationsClocksSetting
    [reading] = bench.read(replace(GPU, reasons=reasons))
    assert reading.throttled_by == ()


def test_a_driver_that_knows_only_the_old_name_of_slowdowns_is_asked_by_that(bench: Bench) -> None:
    silent = frozenset(["nvmlDeviceGetCurrentClocksEventReasons"])
    [reading] = bench.read(replace(GPU, silent=silent, reasons=pynvml.nvmlClocksEventReasonSwPowerCap))
    assert reading.throttled_by == ("software power cap",)


@pytest.mark.parametrize(
    ("question", "unknown"),
    [
        ("nvmlDeviceGetMemoryInfo", ["memory_used", "memory_total"]),
        ("nvmlDeviceGetTemperature", ["temperature"]),
        ("nvmlDeviceGetTemperatureThreshold", ["slowdown_at"]),
        ("nvmlDeviceGetUtilizationRates", ["utilization"]),
        ("nvmlDeviceGetPowerUsage", ["power"]),
        ("nvmlDeviceGetClockInfo", ["clock"]),
        ("nvmlDeviceGetTotalEccErrors", ["ecc_corrected", "ecc_uncorrected"]),
        ("nvmlDeviceGetNvLinkState", ["links_up", "links_down"]),
        ("nvmlDeviceRegisterEvents", []),
    ],
)
def test_what_a_gpu_does_not_support_is_unknown_and_it_is_not_lost(
    bench: Bench, question: str, unknown: list[str]
) -> None:
    [whole] = bench.read(GPU)
    [reading] = bench.read(replace(GPU, silent=frozenset([question])))
    assert reading == replace(whole, **dict.fromkeys(unknown))


@pytest.mark.parametrize(("code", "readings"), [(pynvml.NVML_ERROR_GPU_IS_LOST, 1), (pynvml.NVML_ERROR_UNKNOWN, 2)])
def test_a_lost_gpu_says_so_and_is_read_again_when_it_is_back(bench: Bench, code: int, readings: int) -> None:
    """An error without a name is taken for a loss when it comes up a second time in a row."""
    assert not bench.read()[0].lost
    told = [bench.read(replace(GPU, lost=code))[0] for _ in range(readings + 1)]
    assert told == [*[Reading("cuda:0")] * (readings - 1), *[Reading("cuda:0", lost=str(pynvml.NVMLError(code)))] * 2]
    [back] = bench.read(GPU)
    assert not back.lost
    assert back.temperature == 71


def test_a_gpu_that_the_driver_has_forgotten_is_lost_but_not_one_that_it_never_knew(nvml: FakeNvml) -> None:
    bench = Bench(nvml, ["GPU-aa", "GPU-never"])
    bench.read()
    forgotten, never = bench.read(replace(GPU, uuid="GPU-other"))
    assert "does not know it any more" in forgotten.lost
    assert never == Reading("cuda:1")
    nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    forgotten, never = bench.read()
    assert "does not answer" in forgotten.lost
    assert never == Reading("cuda:1")


def test_where_the_driver_does_not_answer_after_a_loss_the_other_gpus_are_not_lost_too(nvml: FakeNvml) -> None:
    bench = Bench(nvml, ["GPU-aa", "GPU-bb"])
    bench.read(GPU, FakeGpu("GPU-bb"))
    bench.read(replace(GPU, lost=pynvml.NVML_ERROR_GPU_IS_LOST), FakeGpu("GPU-bb"))
    nvml.init_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    lost, other = bench.read()
    assert "does not answer" in lost.lost
    assert other == Reading("cuda:1")
    nvml.init_error = None
    assert not any(reading.lost for reading in bench.read(GPU, FakeGpu("GPU-bb")))


def test_without_a_driver_nothing_is_known_and_nothing_lost(nvml: FakeNvml) -> None:
    nvml.init_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert Bench(nvml, ["GPU-aa"]).read() == [Reading("cuda:0")]
    assert Bench(nvml, [""]).read() == [Reading("cuda:0")]


def test_each_xid_is_told_once_to_the_device_that_it_is_of(nvml: FakeNvml) -> None:
    bench = Bench(nvml, ["GPU-aa", "GPU-bb"])
    bench.read(GPU, FakeGpu("GPU-bb"))
    nvml.meets("GPU-bb", 48)
    nvml.meets("GPU-bb", 13)
    assert [reading.xid for reading in bench.read()] == [(), (48, 13)]
    assert [reading.xid for reading in bench.read()] == [(), ()]


def test_a_mig_instance_has_its_gpu_s_heat_its_own_memory_and_its_own_errors(nvml: FakeNvml) -> None:
    instances = FakeInstance("MIG-1", (20 * GIB, 5 * GIB)), FakeInstance("MIG-2", (20 * GIB, 19 * GIB))
    bench = Bench(nvml, ["MIG-1", "MIG-2"])
    first, second = bench.read(replace(GPU, instances=instances))
    assert (first.memory_used, second.memory_used) == (15 * GIB, GIB)
    assert (first.temperature, first.clock) == (second.temperature, second.clock) == (71, 1500)
    assert (first.power, first.ecc_uncorrected, first.links_up) == (None, None, None)
    nvml.meets("GPU-aa", 94, instance=1)
    nvml.meets("GPU-aa", 79)
    assert [reading.xid for reading in bench.read()] == [(79,), (94, 79)]


def test_a_cpu_worker_is_read_from_the_system() -> None:
    instruments = Instruments([Device("cpu:0", "cpu"), Device("cpu:1", "cpu")])
    for _ in range(2):
        mine, none = instruments.read({"cpu:0": os.getpid(), "cpu:1": None})
        sum(range(10**5))
    assert mine.cpu is not None
    assert mine.cpu >= 0
    assert mine.process_memory is not None
    assert mine.process_memory > 10**7
    assert mine.memory_used is not None
    assert mine.memory_total is not None
    assert 0 < mine.memory_used <= mine.memory_total
    assert (none.cpu, none.process_memory) == (None, None)


def test_a_process_that_is_gone_uses_nothing() -> None:
    assert ProcessUse().of(2**22 + 1) == (None, None)
