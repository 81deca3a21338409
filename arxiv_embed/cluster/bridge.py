"""The bridge: the process that is a driver of Ray, `python -m arxiv_embed.cluster.bridge SOCKET ADDRESS LOAD FOLDER`.

Ray ends a driver's process when the node that it is connected to goes: so it is not the one that has the papers. What
comes over the socket is a device to hire a worker on, with the descriptors that the worker is spoken to by; what goes
there is which nodes there are, whenever that changes, and how the devices are, as a line of JSON each.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from arxiv_embed.cluster.actor import CONTROL, EncodingActor
from arxiv_embed.cluster.courier import Courier
from arxiv_embed.cluster.nodes import Node
from arxiv_embed.garbage import collect_rarely
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.slots import Slot
from arxiv_embed.gpu.worker import end_with_the_pool

LOCAL = "local"
LOOK_SECONDS, READING_SECONDS = 1.0, 5.0
AGAIN_SECONDS = 2.0
STORE_BYTES = 256 << 20
"""For batches on their way in a cluster of this machine alone: a few, of some megabytes each."""
LONGEST_ORDER = 65_536
MOST_DESCRIPTORS = 8


class Bridge:
    """`address` is where the cluster is, or `LOCAL`; `load` what loads models there, `folder` is for Ray's own files of
    a local one."""

    def __init__(self, control: socket.socket, address: str, load: str, folder: str) -> None:
        self._control = control
        self._address = address
        self._load = load
        self._folder = folder
        self._connected = threading.Event()
        self._alive: set[str] = set()
        self._couriers: dict[str, Courier] = {}
        """By the device."""
        self._actor_class: Any = None

    def serve(self) -> None:
        """Until the pool hangs up."""
        threading.Thread(target=self._watch_nodes, name="nodes", daemon=True).start()
        threading.Thread(target=self._watch_devices, name="devices", daemon=True).start()
        while True:
            order, descriptors, _, _ = socket.recv_fds(self._control, LONGEST_ORDER, MOST_DESCRIPTORS)
            if not order:
                return
            device = Device(**json.loads(order))
            talks, *slots = descriptors
            start = partial(self._start, device)
            self._couriers[device.name] = Courier(Connection(talks), [Slot(slot) for slot in slots], start)

    def _start(self, device: Device) -> Any:
        self._wait_for(device)
        asks = {"num_gpus": 1, "num_cpus": 0} if device.kind == "cuda" else {"num_cpus": 1}
        place = NodeAffinitySchedulingStrategy(device.node, soft=False)
        return self._actor_class.options(scheduling_strategy=place, **asks).remote(self._load)

    def _wait_for(self, device: Device) -> None:
        """Until there is a cluster with the device's node; raises `RuntimeError` where there is one without it."""
        self._connected.wait()
        if device.node not in self._alive:
            raise RuntimeError("its machine is not in the cluster any more")

    def _watch_nodes(self) -> None:
        told: Any = None
        while True:
            try:
                self._connect()
                nodes = [Node.of_ray(node) for node in ray.nodes() if node["Alive"]]
                self._alive = {node.identity for node in nodes}
                self._connected.set()
                now: dict[str, Any] = {"nodes": [asdict(node) for node in nodes]}
            except Exception as error:  # noqa: BLE001 - whatever keeps it from the cluster is told, and may pass
                now = {"away": next(iter(str(error).strip().splitlines()), type(error).__name__)}
                self._connected.clear()
                with contextlib.suppress(Exception):
                    ray.shutdown()
            if now != told:
                told = now
                if not self._tell(now):
                    return
            time.sleep(LOOK_SECONDS if "nodes" in now else AGAIN_SECONDS)

    def _watch_devices(self) -> None:
        """Tells how the devices are, as far as their workers answer in time."""
        while True:
            time.sleep(READING_SECONDS)
            asked: dict[str, Any] = {}
            for name, courier in list(self._couriers.items()):
                if courier.is_over:
                    if self._couriers.get(name) is courier:
                        del self._couriers[name]
                    continue
                with contextlib.suppress(Exception):  # as below
                    if (promise := courier.ask_reading()) is not None:
                        asked[name] = promise
            with contextlib.suppress(Exception):  # whatever it is, whoever computes notices it
                ready, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=READING_SECONDS)
                for name, promise in asked.items():
                    if promise in ready and not self._tell({"device": name, "reading": ray.get(promise)}):
                        return

    def _tell(self, message: dict[str, Any]) -> bool:
        """Whether there is anybody to be told; what they have no time for is passed over, but for the nodes."""
        flags = 0 if "nodes" in message else socket.MSG_DONTWAIT
        try:
            self._control.send(json.dumps(message).encode(), flags)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def _connect(self) -> None:
        if self._connected.is_set():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self._address == LOCAL:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # of nobody else's
            ray.init(include_dashboard=False, object_store_memory=STORE_BYTES, _temp_dir=self._folder or None, **quiet)
        else:
            ray.init(self._address, **quiet)
        groups = {"compute": 1, CONTROL: 1}
        self._actor_class = ray.remote(concurrency_groups=groups, max_restarts=0, max_task_retries=0)(EncodingActor)


def main(arguments: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_the_pool()
    collect_rarely()
    descriptor, address, load, folder = arguments
    with socket.socket(fileno=int(descriptor)) as control:
        Bridge(control, address, load, folder).serve()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
