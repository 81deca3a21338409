"""Health: how each device of a run is, as it was last looked at, and what that asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """From well to worst."""

    OK = "ok"
    HOT = "hot"
    THROTTLED = "throttled"
    MEMORY_CRITICAL = "memory critical"
    STALLED = "stalled"
    FAILING = "failing"
    RETIRED = "retired"


class Action(StrEnum):
    """What follows from a verdict."""

    NONE = ""
    SHRINK = "shrink"
    """Its batches become smaller."""
    PAUSE = "pause"
    """It gets no batch until it is cool."""
    RESTART = "restart"
    RETIRE = "retire"
    BRING_BACK = "bring back"
    """From its rest, from small batches, or from among the retired."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the driver, or the system, tells of a device at one moment; None for what it does not.

    Memory is the whole device's, by whoever, in bytes; `utilization` a share of the time, `temperature` in °C, `power`
    and its limit in watts, clocks in MHz, `throttled_by` why the driver slows them. `ecc_corrected` and
    `ecc_uncorrected` count errors of the memory since the driver was loaded, `xid` are NVIDIA's numbers of errors.
    `cpu` is the share of one core and `process_memory` the bytes of its worker's process.
    """

    memory_used: int | None = None
    memory_total: int | None = None
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    clock: int | None = None
    clock_limit: int | None = None
    throttled_by: Sequence[str] = ()
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    xid: Sequence[int] = ()
    links_up: int | None = None
    links_down: int | None = None
    cpu: float | None = None
    process_memory: int | None = None


@dataclass(frozen=True)
class DeviceHealth(Told):
    """One device in one report: what is told of it, with every `xid` since the run began, and what follows.

    `memory_allocated` is what the run's worker holds, in bytes, `memory_target` what batches are planned for and
    `memory_critical` above what it gets none. `queue` is how many batches it has, `computing` for how many seconds it
    has computed the first of them, and `expected` how long that should take.
    """

    device: str
    verdict: Verdict = Verdict.OK
    reasons: Sequence[str] = ()
    action: Action = Action.NONE
    memory_allocated: int | None = None
    memory_target: int | None = None
    memory_critical: int | None = None
    queue: int = 0
    computing: float = 0.0
    expected: float = 0.0


@dataclass(frozen=True)
class HealthReport:
    """All devices at one moment; `number`, `late`, `waiting`, `cpu` and `memory` as in `events.HealthReported`."""

    number: int
    late: float
    waiting: int
    cpu: float | None
    memory: int | None
    devices: Sequence[DeviceHealth]
