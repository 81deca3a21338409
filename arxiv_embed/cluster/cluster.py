"""A cluster: devices of many machines under Ray, and how a worker is started on one; this process has no Ray in it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from arxiv_embed.cluster.actor import LOAD_MODEL
from arxiv_embed.cluster.nodes import Node, check_spec, devices_of, named
from arxiv_embed.errors import ArxivEmbedError, FatalError, masked
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.process import DEPTH, KILLED_SECONDS, STOP_SECONDS, Worker
from arxiv_embed.gpu.protocol import Message, send
from arxiv_embed.gpu.readings import Reading
from arxiv_embed.gpu.slots import Slot

LOCAL, AUTO = "local", "auto"
JOIN_SECONDS, WORKERS_SECONDS, LOOK_SECONDS = 120.0, 20.0, 1.0
"""For the cluster to answer, and for a first node with a device to join it once it has."""

READING_LASTS = 30.0
LONGEST_LINE = 1 << 20


class ClusterAway(FatalError):
    """The cluster cannot be reached, or has no device that was asked for."""


def check_cluster(address: str) -> str:
    """The address as Ray takes it; raises `ArxivEmbedError` for what is none, and where Ray is not installed."""
    parts = urlsplit(address if "://" in address else f"ray-node://{address}")
    try:
        known = address in (LOCAL, AUTO) or (parts.scheme in ("ray", "ray-node") and parts.hostname and parts.port)
    except ValueError:
        known = False
    if not known or "@" in address:
        raise ArxivEmbedError(
            f"Unknown --cluster '{masked(address)}': write local, auto (the cluster that this machine is a node of), "
            "HOST:6379 of its head, or ray://HOST:10001 from outside."
        )
    if importlib.util.find_spec("ray") is None:
        raise ArxivEmbedError("--cluster needs Ray, which is not installed: pip install 'arxiv-embed[ray]'.")
    return address


class Cluster:
    """A context manager: entering connects, by a process of its own (cluster/bridge.py), and leaving ends what was
    started there; `spec` is which devices are used of it, as `check_spec` takes it.

    A bridge that has ended, as it does when its node goes, is started anew: what was under way is lost with it.
    """

    def __init__(self, address: str, spec: str = AUTO, load: str = LOAD_MODEL) -> None:
        check_spec(spec)
        self._address = check_cluster(address)
        self._spec = spec
        self._load = load
        self._folder = tempfile.TemporaryDirectory(prefix="arxiv-embed-ray-", ignore_cleanup_errors=True)
        self._bridge: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._nodes: list[Node] = []
        self._names: dict[str, str] = {}
        self._readings: dict[str, tuple[float, Reading]] = {}
        self._away = ""
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        """Raises `ClusterAway` where there is no answer, or no such device."""
        try:
            self._start_bridge()
            deadline = time.monotonic() + JOIN_SECONDS
            while not self.devices():
                self._hear(LOOK_SECONDS)
                if self._nodes:
                    deadline = min(deadline, time.monotonic() + WORKERS_SECONDS)
                if time.monotonic() > deadline:
                    raise ClusterAway(self._why_not())
        except BaseException:
            self._end_bridge()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bridge()
        self._folder.cleanup()

    def devices(self) -> list[Device]:
        """Those that are there, as far as is known now: while the cluster cannot be reached, those that were."""
        with self._changing:
            self._keep_bridge()
            self._hear(0.0)
            return devices_of(self._nodes, self._spec, self._names)

    def readings(self) -> dict[str, Reading]:
        """How devices were when that was last told, by name; of those that have told it of late."""
        with self._changing:
            self._hear(0.0)
            since = time.monotonic() - READING_LASTS
            return {name: reading for name, (at, reading) in self._readings.items() if at > since}

    def hire(self, device: Device) -> Worker:
        """Starts a worker on a device; returns at once, also while the cluster is away: it is not ready before that
        is back."""
        with self._changing:
            self._keep_bridge()
            assert self._control is not None
            return ClusterWorker(device, self._control)

    def _keep_bridge(self) -> None:
        if self._bridge is None or self._bridge.poll() is not None:
            self._hear(0.0)  # its last words
            self._end_bridge()
            self._start_bridge()

    def _start_bridge(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._bridge = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "arxiv_embed.cluster.bridge"),
                    *(str(theirs.fileno()), self._address, self._load, self._folder.name),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
            )
        self._control = ours

    def _end_bridge(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._bridge is not None:
            try:
                self._bridge.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._bridge.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._bridge.wait(KILLED_SECONDS)
        self._control = self._bridge = None

    def _hear(self, seconds: float) -> None:
        """Takes in what the bridge has told."""
        control = self._control
        while control is not None and select.select([control], [], [], seconds)[0]:
            line = control.recv(LONGEST_LINE)
            if not line:
                return
            told, seconds = json.loads(line), 0.0
            if "reading" in told:
                reading = Reading(**{**told["reading"], "device": told["device"]})
                self._readings[told["device"]] = time.monotonic(), reading
                continue
            self._away = told.get("away", "")
            if "nodes" in told:
                self._nodes = [Node(**node) for node in told["nodes"]]
                self._names = named([node for node in self._nodes if node.gpus or node.cpus], self._names)

    def _why_not(self) -> str:
        where = f"The cluster {masked(self._address)}"
        if self._nodes:
            return f"{where} has {len(self._nodes)} nodes and no device for --devices {self._spec}."
        why = f" ({self._away.rstrip('.')})" if self._away else ""
        return f"{where} cannot be reached{why}: start it, or mend --cluster."


class ClusterWorker(Worker):
    """A worker on a device of a cluster, by way of the bridge at the other end of `control`."""

    def __init__(self, device: Device, control: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        self.slots = [Slot.create() for _ in range(DEPTH)]
        self.free_slots = list(range(len(self.slots)))
        with theirs:
            descriptors = [theirs.fileno(), *(slot.descriptor for slot in self.slots)]
            with contextlib.suppress(OSError):  # a bridge that is gone is noticed on reading
                socket.send_fds(control, [json.dumps(asdict(device)).encode()], descriptors)
        self._socket = ours
        self.connection = Connection(ours.dup().detach())

    @property
    def pid(self) -> None:
        return None

    def send(self, message: Message) -> None:
        with contextlib.suppress(OSError):
            send(self.connection, message)

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def end(self, within: float) -> int:
        """Does not wait: the bridge ends what runs elsewhere."""
        with contextlib.suppress(OSError):
            self.hang_up()
        self._socket.close()
        self.connection.close()
        for slot in self.slots:
            slot.close()
        return 0
