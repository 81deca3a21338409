"""Virtual devices: lanes without processes, in a time of their own, so that planning can be tried in thousands of ways.

The planner and all that it looks at are the real ones; only the worker's side is played.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.lane import Lane, Patience, Sent
from arxiv_embed.gpu.memory import MemoryLaw, Shape
from arxiv_embed.gpu.planner import Planner
from arxiv_embed.gpu.process import WorkerProcess
from arxiv_embed.gpu.protocol import Ready

GIB = 2**30
LAW = (0.0, 1e5, 0.0)


class VirtualLane(Lane):
    """Computes `rate(now)` tokens a second; its memory follows `LAW` exactly."""

    def __init__(self, name: str, rate: Callable[[float], float], total: int = 64 * GIB, packed: bool = True) -> None:
        super().__init__(Device(name, "cuda"), WorkerProcess, lambda ready: MemoryLaw(ready.law), Patience())
        self.rate_at = rate
        self.computed: list[Batch] = []
        self.ends = 0.0
        self.became_ready(Ready("bfloat16", name, total, 8 * GIB, 0, LAW, packed, False, 0, 4))

    def send(self, batch: Batch, now: float, *, checked: bool = True) -> None:
        if not self.sent:
            self._begin(batch, now)
        self.sent.append(Sent(self._numbers, 0, batch, 0))
        self._numbers += 1

    def withdraw(self, batch: Batch) -> None:
        self.sent = type(self.sent)(sent for sent in self.sent if sent.batch is not batch)

    def finish(self, now: float) -> None:
        """The batch that it computes is done; the next one begins."""
        batch = self.sent.popleft().batch
        assert batch is not None
        self.computed.append(batch)
        self.speed.observe(batch.shape, now - self.begun)
        a, c, b = LAW
        taken = round(a * batch.shape.tokens + batch.shape.padded * c + b * batch.shape.square)
        self.budget.done(batch.shape, 8 * GIB + taken, 0)
        if self.sent and self.sent[0].batch:
            self._begin(self.sent[0].batch, now)

    def _begin(self, batch: Batch, now: float) -> None:
        self.begun = now
        self.ends = now + self.speed.computed(batch.shape) / self.rate_at(now)

    @property
    def shapes(self) -> list[Shape]:
        return [batch.shape for batch in self.computed]


@dataclass
class Played:
    """What came of it: when the last batch was done, and every batch in the order that it was sent."""

    makespan: float
    sent: list[tuple[str, Batch]] = field(default_factory=list)


def play(
    planner: Planner,
    lanes: Sequence[VirtualLane],
    papers: Sequence[TokenizedPaper],
    urgent: Sequence[bool] | None = None,
    supply: float = math.inf,
) -> Played:
    """Lets the lanes compute the papers to the end, as the pool would, where `supply` papers a second are tokenized."""
    now, given, played = 0.0, 0, Played(0.0)
    planner.coming = len(papers)
    while True:
        while planner.wants() and given < len(papers) and given / supply <= now:
            piece = slice(given, given + 256)
            planner.add(papers[piece], None if urgent is None else urgent[piece])
            given += 256
        planner.ended = given >= len(papers)
        for _ in range(4):
            for lane in sorted(lanes, key=lambda lane: (len(lane.sent), lane.seconds_left(now))):
                if lane.has_room and (batch := planner.next_batch(lane, lanes, now)):
                    lane.send(batch, now)
                    played.sent.append((lane.name, batch))
        busy = [lane for lane in lanes if lane.sent]
        awaited = given / supply if given < len(papers) and planner.wants() else math.inf
        if awaited > now and awaited < min((lane.ends for lane in busy), default=math.inf):
            now = awaited
            continue
        if not busy:
            assert planner.ended
            assert not planner.waiting
            played.makespan = now
            return played
        first = min(busy, key=lambda lane: lane.ends)
        now = first.ends
        first.finish(now)
