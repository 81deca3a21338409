"""Verdicts: how a device is judged, by what was read of it, what its lane does and what was found before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from arxiv_embed.gpu.budget import CRITICAL, TARGET
from arxiv_embed.gpu.health import Action, DeviceHealth, Told, Verdict
from arxiv_embed.gpu.lane import State
from arxiv_embed.gpu.readings import POWER_BRAKE, THERMAL, Reading


@dataclass(frozen=True)
class LaneLook:
    """A lane as it was seen from another thread.

    `rests` is whether it gets no batch until it is cool, and `rested` for how many seconds already; `batch` is the
    number of what its worker computes, for so many seconds (`computing`) of an `expected` number (0.0 where nothing
    is known), and `spoken` whether the worker has said something that the pool has not read yet. `losses` are workers
    lost in a row, `retry_in` the seconds until a retired device is tried again. `scale` is what its budget uses of
    its room, `shrunk` whether that is kept small; `allocated` the bytes that its worker held at its last batch, of
    the `total` that it sees.
    """

    device: str
    state: State
    rests: bool = False
    rested: float = 0.0
    queue: int = 0
    batch: int | None = None
    computing: float = 0.0
    expected: float = 0.0
    spoken: bool = False
    losses: int = 0
    retry_in: float = 0.0
    scale: float = 1.0
    shrunk: bool = False
    allocated: int | None = None
    total: int | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Limits:
    """From when a device is unwell: °C, seconds, and numbers."""

    hot: float = 87.0
    """Where the driver does not say at what temperature it slows the device down."""
    before_slowdown: float = 2.0
    cooler: float = 8.0
    """So much below what is hot it is cool again."""
    longest_rest: float = 900.0
    """A device that is hot still, without work, will not become cool."""
    stall_factor: float = 5.0
    stall_floor: float = 10.0
    lost_workers: int = 2
    least_scale: float = 0.5
    """A budget that is shrunk to less than that is not shrunk more, but where memory runs out."""
    shrinks: bool = True
    """Whether batches become smaller at all."""
    least_held: float = 0.1
    """Where the worker holds a smaller share of the memory, smaller batches do not help against who holds the rest."""
    roomier: float = 0.05
    """So much of the memory is free below what is critical, when batches may grow again."""
    returns: int = 2
    """So often in a row a device is brought back when the driver sees it again; then as any retired one, later."""

    def hot_at(self, reading: Reading) -> float:
        known = reading.slowdown_at
        return known - self.before_slowdown if known and 60 <= known <= 120 else self.hot


@dataclass(frozen=True)
class History:
    """What the reports before have found of a device, in this run."""

    verdict: Verdict = Verdict.OK
    ecc_first: int | None = None
    ecc_last: int | None = None
    """Uncorrected errors, as first and as last read."""
    xid: tuple[int, ...] = ()
    restarts: int = 0
    """For errors of the hardware."""
    lost: bool = False
    """It may be retired for that only later, or is, and was not started since."""
    returns: int = 0
    """How often it was brought back after that."""
    stalled: int | None = None
    """The batch that it was stalled at, by its number."""
    links_up: int = 0
    """At most."""

    def then(self, reading: Reading, lane: LaneLook, health: DeviceHealth) -> History:
        """With one report more."""
        errors = reading.ecc_uncorrected
        is_back = self.verdict is Verdict.RETIRED and health.verdict is not Verdict.RETIRED
        return History(
            verdict=health.verdict,
            ecc_first=errors if self.ecc_first is None else self.ecc_first,
            ecc_last=self.ecc_last if errors is None else errors,
            xid=(*self.xid, *reading.xid),
            restarts=self.restarts + (health.verdict is Verdict.FAILING and health.action is Action.RESTART),
            lost=bool(reading.lost) or (self.lost and not is_back),
            returns=self.returns + (health.verdict is Verdict.RETIRED and health.action is Action.BRING_BACK),
            stalled=lane.batch if health.verdict is Verdict.STALLED else None,
            links_up=max(self.links_up, reading.links_up or 0),
        )


FALLEN_OFF = 79
XIDS = {
    46: "it stopped processing",
    48: "an ECC error of two bits",
    61: "its microcontroller halted",
    62: "its microcontroller halted",
    64: "a row of memory could not be remapped",
    74: "an error of NVLink",
    FALLEN_OFF: "it has fallen off the bus",
    94: "an ECC error, contained",
    95: "an ECC error, not contained",
    119: "its system processor does not answer",
    120: "an error of its system processor",
    140: "an ECC error that was not corrected",
    143: "it could not be initialized",
}
"""NVIDIA's numbers of the errors that mean hardware; the others are mostly a program's own."""

_FROM_WELL_TO_WORST = list(Verdict)
_STRONGEST_FIRST = (Action.RETIRE, Action.RESTART, Action.PAUSE, Action.BRING_BACK, Action.SHRINK, Action.NONE)


@dataclass(frozen=True)
class _Finding:
    verdict: Verdict
    reason: str
    action: Action = Action.NONE


def judge(reading: Reading, lane: LaneLook, history: History, limits: Limits | None = None) -> DeviceHealth:
    """The worst verdict that something asks for, all reasons, and the strongest action that one of them asks for."""
    limits = limits or Limits()
    findings = list(_presence(reading, lane, history, limits))
    if not reading.lost and lane.state is not State.RETIRED:
        findings += _errors(reading, history)
        findings += list(_stall(reading, lane, history, limits)) or _losses(lane, limits)
        findings += _memory(reading, lane, limits)
        findings += _slowdown(reading, lane, limits)
        findings += _heat(reading, lane, limits)
        slow_or_full = any(found.verdict in (Verdict.THROTTLED, Verdict.MEMORY_CRITICAL) for found in findings)
        if lane.shrunk and not slow_or_full and _has_room(reading, limits):
            findings.append(_Finding(Verdict.OK, "its batches are not too much for it", Action.BRING_BACK))
    findings.sort(key=lambda found: _FROM_WELL_TO_WORST.index(found.verdict), reverse=True)
    total = reading.memory_total or lane.total
    told = {field.name: getattr(reading, field.name) for field in fields(Told)}
    told |= {"memory_total": total, "xid": [*history.xid, *reading.xid]}
    return DeviceHealth(
        device=lane.device,
        verdict=findings[0].verdict if findings else Verdict.OK,
        reasons=[found.reason for found in findings],
        action=min((found.action for found in findings), key=_STRONGEST_FIRST.index, default=Action.NONE),
        memory_allocated=lane.allocated,
        memory_target=round(TARGET * total) if total else None,
        memory_critical=round(CRITICAL * total) if total else None,
        queue=lane.queue,
        computing=lane.computing,
        expected=lane.expected,
        **told,
    )


def _presence(reading: Reading, lane: LaneLook, history: History, limits: Limits) -> Iterator[_Finding]:
    if reading.lost and lane.state is State.RETIRED:
        yield _Finding(Verdict.RETIRED, f"the driver has lost it: {reading.lost}")
    elif reading.lost:
        yield _Finding(Verdict.FAILING, f"the driver has lost it: {reading.lost}", Action.RETIRE)
    elif lane.state is State.RETIRED and history.lost and history.returns < limits.returns:
        yield _Finding(Verdict.RETIRED, "the driver sees it again", Action.BRING_BACK)
    elif lane.state is State.RETIRED and history.lost:
        told = f"the driver has lost it {history.returns + 1} times; it is tried again in {lane.retry_in:.0f} s"
        yield _Finding(Verdict.RETIRED, told)
    elif lane.state is State.RETIRED:
        yield _Finding(Verdict.RETIRED, f"it failed again and again; it is tried again in {lane.retry_in:.0f} s")


def _errors(reading: Reading, history: History) -> Iterator[_Finding]:
    action = Action.RETIRE if history.restarts else Action.RESTART
    now, first, last = reading.ecc_uncorrected, history.ecc_first, history.ecc_last
    if now is not None and last is not None and now > last:
        yield _Finding(Verdict.FAILING, f"{now - last} new ECC errors that were not corrected", action)
    elif now is not None and first is not None and now > first:
        yield _Finding(Verdict.OK, f"{now - first} ECC errors in this run that were not corrected")
    for number in dict.fromkeys(reading.xid):
        if number in XIDS:
            then = Action.RETIRE if number == FALLEN_OFF else action
            yield _Finding(Verdict.FAILING, f"XID {number}: {XIDS[number]}", then)
        else:
            yield _Finding(Verdict.OK, f"XID {number}")
    if reading.links_up is not None and reading.links_up < history.links_up:
        yield _Finding(Verdict.OK, f"{reading.links_up} of {history.links_up} NVLinks are up")


def _stall(reading: Reading, lane: LaneLook, history: History, limits: Limits) -> Iterator[_Finding]:
    """A device whose clocks the driver lowers may take so much longer: another worker would be as slow. What has it
    stalled may be over soon, as others' work on its cores is: it is restarted when it is found so at the same batch
    again."""
    slower = 1.0
    if reading.throttled_by and reading.clock and reading.clock_limit:
        slower = max(1.0, reading.clock_limit / reading.clock)
    most = max(limits.stall_floor, limits.stall_factor * lane.expected) * slower
    if lane.state is State.READY and lane.expected and not lane.spoken and lane.computing > most:
        told = f"its batch takes {lane.computing:.1f} s already, predicted were {lane.expected:.1f} s"
        yield _Finding(Verdict.STALLED, told, Action.RESTART if history.stalled == lane.batch else Action.NONE)


def _losses(lane: LaneLook, limits: Limits) -> Iterator[_Finding]:
    """Of a device that is not stalled: a batch that hangs each worker is to blame for it then too, not the device."""
    if lane.losses >= limits.lost_workers:
        yield _Finding(Verdict.FAILING, f"{lane.losses} workers were lost in a row")  # the pool counts these itself


def _memory(reading: Reading, lane: LaneLook, limits: Limits) -> Iterator[_Finding]:
    used, total = reading.memory_used, reading.memory_total
    if used is None or not total:
        return
    if used > CRITICAL * total:
        told = f"{used / total:.0%} of {total / 1e9:.1f} GB are used, {CRITICAL:.0%} at most should be"
        others = lane.allocated is not None and lane.allocated < limits.least_held * total
        if others:
            told += f", nearly all by others ({(lane.allocated or 0) / 1e9:.1f} GB are its worker's)"
        yield _Finding(Verdict.MEMORY_CRITICAL, told, Action.SHRINK if limits.shrinks and not others else Action.NONE)


def _has_room(reading: Reading, limits: Limits) -> bool:
    used, total = reading.memory_used, reading.memory_total
    return used is None or not total or used <= (CRITICAL - limits.roomier) * total


def _slowdown(reading: Reading, lane: LaneLook, limits: Limits) -> Iterator[_Finding]:
    speed = f" ({reading.clock} of {reading.clock_limit} MHz)" if reading.clock and reading.clock_limit else ""
    for reason in reading.throttled_by:
        if reason in THERMAL:
            shrinks = limits.shrinks and lane.scale > limits.least_scale
            yield _Finding(Verdict.THROTTLED, f"{reason}{speed}", Action.SHRINK if shrinks else Action.NONE)
        else:
            yield _Finding(Verdict.THROTTLED if reason in POWER_BRAKE else Verdict.OK, f"{reason}{speed}")


def _heat(reading: Reading, lane: LaneLook, limits: Limits) -> Iterator[_Finding]:
    now, hot = reading.temperature, limits.hot_at(reading)
    if now is None:
        if lane.rests:
            yield _Finding(Verdict.OK, "its temperature is not told any more", Action.BRING_BACK)
    elif now > hot - limits.cooler and lane.rests and lane.rested > limits.longest_rest:
        told = f"{now:.0f} °C after {lane.rested / 60:.0f} minutes of rest"
        yield _Finding(Verdict.FAILING, told, Action.RETIRE)
    elif now >= hot:
        told = f"{now:.0f} °C, of {hot:.0f} °C at most"
        yield _Finding(Verdict.HOT, told, Action.NONE if lane.rests else Action.PAUSE)
    elif lane.rests and now > hot - limits.cooler:
        yield _Finding(Verdict.HOT, f"{now:.0f} °C, it rests until {hot - limits.cooler:.0f} °C")
    elif lane.rests:
        yield _Finding(Verdict.OK, f"{now:.0f} °C", Action.BRING_BACK)
