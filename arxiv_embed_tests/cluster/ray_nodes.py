"""Nodes of Ray on this machine, each a session of processes of its own, that a test starts, kills and starts again."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

RAY = Path(sys.executable).parent / "ray"
REPOSITORY = Path(__file__).parents[2]
STORE_BYTES = 80_000_000
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Of a head that has lost a node: otherwise it gives it half a minute."""

START_SECONDS = 30.0


class RayNodes:
    """A context manager: a head at `host`, which computes nothing, and the nodes that are added, each at a host of its
    own; all are gone at the end. `within` begins the command of a node ("ip netns exec NAME")."""

    def __init__(self, host: str = "127.0.0.1", **environment: str) -> None:
        self._host = host
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, as the names of its sockets are limited
        self._port = _free_port()
        self._client_port = _free_port()
        ours = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "GRPC_ENABLE_FORK_SUPPORT": "0"}
        ours["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"  # for the tests' loaders
        self._environment = {**os.environ, **ours, **IMPATIENT, **environment}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._added: dict[str, tuple[str | None, Sequence[str]]] = {}

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def client_address(self) -> str:
        return f"ray://{self._host}:{self._client_port}"

    def __enter__(self) -> Self:
        try:
            self.start_head()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._processes):
            self.kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_head(self) -> None:
        ports = (f"--port={self._port}", f"--ray-client-server-port={self._client_port}")
        bare = ("--num-cpus=0", "--include-dashboard=false", self._here(self._host))
        self._start("head", (), "--head", *ports, *bare)
        _wait_for(self._host, self._port)

    def add(self, name: str, host: str | None = None, within: Sequence[str] = ()) -> None:
        """Starts a node, or one that was killed again."""
        self._added[name] = (host, within)
        here = self._here(host or self._host)
        self._start(name, within, f"--address={self.address}", "--num-cpus=1", here)

    def mend(self) -> None:
        """Starts the nodes again that have ended by themselves, as whoever keeps a cluster up does."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None and name in self._added:
                self.kill(name)
                self.add(name, *self._added[name])

    def kill(self, name: str) -> None:
        """All of a node's processes, by SIGKILL."""
        for process in self.processes(name):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._processes.pop(name).wait()

    def processes(self, name: str) -> list[psutil.Process]:
        """All of a node's: they have groups of their own, and not all have their parent any more."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(process.pid) == self._processes[name].pid:
                    found.append(process)
        return found

    def _here(self, host: str) -> str:
        return f"--node-ip-address={host}"

    def _start(self, name: str, within: Sequence[str], *options: str) -> None:
        memory = f"--object-store-memory={STORE_BYTES}"
        folder = tempfile.mkdtemp(dir=self._folder)  # in the one before Ray would find that it runs already
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*within, RAY, "start", "--block", memory, f"--temp-dir={folder}", "--disable-usage-stats", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()


def _wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens at {host}:{port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
