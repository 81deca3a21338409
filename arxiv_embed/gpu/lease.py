"""Leases: one run at a time on each device, held by locks that die with the process."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from arxiv_embed.checkpoint.lock import FileLock, Locked
from arxiv_embed.errors import FatalError
from arxiv_embed.gpu.devices import Device


class DeviceInUse(FatalError):
    """Another run computes on a device; the message names its process."""


class DeviceLeases:
    """A context manager: entering takes a lock in `folder` for every device or, where one is taken, for none."""

    def __init__(self, devices: Sequence[Device], folder: Path) -> None:
        self._devices = devices
        self._folder = folder
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Raises `DeviceInUse` for the first device that another run holds."""
        with ExitStack() as taken:
            # In one order for all: of two runs that want the same devices one gets them.
            for device in sorted(self._devices, key=_file_name):
                try:
                    taken.enter_context(FileLock(self._folder / _file_name(device), f"Device {device.name}"))
                except Locked as refusal:
                    in_use, _, _ = str(refusal).partition(": wait for it")
                    raise DeviceInUse(
                        f"{in_use}: wait for that run to end, stop it, or give other --devices."
                    ) from None
            self._held = taken.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()


def _file_name(device: Device) -> str:
    """A GPU keeps its file whatever a run calls it."""
    identity = device.uuid or (f"cuda:{device.ordinal}" if device.ordinal else device.name)
    return f"{identity.replace('/', '_')}.lock"
