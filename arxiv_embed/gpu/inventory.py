"""An inventory: what is known of each device of a run, for the people who watch over it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arxiv_embed.gpu.devices import Device, ask, nvml_session

SWITCH = "NVSwitch"

PciPlace = tuple[int, int, int]


@dataclass(frozen=True)
class DeviceFacts:
    """Memory in bytes, the power limit in watts; None, or "", for what is not known.

    A CPU worker's memory is its equal share of the machine's, or of what the cgroup allows. A MIG instance has memory
    of its own and shares its GPU's power, so that it has no limit of its own. `links` are the active NVLinks to each
    other device of the inventory by name, or to the switch that joins all of them.
    """

    name: str
    kind: str
    product: str = ""
    uuid: str = ""
    total_memory: int | None = None
    free_memory: int | None = None
    compute_capability: str = ""
    power_limit: float | None = None
    links: Mapping[str, int] = field(default_factory=dict)


def inventory(devices: Sequence[Device]) -> list[DeviceFacts]:
    """The facts of each device. What NVML does not tell of one is left unknown, and all of those of other machines."""
    here = [device for device in devices if not device.node]
    cpus = [device for device in here if device.kind == "cpu"]
    gpus = [device for device in here if device.kind != "cpu"]
    elsewhere = [DeviceFacts(device.name, device.kind) for device in devices if device.node]
    facts = {found.name: found for found in (*_of_cpus(cpus), *_of_gpus(gpus), *elsewhere)}
    return [facts[device.name] for device in devices]


def describe(facts: DeviceFacts) -> str:
    """The facts in one line, what is not known left out."""
    links = ", ".join(f"{count} to {name}" for name, count in facts.links.items())
    parts = [
        facts.product or ("a CPU" if facts.kind == "cpu" else "a GPU"),
        _memory(facts.free_memory, facts.total_memory),
        f"compute capability {facts.compute_capability}" if facts.compute_capability else "",
        f"{facts.power_limit:.0f} W at most" if facts.power_limit is not None else "",
        f"NVLinks: {links}" if links else "",
        facts.uuid,
    ]
    return f"{facts.name}: {', '.join(part for part in parts if part)}"


def _memory(free: int | None, total: int | None) -> str:
    if total is None:
        return "" if free is None else f"{free / 1e9:.1f} GB free"
    return f"{total / 1e9:.1f} GB" if free is None else f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"


def _of_cpus(cpus: Sequence[Device]) -> list[DeviceFacts]:
    if not cpus:
        return []
    total, free = machine_memory()
    share, free_share = total // len(cpus), free // len(cpus) if free is not None else None
    return [DeviceFacts(cpu.name, cpu.kind, cpu_model(), "", share, free_share) for cpu in cpus]


def _of_gpus(gpus: Sequence[Device]) -> list[DeviceFacts]:
    if not gpus:
        return []
    with nvml_session() as nvml:
        if nvml is None:
            return [DeviceFacts(gpu.name, gpu.kind, uuid=gpu.uuid) for gpu in gpus]
        handles = {gpu.name: ask(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid) for gpu in gpus if gpu.uuid}
        places = {name: _place(ask(nvml, "nvmlDeviceGetPciInfo", handle)) for name, handle in handles.items() if handle}
        names: dict[PciPlace | None, str] = {place: name for name, place in places.items() if place}
        return [_gpu_facts(nvml, gpu, handles.get(gpu.name), names) for gpu in gpus]


def _gpu_facts(nvml: Any, device: Device, handle: Any, names: Mapping[PciPlace | None, str]) -> DeviceFacts:
    if handle is None:
        return DeviceFacts(device.name, device.kind, uuid=device.uuid)
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    if capability is None:  # a MIG instance, which drivers do not answer for: its GPU's
        parent = ask(nvml, "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
        capability = ask(nvml, "nvmlDeviceGetCudaComputeCapability", parent) if parent is not None else None
    milliwatts = ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)
    return DeviceFacts(
        name=device.name,
        kind=device.kind,
        product=ask(nvml, "nvmlDeviceGetName", handle) or "",
        uuid=device.uuid,
        total_memory=int(memory.total) if memory else None,
        free_memory=int(memory.free) if memory else None,
        compute_capability="{}.{}".format(*capability) if capability else "",
        power_limit=milliwatts / 1000 if milliwatts is not None else None,
        links=_links(nvml, handle, names),
    )


def _links(nvml: Any, handle: Any, names: Mapping[PciPlace | None, str]) -> dict[str, int]:
    links: dict[str, int] = {}
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        if ask(nvml, "nvmlDeviceGetNvLinkState", handle, link) != nvml.NVML_FEATURE_ENABLED:
            continue  # not active, or there are not so many
        if ask(nvml, "nvmlDeviceGetNvLinkRemoteDeviceType", handle, link) == nvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            other: str | None = SWITCH
        else:
            other = names.get(_place(ask(nvml, "nvmlDeviceGetNvLinkRemotePciInfo", handle, link)))
        if other is not None:
            links[other] = links.get(other, 0) + 1
    return links


def _place(pci: Any) -> PciPlace | None:
    return None if pci is None else (pci.domain, pci.bus, pci.device)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name as its maker wrote it, or its architecture where it says none."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def machine_memory(root: Path = Path("/")) -> tuple[int, int | None]:
    """Bytes of memory in all and free, by `/proc` and by the cgroups' limits below `root`; free is None where the
    system does not tell it (not Linux)."""
    try:
        meminfo = _numbers(root / "proc/meminfo")
        total, free = meminfo["MemTotal:"] * 1024, meminfo["MemAvailable:"] * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    for limit, used in _cgroup_limits(root):
        total, free = min(total, limit), min(free, max(limit - used, 0))
    return total, free


def cpu_memory() -> tuple[int, int]:
    """As `machine_memory`, for what must reckon with some figure: all is free where the system does not tell."""
    total, free = machine_memory()
    return total, total if free is None else free


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """The limit and the use, in bytes, of each memory cgroup that this process is in, of version 1 or 2.

    Cached files count as used only as far as they are in active use: the rest is given back when memory is short.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers == "":
            mount, files = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = mount / path.strip("/")
        for folder in (group, *group.parents):  # in a container the path may be the host's, and only the mount is here
            if not folder.is_relative_to(mount):
                break
            try:
                limit, used = int((folder / files[0]).read_text()), int((folder / files[1]).read_text())
                idle = _numbers(folder / "memory.stat").get(files[2], 0)
            except (OSError, ValueError):  # none here, or "max"
                continue
            limits.append((limit, max(used - idle, 0)))
    return limits


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by the word before it."""
    pairs = (line.split()[:2] for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
