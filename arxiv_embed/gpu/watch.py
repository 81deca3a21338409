"""The watch: a thread that looks at the devices of a pool by its own clock, whatever these and the pool are doing."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from arxiv_embed.gpu.health import Action, DeviceHealth, HealthReport, Verdict
from arxiv_embed.gpu.lane import Lane
from arxiv_embed.gpu.orders import Order, Orders
from arxiv_embed.gpu.readings import Instruments, Reading
from arxiv_embed.gpu.verdicts import History, LaneLook, Limits, judge

FIRST_SECONDS = 1.0
"""Whoever looks at a run that has just begun is to see something."""

END_SECONDS = 2.0
"""For a driver that does not answer to be left alone."""

SILENT_SECONDS, SILENT_REPORTS = 60.0, 4
"""A watch that has found nothing for so long, in seconds and in reports, waits for a driver that does not answer."""

LOOKS = 3


class Watch:
    """Reports every so many `seconds` while a pool is open, one after another; what follows from a report stands in
    `orders`, which the pool takes by `take`.

    `elsewhere` tells, by name, how devices of other machines are. `on_report` is called in the watch's thread, and
    not any more once `end` has returned. Whatever goes wrong there, or in looking, is an order to tell of it, once,
    and the watch goes on.
    """

    def __init__(
        self,
        seconds: float,
        on_report: Callable[[HealthReport], object],
        limits: Limits | None = None,
        elsewhere: Callable[[], Mapping[str, Reading]] = dict,
    ) -> None:
        self.orders = Orders()
        self._seconds = seconds
        self._on_report = on_report
        self._limits = limits or Limits()
        self._elsewhere = elsewhere
        self._number = 0
        self._looked = 0.0
        """When a look ended last, well or not, in seconds of the monotonic clock."""
        self._histories: dict[str, History] = {}
        self._told: set[str] = set()
        self._reporting = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, lanes: Sequence[Lane], waiting: Callable[[], int] = lambda: 0) -> None:
        """Looks at these lanes from now on; `waiting` tells how many papers wait. Orders about others are void."""
        self.orders = Orders()
        self._over = threading.Event()
        self._looked = time.monotonic()
        self._thread = threading.Thread(
            target=self._watch, args=(lanes, waiting, self._over), name="health", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Ends the thread; one that waits for a driver without an answer is left to itself, and reports nothing. So is
        one whose report cannot be written for as long, which comes to an end after this."""
        in_time = self._reporting.acquire(timeout=END_SECONDS)
        self._over.set()
        if in_time:
            self._reporting.release()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
            self._thread = None

    def take(self, lanes: Sequence[Lane], now: float) -> list[Order]:
        """What is to be done. Where the watch itself waits without end, no device is to rest as long."""
        if now - self._looked > max(SILENT_SECONDS, SILENT_REPORTS * self._seconds):
            self._tell_once(lanes, "the driver, or the disk, does not answer")
            self._release(lanes)
        return self.orders.take()

    def _watch(self, lanes: Sequence[Lane], waiting: Callable[[], int], over: threading.Event) -> None:
        instruments = Instruments(())
        due = time.monotonic() + min(FIRST_SECONDS, self._seconds)
        while not over.wait(max(0.0, due - time.monotonic())):
            try:
                self._report(lanes, waiting, over, instruments, due)
            except Exception as error:  # noqa: BLE001 - a run goes on without being watched
                self._stumbled(lanes, over, error)
            if not over.is_set():
                self._looked = time.monotonic()
            due = next_due(due, self._seconds, time.monotonic())
        with contextlib.suppress(Exception):
            instruments.close()

    def _report(
        self,
        lanes: Sequence[Lane],
        waiting: Callable[[], int],
        over: threading.Event,
        instruments: Instruments,
        due: float,
    ) -> None:
        late = max(0.0, time.monotonic() - due)
        present = list(lanes)
        looks = [look_at(lane, time.monotonic()) for lane in present]
        instruments.devices = [lane.device for lane in present]
        readings = instruments.read({look.device: look.pid for look in looks})
        told = self._elsewhere()
        readings = [told.get(reading.device, reading) for reading in readings]
        cpu, memory = instruments.own_use()
        with self._reporting:
            if over.is_set():
                return
            devices = []
            for look, reading in zip(looks, readings, strict=True):
                history = self._histories.get(look.device, History())
                health = judge(reading, look, history, self._limits)
                self._histories[look.device] = history.then(reading, look, health)
                self._order(health, look)
                devices.append(health)
            self._number += 1
            try:
                self._on_report(HealthReport(self._number, late, waiting(), cpu, memory, devices))
            except Exception as error:  # noqa: BLE001 - as a full disk: what was found is right all the same
                self._tell_once(lanes, _in_words(error))

    def _order(self, health: DeviceHealth, look: LaneLook) -> None:
        if health.action is Action.NONE:
            return
        why = "; ".join(health.reasons)
        if health.verdict is Verdict.STALLED and health.action is Action.RESTART:
            self.orders.post(Order(health.device, health.action, why, look.batch, look.computing))
        else:
            self.orders.post(Order(health.device, health.action, why))

    def _stumbled(self, lanes: Sequence[Lane], over: threading.Event, error: Exception) -> None:
        """Nobody knows when a device that rests is cool, then: none rests any more, and none is kept small."""
        with self._reporting:
            if over.is_set():
                return
            self._tell_once(lanes, _in_words(error))
            self._release(lanes)

    def _release(self, lanes: Sequence[Lane]) -> None:
        for look in (look_at(lane, time.monotonic()) for lane in lanes):
            if look.rests or look.shrunk:
                self.orders.post(Order(look.device, Action.BRING_BACK, "how it is cannot be told any more"))

    def _tell_once(self, lanes: Sequence[Lane], why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            name = lanes[0].name if lanes else ""
            self.orders.post(Order(name, Action.NONE, f"a report of health failed: {why}"))


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def next_due(due: float, seconds: float, now: float) -> float:
    """When the report after the one that was due then is due: the schedule does not drift, and what it has missed but
    for the last is passed over."""
    return due + max(1, math.floor((now - due) / seconds)) * seconds


def look_at(lane: Lane, now: float) -> LaneLook:
    """A lane as it is seen while the pool's thread changes it: what is half changed is looked at again."""
    for _ in range(LOOKS):
        with contextlib.suppress(AttributeError, IndexError, RuntimeError, OSError, ValueError, AssertionError):
            return _look_at(lane, now)
    return LaneLook(lane.name, lane.state, lane.rests, _rested(lane, now))


def _look_at(lane: Lane, now: float) -> LaneLook:
    worker, ready, sent = lane.worker, lane.ready, list(lane.sent)
    computes = sent[0] if sent else None
    expected = 0.0
    if ready is not None and computes is not None and computes.batch is not None and lane.speed.rate:
        expected = lane.speed.seconds(computes.batch.shape)
    return LaneLook(
        device=lane.name,
        state=lane.state,
        rests=lane.rests,
        rested=_rested(lane, now),
        queue=len(sent),
        batch=computes.number if computes is not None else None,
        computing=max(0.0, now - lane.begun) if computes is not None else 0.0,
        expected=expected,
        spoken=worker is not None and bool(expected) and worker.connection.poll(),
        losses=lane.losses,
        retry_in=max(0.0, lane.until - now),
        scale=lane.budget.scale if ready is not None else 1.0,
        shrunk=ready is not None and lane.budget.is_kept_small,
        allocated=lane.budget.held if ready is not None else None,
        total=ready.total_memory if ready is not None else None,
        pid=worker.pid if worker is not None else None,
    )


def _rested(lane: Lane, now: float) -> float:
    since = lane.rests_since
    return 0.0 if since is None else now - since
