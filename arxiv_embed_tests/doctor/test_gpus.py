"""GPUs: what NVML says of each becomes a line that says what to do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pynvml
import pytest

from arxiv_embed.doctor.check import State
from arxiv_embed.doctor.gpus import cpu, of_driver, torch_and_driver
from arxiv_embed.doctor.torch_seen import TorchSeen
from arxiv_embed.gpu import devices
from arxiv_embed.gpu.driver import DriverState, GpuState, driver_state
from arxiv_embed_tests.gpu.fake_nvml import FakeGpu, FakeInstance, FakeNvml, refusal

WELL = FakeGpu("GPU-1", product="NVIDIA H200")
SEEN = TorchSeen("2.13.0", "12.8", "", 1, "", "bfloat16", ("amx_bf16", "avx512_bf16"), 8)
GPU = GpuState("GPU 0", "NVIDIA H200", 141 << 30, 140 << 30, True, True, 0, False, None, 35, ())
DRIVER = DriverState("580.1", (13, 0), [GPU])


@dataclass
class Examined(FakeNvml):
    """GPUs of a machine whose driver answers what the doctor asks besides; the same for each of them."""

    gpus: Any
    persistence: int = 1
    uncorrected: int = 0
    rows: tuple[int, int, int, int] = (0, 0, 0, 0)
    reasons: int = 1
    temperature: int = 35
    cuda: int = 13_000
    init_error: int | None = None
    sessions: int = field(default=0, init=False)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return self.cuda

    def nvmlDeviceGetPersistenceMode(self, handle: object) -> int:  # noqa: N802
        return self.persistence

    def nvmlDeviceGetEccMode(self, handle: object) -> list[int]:  # noqa: N802
        return [1, 1]

    def nvmlDeviceGetTotalEccErrors(self, handle: object, kind: int, counter: int) -> int:  # noqa: N802
        return self.uncorrected

    def nvmlDeviceGetRemappedRows(self, handle: object) -> tuple[int, int, int, int]:  # noqa: N802
        return self.rows

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: object) -> int:  # noqa: N802
        return self.reasons

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:  # noqa: N802
        if self.temperature < 0:
            raise refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.temperature


def lines(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> list[tuple[State, str, str]]:
    monkeypatch.setattr(devices, "_nvml", lambda: nvml)
    return [(check.state, check.text, check.remedy) for check in of_driver()]


def test_a_machine_without_a_driver_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    [(state, text, _)] = lines(monkeypatch, Examined([], init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert state is State.SKIPPED
    assert "CPU" in text


def test_gpus_that_are_well_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, one, other = lines(monkeypatch, Examined([WELL, replace(WELL, uuid="GPU-2")]))
    assert driver == (State.FINE, "580.1, for CUDA 13.0, 2 GPUs", "")
    assert one == other == (State.FINE, "NVIDIA H200, 84.8 of 85.9 GB free, 35 °C, ECC on", "")


@pytest.mark.parametrize(
    ("nvml", "state", "said", "remedy"),
    [
        (Examined([WELL], persistence=0), State.WARN, "persistence mode off", "nvidia-smi -pm 1"),
        (Examined([WELL], uncorrected=3), State.WRONG, "3 uncorrected errors", "--gpu-reset"),
        (Examined([WELL], rows=(0, 1, 1, 0)), State.WRONG, "wait to be exchanged", "--gpu-reset"),
        (Examined([WELL], reasons=0x48), State.WARN, "hardware thermal slowdown, hardware slowdown", "cooling"),
        (Examined([WELL], reasons=0x5), State.FINE, "35 °C", ""),
        (Examined([WELL], temperature=88), State.WARN, "88 °C", "cooling"),
        (Examined([WELL], temperature=-1), State.FINE, "GB free, ECC on", ""),
        (Examined([replace(WELL, memory=(80 << 30, 9 << 30))]), State.WARN, "9.7 of 85.9 GB free", "nvidia-smi"),
        (Examined([replace(WELL, instances=(None, None))]), State.WRONG, "MIG with 0 instances", "nvidia-smi mig"),
        (Examined([replace(WELL, instances=(FakeInstance("MIG-1"),))]), State.FINE, "MIG with 1 instances", ""),
        (
            Examined([replace(WELL, silent=frozenset({"nvmlDeviceGetHandleByIndex"}))]),
            State.WRONG,
            "it does not answer",
            "dmesg",
        ),
    ],
)
def test_what_ails_a_gpu_is_said_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, state: State, said: str, remedy: str
) -> None:
    _, (found, text, advice) = lines(monkeypatch, nvml)
    assert found is state
    assert said in text
    assert remedy in advice
    assert bool(advice) == (state is not State.FINE)
    assert nvml.sessions == 0


def test_a_driver_without_gpus_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    [(state, text, remedy)] = lines(monkeypatch, Examined([]))
    assert (state, text) == (State.WRONG, "580.1, for CUDA 13.0, 0 GPUs")
    assert "--gpus all" in remedy


@pytest.mark.parametrize(
    ("seen", "driver", "visible", "state", "said"),
    [
        (SEEN, DRIVER, 1, State.FINE, "2.13.0 for CUDA 12.8, sees 1 GPUs"),
        (replace(SEEN, cuda="13.1"), DRIVER, 1, State.FINE, "for CUDA 13.1"),
        (replace(SEEN, cuda="14.0", gpus=0), DRIVER, 1, State.WRONG, "and the driver runs 13.0 at most"),
        (replace(SEEN, gpus=0, trouble="CUDA unknown error"), DRIVER, 1, State.WRONG, "cannot use CUDA (CUDA unknown"),
        (SEEN, DRIVER, 2, State.WRONG, "sees 1 GPUs, NVML 2"),
        (SEEN, replace(DRIVER, gpus=[replace(GPU, instances=2)]), 2, State.FINE, "sees 1 GPUs"),
        (replace(SEEN, cuda="", gpus=0), DRIVER, 0, State.WRONG, "computes on CPUs alone, and there are 1 GPUs"),
        (replace(SEEN, cuda="", gpus=0), None, 0, State.FINE, "for CPUs"),
        (replace(SEEN, gpus=0), None, 0, State.FINE, "without a driver it computes on the CPU"),
        (replace(SEEN, cuda="", hip="6.4", gpus=0), None, 0, State.WARN, "for ROCm 6.4, 0 GPUs"),
    ],
)
def test_torch_is_held_against_the_driver(
    seen: TorchSeen, driver: DriverState | None, visible: int, state: State, said: str
) -> None:
    check = torch_and_driver(seen, driver, visible)
    assert check.state is state
    assert said in check.text
    assert bool(check.remedy) == (state is not State.FINE)


def test_a_cpu_s_arithmetic_is_named() -> None:
    assert cpu(SEEN).text == "computes in bfloat16; has amx_bf16, avx512_bf16; 8 threads"


def test_the_driver_of_this_machine_answers_or_is_none() -> None:
    state = driver_state()
    assert state is None or state.version
