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


@dataclass(frozen=True)
class DeviceHealth:
    """One device in one report; None for what its driver, or the system, does not tell.

    Memory in bytes: of the whole device by whoever (`memory_used` of `memory_total`), and by the run's worker
    (`memory_allocated`); what batches are planned for (`memory_target`) and above what it gets none
    (`memory_critical`). `utilization` is a share of the time, `temperature` in °C, `power` and its limit in watts,
    clocks in MHz, `throttled_by` why the driver slows them. `ecc_corrected` and `ecc_uncorrected` count errors of the
    memory since the driver was loaded, `xid` are NVIDIA's numbers of the errors since the run began. `cpu` is the share
    of one core and `process_memory` the bytes of its worker's process. `queue` is how many batches it has, `computing`
    for how many seconds it has computed the first of them, and `expected` how long that should take.
    """

    device: str
    verdict: Verdict = Verdict.OK
    reasons: Sequence[str] = ()
    action: Action = Action.NONE
    memory_used: int | None = None
    memory_total: int | None = None
    memory_allocated: int | None = None
    memory_target: int | None = None
    memory_critical: int | None = None
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
