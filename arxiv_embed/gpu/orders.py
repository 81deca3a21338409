"""Orders: what the watch asks the pool to do about a device, handed from its thread to the pool's own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from arxiv_embed.gpu.faults import Faults
from arxiv_embed.gpu.health import Action
from arxiv_embed.gpu.lane import Lane, State


@dataclass(frozen=True)
class Order:
    """`batch` is the one that takes too long, by its number and by how many seconds it had been `computing`; None where
    the device is to blame. Without an action, that the device is not watched is all there is to tell.
    """

    device: str
    action: Action
    why: str
    batch: int | None = None
    computing: float = 0.0


class Orders:
    """What was not done yet; of two alike only the last."""

    def __init__(self) -> None:
        self._orders: dict[tuple[str, Action], Order] = {}
        self._lock = threading.Lock()

    def post(self, order: Order) -> None:
        with self._lock:
            self._orders.pop((order.device, order.action), None)
            self._orders[order.device, order.action] = order

    def take(self) -> list[Order]:
        """All of them, in the order they came."""
        if not self._orders:
            return []
        with self._lock:
            orders, self._orders = self._orders, {}
        return list(orders.values())


def obey(order: Order, lanes: Sequence[Lane], faults: Faults, now: float) -> None:
    """Does what is asked, unless it is of no use any more; tells of it. Raises `NoDeviceLeft` as `Faults` does."""
    lane = next((lane for lane in lanes if lane.name == order.device), None)
    if lane is None:
        return
    match order.action:
        case Action.NONE:
            faults.report(lane, "unwatched", order.why)
        case Action.SHRINK if lane.ready is not None:
            if not lane.budget.is_kept_small:
                faults.report(lane, "shrunk", order.why)
            lane.budget.shrink()
        case Action.PAUSE if not lane.rests and lane.state is not State.RETIRED:
            lane.rests_since = now
            faults.report(lane, "paused", order.why)
        case Action.RESTART if lane.state is State.READY:
            _restart(order, lane, faults, now)
        case Action.RETIRE if lane.state is not State.RETIRED:
            lane.rests_since = None
            faults.retire(lane, order.why)
        case Action.BRING_BACK:
            _bring_back(order, lane, faults, now)


def _restart(order: Order, lane: Lane, faults: Faults, now: float) -> None:
    if order.batch is None:
        faults.lost(lane, "restarted", order.why, computing=False)
        return
    computes = lane.sent[0].number if lane.sent else None
    if computes == order.batch and now - lane.begun >= order.computing and not lane.has_spoken:
        faults.lost(lane, "hung", order.why)


def _bring_back(order: Order, lane: Lane, faults: Faults, now: float) -> None:
    if lane.rests:
        lane.rests_since = None
        faults.report(lane, "cool again", order.why)
    elif lane.state is not State.RETIRED and lane.ready is not None and lane.budget.is_kept_small:
        lane.budget.recover()
        faults.report(lane, "grows again", order.why)
    elif lane.state is State.RETIRED and now < lane.until:
        lane.until = now
        faults.report(lane, "seen again", order.why)
