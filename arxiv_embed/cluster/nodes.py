"""Nodes: the machines of a cluster as Ray tells of them, and the devices that a run uses there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu.devices import Device

CPUS = re.compile(r"cpu(?::([1-9][0-9]{0,2}))?")


@dataclass(frozen=True, order=True)
class Node:
    """`identity` is Ray's, another one each time that a machine joins."""

    address: str
    identity: str
    gpus: int
    cpus: int

    @classmethod
    def of_ray(cls, told: Mapping[str, Any]) -> Node:
        resources = told["Resources"]
        return cls(
            told["NodeManagerAddress"], told["NodeID"], int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        )


def check_spec(spec: str) -> None:
    """Raises `ArxivEmbedError` for devices that cannot be asked of a cluster."""
    if spec not in ("auto", "cuda") and not CPUS.fullmatch(spec):
        raise ArxivEmbedError(
            f"--devices '{spec}' names devices of one machine, and --cluster has many: write auto (every GPU, or where "
            "there is none every core), cuda, or cpu:2 for two workers on each node."
        )


def named(nodes: Sequence[Node], names: Mapping[str, str]) -> dict[str, str]:
    """A name for each node, by its identity: its address, told apart from another's that has it already. One that has a
    name keeps it."""
    known = {node.identity: names[node.identity] for node in nodes if node.identity in names}
    for node in sorted(nodes):
        if node.identity not in known:
            alike = (node.address + "'" * times for times in range(len(nodes) + 1))
            known[node.identity] = next(name for name in alike if name not in known.values())
    return known


def devices_of(nodes: Sequence[Node], spec: str, names: Mapping[str, str]) -> list[Device]:
    """In the order of the nodes' addresses; `names` are those of nodes that have any, by identity."""
    has_gpus = any(node.gpus for node in nodes)
    devices = []
    for node in sorted(node for node in nodes if node.identity in names):
        name = names[node.identity]
        kind, count = "cuda", node.gpus
        if spec.startswith("cpu") or (spec == "auto" and not has_gpus):
            asked = CPUS.fullmatch(spec)
            kind, count = "cpu", min(node.cpus, int(asked[1] or 1) if asked else node.cpus)
        devices += [Device(f"{name}/{kind}:{number}", kind, node=node.identity) for number in range(count)]
    return devices
