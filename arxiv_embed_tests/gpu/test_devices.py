"""Devices: what `--devices` may say, and which GPUs there are to be named."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import cuda, version

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu import devices
from arxiv_embed.gpu.devices import Device, Gpu, parse_devices, visible_uuids
from arxiv_embed_tests.gpu.fake_nvml import FakeGpu, FakeInstance, FakeNvml

FIRST, SECOND, THIRD = "GPU-aa11-0", "GPU-aa22-0", "GPU-bb33-0"
MIG_A, MIG_B, MIG_C = "MIG-1a-0", "MIG-1b-0", "MIG-2c-0"
CUDA: list[Device] = [Device("cuda:0", "cuda", FIRST), Device("cuda:1", "cuda", SECOND)]

Machine = Callable[[FakeNvml], FakeNvml]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Gives the package an NVML of the test's own, and a torch that computes on GPUs and is not asked to count them;
    nothing else shows a driver."""

    def uncalled() -> int:
        raise AssertionError("torch was loaded")

    def install(nvml: FakeNvml) -> FakeNvml:
        monkeypatch.setattr(devices, "_nvml", lambda: nvml)
        return nvml

    monkeypatch.setattr(devices, "_torch_build", lambda: "cuda")
    monkeypatch.setattr(devices, "_counted_by_torch", uncalled)
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path / "no-driver",))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


@pytest.fixture
def two_gpus(machine: Machine) -> FakeNvml:
    return machine(FakeNvml([FakeGpu(FIRST), FakeGpu(SECOND)]))


@pytest.fixture
def no_gpu(machine: Machine) -> FakeNvml:
    return machine(FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))


def names_and_uuids(found: Iterable[Device]) -> list[tuple[str, str]]:
    return [(device.name, device.uuid) for device in found]


def test_a_number_of_cpus_is_so_many_workers() -> None:
    assert parse_devices("cpu") == [Device("cpu:0", "cpu")]
    assert parse_devices("cpu:2") == [Device("cpu:0", "cpu"), Device("cpu:1", "cpu")]
    assert [device.torch_name for device in parse_devices("cpu:2")] == ["cpu", "cpu"]


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_named_one_by_one_and_each_is_used_once() -> None:
    assert parse_devices("cuda:1,cuda:0") == [CUDA[1], CUDA[0]]
    assert parse_devices("cuda:1,cuda:0,cuda:1,cuda:00") == [CUDA[1], CUDA[0]]


def test_auto_is_every_gpu(two_gpus: FakeNvml) -> None:
    assert parse_devices("auto") == CUDA
    assert two_gpus.sessions == 0


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_a_worker_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    assert [device.name for device in parse_devices("auto")] == ["cpu:0", "cpu:1", "cpu:2"]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ArxivEmbedError, match=r"There is no device cuda:2 here \(2 CUDA devices\): see nvidia-smi\."):
        parse_devices("cuda:0,cuda:2")


@pytest.mark.parametrize("spec", ["", "gpu", "cpu:0", "cpu:-1", "cpu:x", "cuda", "cuda:", "cuda:0,", "cpu:1,cuda:0"])
def test_anything_else_is_refused(spec: str) -> None:
    with pytest.raises(ArxivEmbedError, match="Unknown --devices"):
        parse_devices(spec)


def test_a_worker_sees_its_own_device_and_no_other() -> None:
    assert Device("cpu:1", "cpu").environment == {"CUDA_VISIBLE_DEVICES": ""}
    for uuid in (SECOND, MIG_A):
        device = Device("cuda:1", "cuda", uuid)
        assert device.environment == {"CUDA_VISIBLE_DEVICES": uuid}
        assert device.torch_name == "cuda:0"
    assert Device("cuda:1", "cuda").environment["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        ("1", [SECOND]),
        ("1,0", [SECOND, FIRST]),
        ("0,7,1", [FIRST]),
        ("0,-1,1", [FIRST]),
        ("0,0", []),
        (SECOND, [SECOND]),
        ("GPU-aa2,GPU-aa1", [SECOND, FIRST]),
        ("GPU-aa2,GPU-zz,GPU-aa1", [SECOND]),
        ("GPU-aa", []),
        ("GPU-aa2,GPU-aa22", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_only_visible_gpus_are_there_and_they_are_counted_in_the_lists_order(variable: str, seen: list[str]) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": variable}
    expected = [(f"cuda:{number}", uuid) for number, uuid in enumerate(seen)]
    found = parse_devices("auto", environment)
    assert names_and_uuids(device for device in found if device.kind == "cuda") == expected
    if seen:
        assert names_and_uuids(parse_devices("cuda:0", environment)) == expected[:1]
    else:
        assert found[0].kind == "cpu"
        with pytest.raises(ArxivEmbedError, match=r"no device cuda:0 here \(0 CUDA devices\)"):
            parse_devices("cuda:0", environment)


@pytest.mark.usefixtures("two_gpus")
def test_the_processs_own_environment_counts_where_no_other_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert names_and_uuids(parse_devices("auto")) == [("cuda:0", SECOND)]


UUIDS = [FIRST, SECOND, THIRD]
ENTRIES = st.one_of(
    st.sampled_from([*UUIDS, "GPU-", "GPU-aa", "GPU-aa1", "GPU-b", "GPU-zz", "MIG-1", "", "x", " 1", "1x", "+1"]),
    st.integers(-2, 4).map(str),
    st.integers(0, len(UUIDS) - 1).map(str),
)


@given(st.lists(ENTRIES, max_size=5).filter(lambda entries: not entries or not entries[0].startswith("MIG-")))
def test_a_list_leaves_visible_what_torch_takes_it_to_leave(entries: list[str]) -> None:
    variable = ",".join(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", variable)
        visible: list[Any] = list(cuda._parse_visible_devices())
    if variable.startswith("GPU-"):
        visible = list(cuda._transform_uuid_to_ordinals(visible, UUIDS))
    expected = [UUIDS[ordinal] for ordinal in takewhile(lambda ordinal: ordinal < len(UUIDS), visible)]
    assert visible_uuids([Gpu(uuid) for uuid in UUIDS], variable) == expected


def test_a_gpu_in_mig_mode_is_its_instances(machine: Machine) -> None:
    split = FakeGpu(FIRST, instances=(FakeInstance(MIG_A), None, FakeInstance(MIG_B), None))
    machine(FakeNvml([split, FakeGpu(SECOND)]))
    everything = [("cuda:0", MIG_A), ("cuda:1", MIG_B), ("cuda:2", SECOND)]
    assert names_and_uuids(parse_devices("auto", {})) == everything
    assert names_and_uuids(parse_devices("cuda:1,cuda:2", {})) == everything[1:]
    for variable in ("0", "GPU-aa1"):
        assert names_and_uuids(parse_devices("auto", {"CUDA_VISIBLE_DEVICES": variable})) == everything[:2]


def test_a_gpu_in_mig_mode_without_instances_is_no_device(machine: Machine) -> None:
    machine(FakeNvml([FakeGpu(FIRST, instances=(None, None)), FakeGpu(SECOND)]))
    assert names_and_uuids(parse_devices("auto", {})) == [("cuda:0", SECOND)]


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (f"{MIG_B}", [MIG_B]),
        ("MIG-2c,MIG-1a", [MIG_C, MIG_A]),
        ("MIG-1", []),
        ("MIG-1a,MIG-zz,MIG-1b", [MIG_A]),
        ("MIG-1a,0", [MIG_A]),
        ("MIG-1a,MIG-1a-0", []),
    ],
)
def test_instances_are_named_by_their_own_uuids(variable: str, seen: list[str]) -> None:
    gpus = [Gpu(FIRST, (MIG_A, MIG_B)), Gpu(SECOND), Gpu(THIRD, (MIG_C,))]
    assert visible_uuids(gpus, variable) == seen


def test_a_gpu_that_does_not_answer_is_passed_over_and_keeps_its_number(machine: Machine) -> None:
    lost = FakeGpu(FIRST, silent=frozenset({"nvmlDeviceGetHandleByIndex"}))
    machine(FakeNvml([lost, FakeGpu(SECOND)]))
    assert names_and_uuids(parse_devices("auto", {})) == [("cuda:0", SECOND)]
    assert names_and_uuids(parse_devices("auto", {"CUDA_VISIBLE_DEVICES": "1"})) == [("cuda:0", SECOND)]
    assert parse_devices("auto", {"CUDA_VISIBLE_DEVICES": "0,1"})[0].kind == "cpu"


def test_a_driver_that_knows_nothing_of_mig_has_whole_gpus(machine: Machine) -> None:
    machine(FakeNvml([FakeGpu(FIRST, silent=frozenset({"nvmlDeviceGetMigMode"}))]))
    assert names_and_uuids(parse_devices("auto", {})) == [("cuda:0", FIRST)]


@pytest.fixture
def driver_without_nvml(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Torch can count two GPUs."""
    machine(FakeNvml(init_error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    driver = tmp_path / "driver"
    driver.touch()
    monkeypatch.setattr(devices, "DRIVERS", (driver,))
    monkeypatch.setattr(devices, "_counted_by_torch", lambda: 2)


@pytest.mark.usefixtures("driver_without_nvml")
@pytest.mark.parametrize(
    ("build", "environment", "ordinals"),
    [
        ("cuda", {}, ["0", "1"]),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "3,1"}, ["3", "1"]),
        ("cuda", {"CUDA_VISIBLE_DEVICES": "3,1", "HIP_VISIBLE_DEVICES": "5,6"}, ["3", "1"]),
        ("hip", {"CUDA_VISIBLE_DEVICES": "3,1", "HIP_VISIBLE_DEVICES": "5, 6"}, ["5", "6"]),
    ],
)
def test_where_nvml_cannot_be_had_torch_counts_and_each_worker_still_sees_one_gpu(
    build: str, environment: dict[str, str], ordinals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_torch_build", lambda: build)
    found = parse_devices("auto", environment)
    assert names_and_uuids(found) == [("cuda:0", ""), ("cuda:1", "")]
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        assert [device.environment[variable] for device in found] == ordinals


@pytest.mark.usefixtures("two_gpus")
def test_gpus_that_the_installed_torch_cannot_use_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_torch_build", lambda: None)
    monkeypatch.setattr(devices, "DRIVERS", (tmp_path,))
    assert parse_devices("auto")[0].kind == "cpu"


@pytest.mark.parametrize(
    ("cuda", "hip", "build"), [("'13.0'", "None", "cuda"), ("None", "'7.1'", "hip"), ("None", "None", None)]
)
def test_what_torch_was_built_for_is_read_without_loading_it(
    cuda: str, hip: str, build: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "version.py").write_text(f"cuda: str = {cuda}\nhip: str = {hip}\n")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert devices._torch_build() == build


def test_the_installed_torch_is_what_it_says_it_is() -> None:
    assert devices._torch_build() == ("cuda" if version.cuda else "hip" if version.hip else None)


def test_finding_devices_loads_no_torch() -> None:
    code = (
        "import sys; from arxiv_embed.gpu.devices import parse_devices; "
        "from arxiv_embed.gpu.inventory import inventory; "
        "inventory(parse_devices('auto')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_simulated_nvml_takes_what_the_real_one_takes() -> None:
    functions = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert len(functions) > 10
    for name in functions:
        real = inspect.signature(inspect.unwrap(getattr(pynvml, name)))
        assert list(inspect.signature(getattr(FakeNvml(), name)).parameters) == list(real.parameters), name
