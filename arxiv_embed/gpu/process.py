"""A worker as the pool sees it, and the usual one: a process, its socket, the slots that it shares, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Protocol

from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.protocol import Message, send
from arxiv_embed.gpu.slots import Slot

WORKER = (sys.executable, "-P", "-m", "arxiv_embed.gpu.worker")
"""The command of a worker, without the descriptors that it is given; -P: no file of the working folder shadows a
module."""

STOP_SECONDS = 5
KILLED_SECONDS = 2.0
"""One that waits in the driver of a lost device does not end even when it is killed, and is left to the system."""

DEPTH = 2
"""Batches that a worker has at most: one that it computes, and one that hides the way there and back."""


class Worker(Protocol):
    """Serves the protocol (gpu/protocol.py) at the other end of `connection`, arrays lying in `slots`, of which some
    are free; wherever it runs. `pid` is of a process on this machine, None where there is none."""

    connection: Connection
    slots: Sequence[Slot]
    free_slots: list[int]

    @property
    def pid(self) -> int | None: ...

    def send(self, message: Message) -> None:
        """Never blocks: messages are small, and a worker has few of them. One that is gone is noticed on reading."""

    def hang_up(self) -> None:
        """Ends the conversation; the worker ends when it notices."""

    def end(self, within: float) -> int:
        """Hangs up and waits for its end; one that does not end within so many seconds is killed, as it has nothing to
        lose. Returns the exit code."""


class WorkerProcess(Worker):
    """One on this machine, that runs until its socket closes; `slots` are shared with it."""

    def __init__(self, device: Device, command: Sequence[str] = WORKER) -> None:
        ours, theirs = socket.socketpair()
        self.slots = [Slot.create() for _ in range(DEPTH)]
        self.free_slots = list(range(len(self.slots)))
        descriptors = [theirs.fileno(), *(slot.descriptor for slot in self.slots)]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                process_group=0,
                env={**os.environ, **device.environment},
            )
        self._socket = ours
        self.connection = Connection(ours.dup().detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: Message) -> None:
        with contextlib.suppress(OSError):
            send(self.connection, message)

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def end(self, within: float) -> int:
        with contextlib.suppress(OSError):
            self.hang_up()
        self._socket.close()
        self.connection.close()
        for slot in self.slots:
            slot.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(within)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(KILLED_SECONDS)
        return -signal.SIGKILL
