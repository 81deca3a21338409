"""A series: how fast each device was over the time of a run, in as many buckets as a display has use for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

MOST_BUCKETS = 600
"""When there are as many, two become one: a run of hours takes the memory of one of minutes."""
QUIET_SECONDS = 30.0
"""A device that has finished no batch for so long is shown as it is: doing nothing."""


@dataclass
class Lane:
    """One device: papers and tokens by bucket; `last` is when it finished its last batch."""

    papers: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    last: float = 0.0


@dataclass
class Series:
    """Since `began` (seconds since the epoch), in buckets of `seconds`."""

    began: float = 0.0
    seconds: float = 1.0
    lanes: dict[str, Lane] = field(default_factory=dict)

    def take(self, event: Mapping[str, Any]) -> None:
        """Takes one event of a run's record in; a run that is tried again begins anew."""
        if event["event"] == "batch":
            self.add(event["device"], event["time"], event["seconds"], event["papers"], event["tokens"])
        elif event["event"] == "run_started":
            self.began, self.seconds, self.lanes = event["time"], 1.0, {name: Lane() for name in event["devices"]}
        elif event["event"] == "pool_ready" and not any(lane.last for lane in self.lanes.values()):
            self.began = event["time"]  # what came before was not the devices' time

    def add(self, device: str, time: float, seconds: float, papers: float, tokens: float) -> None:
        """What a device did in the `seconds` before `time`, evenly spread over them."""
        if not self.began:
            self.began = time - seconds
        lane = self.lanes.setdefault(device, Lane())
        lane.last = max(lane.last, time)
        last = max(0.0, time - self.began)
        first = min(last, max(0.0, time - seconds - self.began))
        while last / self.seconds >= MOST_BUCKETS:
            self._compact()
        begin, end = int(first / self.seconds), int(last / self.seconds)
        for amounts, amount in ((lane.papers, papers), (lane.tokens, tokens)):
            amounts.extend([0.0] * (end + 1 - len(amounts)))
            if begin == end:
                amounts[end] += amount
                continue
            density = amount / (last - first)
            amounts[begin] += density * ((begin + 1) * self.seconds - first)
            amounts[end] += density * (last - end * self.seconds)
            for bucket in range(begin + 1, end):
                amounts[bucket] += density * self.seconds

    def copy(self) -> Self:
        """As it is now, for a display that another thread draws."""
        lanes = {name: Lane([*lane.papers], [*lane.tokens], lane.last) for name, lane in self.lanes.items()}
        return type(self)(self.began, self.seconds, lanes)

    def span(self, now: float) -> float:
        """The seconds since it began of which all is known: what a device computes at present is told when it is
        done."""
        known = [lane.last if now - lane.last < QUIET_SECONDS else now for lane in self.lanes.values() if lane.last]
        return max(0.0, min(known, default=self.began) - self.began)

    def papers_per_second(self, now: float, points: int, device: str | None = None) -> list[float]:
        """So many points in time, from the beginning to `now`: of one device, or of all together."""
        return self._rates([lane.papers for lane in self._of(device)], self.span(now), points)

    def tokens_per_second(self, now: float, points: int, device: str | None = None) -> list[float]:
        return self._rates([lane.tokens for lane in self._of(device)], self.span(now), points)

    def _of(self, device: str | None) -> list[Lane]:
        return list(self.lanes.values()) if device is None else [self.lanes.get(device, Lane())]

    def _rates(self, lanes: Sequence[Sequence[float]], span: float, points: int) -> list[float]:
        """Each point is the mean of the buckets that lie in its part of the span; a last bucket that is not full yet
        counts for as long as it is."""
        buckets = max(1, int(span / self.seconds)) if span else 0
        if not buckets:
            return []
        full = [sum(lane[bucket] for lane in lanes if bucket < len(lane)) for bucket in range(buckets)]
        lasted = min(span, self.seconds)
        rates = []
        for point in range(points):
            begin = point * buckets // points
            end = max(begin + 1, (point + 1) * buckets // points)
            rates.append(sum(full[begin:end]) / ((end - begin) * lasted))
        return rates

    def _compact(self) -> None:
        for lane in self.lanes.values():
            lane.papers, lane.tokens = _halved(lane.papers), _halved(lane.tokens)
        self.seconds *= 2


def _halved(amounts: Sequence[float]) -> list[float]:
    return [sum(amounts[place : place + 2]) for place in range(0, len(amounts), 2)]
