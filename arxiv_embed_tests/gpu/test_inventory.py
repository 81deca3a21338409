"""The inventory: what is known of each device, and what is left unknown."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pynvml
import pytest

from arxiv_embed.gpu import devices
from arxiv_embed.gpu import inventory as inventory_module
from arxiv_embed.gpu.devices import Device, parse_devices
from arxiv_embed.gpu.inventory import DeviceFacts, cpu_memory, cpu_model, describe, inventory, machine_memory
from arxiv_embed_tests.gpu.fake_nvml import SWITCH, FakeGpu, FakeInstance, FakeNvml

GIB = 1 << 30
FIRST = FakeGpu("GPU-aa", bus=0x17, links=(0x2A, 0x2A, None, 0x2A))
SECOND = FakeGpu("GPU-bb", bus=0x2A, links=(0x17, 0x17, 0x17, 0x99))
FACTS = DeviceFacts(
    name="cuda:0",
    kind="cuda",
    product="NVIDIA H100 80GB HBM3",
    uuid="GPU-aa",
    total_memory=80 * GIB,
    free_memory=79 * GIB,
    compute_capability="9.0",
    power_limit=700.0,
    links={"cuda:1": 3},
)

Facts = Callable[..., list[DeviceFacts]]


@pytest.fixture
def facts_of(monkeypatch: pytest.MonkeyPatch) -> Facts:
    """The facts of these GPUs' devices, or of those named by their UUIDs."""

    def take(*gpus: FakeGpu, uuids: Sequence[str] = ()) -> list[DeviceFacts]:
        nvml = FakeNvml(gpus)
        monkeypatch.setattr(devices, "_nvml", lambda: nvml)
        named = uuids or [gpu.uuid for gpu in gpus]
        found = inventory([Device(f"cuda:{number}", "cuda", uuid) for number, uuid in enumerate(named)])
        assert nvml.sessions == 0
        return found

    return take


def test_a_gpus_facts_are_those_that_nvml_tells(facts_of: Facts) -> None:
    first, second = facts_of(FIRST, SECOND)
    assert first == FACTS
    assert (second.name, second.uuid, second.links) == ("cuda:1", "GPU-bb", {"cuda:0": 3})


@pytest.mark.parametrize(
    ("question", "unknown"),
    [
        ("nvmlDeviceGetName", {"product": ""}),
        ("nvmlDeviceGetMemoryInfo", {"total_memory": None, "free_memory": None}),
        ("nvmlDeviceGetCudaComputeCapability", {"compute_capability": ""}),
        ("nvmlDeviceGetEnforcedPowerLimit", {"power_limit": None}),
        ("nvmlDeviceGetNvLinkState", {"links": {}}),
        ("nvmlDeviceGetNvLinkRemotePciInfo", {"links": {}}),
        ("nvmlDeviceGetNvLinkRemoteDeviceType", {}),
        ("nvmlDeviceGetPciInfo", {}),
    ],
)
def test_what_a_gpu_does_not_tell_is_unknown_and_costs_nothing_else(
    question: str, unknown: dict[str, object], facts_of: Facts
) -> None:
    [found, _] = facts_of(replace(FIRST, silent=frozenset({question})), SECOND)
    assert found == replace(FACTS, **unknown)  # type: ignore[arg-type]
    assert describe(found).startswith("cuda:0: ")


def test_a_gpu_that_is_lost_is_known_by_its_name_only(facts_of: Facts) -> None:
    lost = replace(FIRST, silent=frozenset({"nvmlDeviceGetHandleByUUID"}))
    [found, second] = facts_of(lost, SECOND)
    assert found == DeviceFacts("cuda:0", "cuda", uuid="GPU-aa")
    assert second.power_limit == 700


def test_links_lead_to_devices_of_the_run_or_to_the_switch(facts_of: Facts) -> None:
    assert facts_of(FIRST)[0].links == {}  # the other end is not the run's
    switched = [replace(gpu, links=(SWITCH,) * 18) for gpu in (FIRST, SECOND)]
    assert [found.links for found in facts_of(*switched)] == [{"NVSwitch": 18}, {"NVSwitch": 18}]
    assert facts_of(replace(FIRST, links=()))[0].links == {}


def test_a_gpu_that_hides_its_place_is_not_taken_for_the_far_end_of_a_link(facts_of: Facts) -> None:
    hidden = replace(SECOND, silent=frozenset({"nvmlDeviceGetPciInfo"}))
    silent = replace(FIRST, silent=frozenset({"nvmlDeviceGetNvLinkRemotePciInfo"}))
    assert facts_of(silent, hidden)[0].links == {}


def test_a_mig_instance_has_memory_of_its_own_and_no_power_of_its_own(facts_of: Facts) -> None:
    instances = (FakeInstance("MIG-1", (20 * GIB, 18 * GIB)), FakeInstance("MIG-2", (40 * GIB, 40 * GIB)))
    split = replace(FIRST, instances=instances)
    first, second = facts_of(split, uuids=["MIG-1", "MIG-2"])
    assert first == DeviceFacts(
        name="cuda:0",
        kind="cuda",
        product="NVIDIA H100 80GB HBM3 MIG 1g.20gb",
        uuid="MIG-1",
        total_memory=20 * GIB,
        free_memory=18 * GIB,
        compute_capability="9.0",
    )
    assert (second.uuid, second.total_memory, second.free_memory) == ("MIG-2", 40 * GIB, 40 * GIB)


def test_without_nvml_a_gpu_is_known_by_its_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    monkeypatch.setattr(devices, "_nvml", lambda: absent)
    [found] = inventory([Device("cuda:0", "cuda", ordinal="3")])
    assert found == DeviceFacts("cuda:0", "cuda")
    assert describe(found) == "cuda:0: a GPU"


def test_the_workers_of_a_cpu_share_its_memory_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory_module, "machine_memory", lambda: (9 * GIB, 6 * GIB))
    found = inventory(parse_devices("cpu:3"))
    assert [(cpu.name, cpu.total_memory, cpu.free_memory) for cpu in found] == [
        (f"cpu:{number}", 3 * GIB, 2 * GIB) for number in range(3)
    ]
    assert {(cpu.kind, cpu.uuid, cpu.product, cpu.power_limit) for cpu in found} == {("cpu", "", cpu_model(), None)}


def test_this_machines_own_devices_have_facts() -> None:
    for name in ("auto", "cpu:2"):
        found = inventory(parse_devices(name))
        assert [facts.name for facts in found] == [device.name for device in parse_devices(name)]
        for facts in found:
            assert facts.product
            assert facts.total_memory is not None
            assert facts.total_memory >= (facts.free_memory or 0) > 0
    assert cpu_memory()[0] >= cpu_memory()[1] > 0


def test_facts_survive_being_written_down() -> None:
    assert DeviceFacts(**json.loads(json.dumps(asdict(FACTS)))) == FACTS


def test_a_line_tells_what_is_known() -> None:
    assert describe(FACTS) == (
        "cuda:0: NVIDIA H100 80GB HBM3, 84.8 of 85.9 GB free, compute capability 9.0, 700 W at most, "
        "NVLinks: 3 to cuda:1, GPU-aa"
    )
    assert describe(DeviceFacts("cpu:0", "cpu", "AMD EPYC 9654", "", 12_640_000_000, 12_200_000_000)) == (
        "cpu:0: AMD EPYC 9654, 12.2 of 12.6 GB free"
    )
    assert describe(DeviceFacts("cpu:0", "cpu", "Apple M4", total_memory=17_200_000_000)) == "cpu:0: Apple M4, 17.2 GB"


def write(root: Path, path: str, text: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 16 GiB, 10 of them free, and no cgroup."""
    write(
        tmp_path, "proc/meminfo", f"MemTotal: {16 << 20} kB\nMemFree: 5 kB\nMemAvailable: {10 << 20} kB\nHugePages: 0"
    )
    return tmp_path


def cgroup(root: Path, folder: str, limit: object, used: int, stat: str) -> None:
    version_1 = folder.startswith("memory")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version_1 else ("memory.max", "memory.current")
    for name, value in zip((*names, "memory.stat"), (limit, used, stat), strict=True):
        write(root, f"sys/fs/cgroup/{folder}/{name}", value)


def test_without_a_cgroup_the_machines_memory_counts(root: Path) -> None:
    assert machine_memory(root) == (16 * GIB, 10 * GIB)


@pytest.mark.parametrize(
    ("membership", "folder", "stat"),
    [
        ("0::/user/run", "user/run", "anon 5\ninactive_file {idle}"),
        ("0::/user/run", "user", "anon 5\ninactive_file {idle}"),
        ("0::/hosts/path", "", "inactive_file {idle}"),
        ("9:pids:/\n4:cpu,memory:/run\n0::/", "memory/run", "inactive_file 1\ntotal_inactive_file {idle}"),
        ("4:memory:/hosts/path", "memory", "inactive_file 1\ntotal_inactive_file {idle}"),
    ],
    ids=["version 2", "a parent's", "seen from a container", "version 1", "version 1 in a container"],
)
def test_a_cgroups_limit_counts_where_it_is_less(root: Path, membership: str, folder: str, stat: str) -> None:
    write(root, "proc/self/cgroup", membership)
    cgroup(root, folder, 4 * GIB, 3 * GIB, stat.format(idle=GIB))
    assert machine_memory(root) == (4 * GIB, 2 * GIB)  # cached files in no use are free
    cgroup(root, folder, 64 * GIB, 3 * GIB, stat.format(idle=GIB))
    assert machine_memory(root) == (16 * GIB, 10 * GIB)
    cgroup(root, folder, 2 * GIB, 3 * GIB, stat.format(idle=0))
    assert machine_memory(root) == (2 * GIB, 0)


def test_the_tightest_of_nested_cgroups_counts(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/user/run")
    cgroup(root, "user/run", "max", GIB, "inactive_file 0")
    assert machine_memory(root) == (16 * GIB, 10 * GIB)
    cgroup(root, "user", 6 * GIB, 5 * GIB, "inactive_file 0")
    cgroup(root, "user/run", 5 * GIB, GIB, "inactive_file 0")
    assert machine_memory(root) == (5 * GIB, GIB)


def test_a_system_without_proc_tells_the_memory_in_all(tmp_path: Path) -> None:
    total, free = machine_memory(tmp_path)
    assert total > 0
    assert free is None


def test_a_cpu_is_named_by_its_maker_or_else_by_its_architecture(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9654 96-Core Processor\n")
    assert cpu_model(cpuinfo) == "AMD EPYC 9654 96-Core Processor"
    cpuinfo.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert cpu_model(cpuinfo) in (platform.processor(), platform.machine())
    assert cpu_model(tmp_path / "none")
