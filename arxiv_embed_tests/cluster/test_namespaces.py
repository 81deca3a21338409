"""A cluster of machines of their own, each a network namespace: killed, cut off, and with its head started anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from arxiv_embed.cluster.cluster import Cluster
from arxiv_embed_tests.cluster.loader import LOAD
from arxiv_embed_tests.cluster.ray_nodes import RayNodes
from arxiv_embed_tests.cluster.running import Running

pytestmark = pytest.mark.timeout(600)

NAMES = ("one", "two", "three")


class Network:
    """A context manager: a bridge, which this machine is at, and a namespace for each of `NAMES`."""

    def __init__(self) -> None:
        self._mark = f"ae{os.getpid() % 10_000}"
        self._subnet = f"10.{199 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.host = f"{self._subnet}.1"

    def __enter__(self) -> Network:
        try:
            _ip("link", "add", self._mark, "type", "bridge")
            _ip("address", "add", f"{self.host}/24", "dev", self._mark)
            _ip("link", "set", self._mark, "up")
            for name in NAMES:
                space = self.space(name)
                _ip("netns", "add", space)
                _ip("link", "add", self._link(name), "type", "veth", "peer", "name", "eth0", "netns", space)
                _ip("link", "set", self._link(name), "master", self._mark, "up")
                _ip("-n", space, "address", "add", f"{self.host_of(name)}/24", "dev", "eth0")
                _ip("-n", space, "link", "set", "eth0", "up")
                _ip("-n", space, "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", self.space(name)], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._mark], check=False, capture_output=True)

    def space(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def host_of(self, name: str) -> str:
        return f"{self._subnet}.{2 + NAMES.index(name)}"

    def cut_off(self, name: str) -> None:
        _ip("link", "set", self._link(name), "down")

    def mend(self, name: str) -> None:
        _ip("link", "set", self._link(name), "up")

    def _link(self, name: str) -> str:
        return f"{self._mark}v{NAMES.index(name)}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    lacks = "" if shutil.which("ip") else "the command ip"
    lacks = lacks or ("" if os.geteuid() == 0 else "the rights of root")
    try:
        if not lacks:
            with Network() as network:
                yield network
                return
    except subprocess.CalledProcessError as error:
        lacks = f"network namespaces ({error.stderr.decode().strip()})"
    if os.environ.get("CI"):
        pytest.fail(f"lacks {lacks}")
    pytest.skip(f"needs {lacks}")


def test_a_machine_killed_one_cut_off_and_the_head_started_anew_lose_no_paper(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with RayNodes(network.host) as nodes:
        for name in NAMES:
            nodes.add(name, network.host_of(name), ("ip", "netns", "exec", network.space(name)))

        def until(running: Running, what: str, times: int) -> None:
            def happened() -> bool:
                nodes.mend()
                return running.happened(what) >= times

            running.until(happened, f"{times} {what}")

        def script(running: Running) -> None:
            running.computes(devices=3)
            nodes.kill("two")
            running.computes(devices=2)
            network.cut_off("three")
            running.computes(devices=1)
            until(running, "left", 2)
            network.mend("three")
            nodes.add("two", network.host_of("two"), ("ip", "netns", "exec", network.space("two")))
            until(running, "joined", 2)
            running.computes(devices=3)
            nodes.kill("head")
            nodes.start_head()
            until(running, "joined", 2 + len(NAMES))
            running.computes(devices=3)

        with Cluster(nodes.address, load=LOAD) as cluster:
            while len(cluster.devices()) < len(NAMES):
                time.sleep(0.1)
            running = Running(cluster, script)
            running.embed()
    lost = sum(running.happened(what) for what in ("lost", "hung"))
    again = sum(batch.papers for batch in running.batches) - len(running.done)
    assert again == 0, f"{again} papers were computed and counted more than once, with {lost} workers lost"
