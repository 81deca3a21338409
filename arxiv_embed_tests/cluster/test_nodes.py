"""Which devices a run uses of a cluster's nodes, and what cannot be asked of one."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from arxiv_embed.cluster.cluster import check_cluster
from arxiv_embed.cluster.nodes import Node, check_spec, devices_of, named
from arxiv_embed.errors import ArxivEmbedError

HEAD = Node("10.0.0.1", "aa", gpus=0, cpus=0)
TWO_GPUS = Node("10.0.0.3", "bb", gpus=2, cpus=32)
A_CPU = Node("10.0.0.2", "cc", gpus=0, cpus=4)


def devices(spec: str, *nodes: Node) -> list[str]:
    return [device.name for device in devices_of(nodes, spec, named(nodes, {}))]


def test_every_gpu_is_used_and_every_core_only_where_there_is_no_gpu() -> None:
    assert devices("auto", HEAD, TWO_GPUS, A_CPU) == ["10.0.0.3/cuda:0", "10.0.0.3/cuda:1"]
    assert devices("cuda", HEAD, A_CPU) == []
    assert devices("auto", HEAD, A_CPU) == [f"10.0.0.2/cpu:{number}" for number in range(4)]
    assert devices("cpu:2", TWO_GPUS, A_CPU) == ["10.0.0.2/cpu:0", "10.0.0.2/cpu:1", "10.0.0.3/cpu:0", "10.0.0.3/cpu:1"]
    assert devices("cpu", A_CPU) == ["10.0.0.2/cpu:0"]


def test_a_node_keeps_its_name_whoever_of_the_same_address_comes_and_goes() -> None:
    first, second = replace(A_CPU, identity="c1"), replace(A_CPU, identity="c2")
    names = named([first, second], {})
    assert names == {"c1": "10.0.0.2", "c2": "10.0.0.2'"}
    assert named([second], names) == {"c2": "10.0.0.2'"}
    third = replace(A_CPU, identity="c0")
    assert named([third, second], names) == {"c2": "10.0.0.2'", "c0": "10.0.0.2"}


@pytest.mark.parametrize("spec", ["cuda:0", "cpu:0", "gpu", ""])
def test_devices_of_one_machine_cannot_be_asked_of_a_cluster(spec: str) -> None:
    with pytest.raises(ArxivEmbedError, match="write auto"):
        check_spec(spec)


@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.1:6379", "ray://head:10001", "[::1]:6379"])
def test_an_address_is_ray_s(address: str) -> None:
    assert check_cluster(address) == address


@pytest.mark.parametrize(
    "address", ["", "head", "http://head:8265", "ray://head", "head:port", "ray://me:hunter2@head:1"]
)
def test_what_is_no_address_is_refused_in_one_sentence(address: str) -> None:
    with pytest.raises(ArxivEmbedError, match="Unknown --cluster") as refused:
        check_cluster(address)
    assert "hunter2" not in str(refused.value)


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ArxivEmbedError, match=r"pip install 'arxiv-embed\[ray\]'"):
        check_cluster("local")
