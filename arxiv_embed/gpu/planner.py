"""Planners: which papers a lane computes next. The token planner is the production mode, the fixed one its baseline."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.batching import Batch, Fits, Reservoir
from arxiv_embed.gpu.lane import Lane, State
from arxiv_embed.gpu.memory import Shape

REST_EVERY = 4
"""Of so many batches one begins with a paper that is not urgent, while urgent ones wait."""

BATCHES_WAITING, LEAST_WAITING, MOST_WAITING = 32, 512, 16_384
"""How much is held back so that similar lengths meet: so many batches' worth of tokens, in so many papers at least and
at most."""

ENOUGH_TOKENS = 32_768
"""A batch of fewer tokens takes padding into the bargain."""

SHARE_OF_THE_REST = 0.5
"""Near the end a batch takes this part of the time that is left at most, so that all devices end together."""

LEAST_SHARE, FIXED_TIMES = 0.05, 3.0
"""But not less than this part of what its last batches took, nor than so many times what any batch takes at least."""

FIRST_PARTS = 8
"""Where little is to be done, a device's first batch is this part of what it would have of equal shares: nobody knows
yet how fast it is."""


class Planner(Protocol):
    again: deque[Batch]
    """What went wrong once, and is to be tried again first."""

    ended: bool
    """Whether no more papers come."""

    coming: int
    """So many papers are still to come, as far as is known."""

    def wants(self) -> bool:
        """Whether it would take more papers in."""

    def add(self, papers: Sequence[TokenizedPaper], urgent: Sequence[bool] | None) -> None: ...

    def next_batch(self, lane: Lane, lanes: Sequence[Lane], now: float) -> Batch | None:
        """What the lane is to be sent now; None where it had better wait."""

    def shortest(self) -> Batch:
        """The shortest paper that waits, alone: what a device is tried with where nothing seems to fit."""

    @property
    def waiting(self) -> int:
        """Papers that are in no batch under way."""


class FixedPlanner:
    """`batch_size` papers a batch, in the order they come, dealt round robin; memory and speed are not looked at."""

    def __init__(self, batch_size: int) -> None:
        self.again: deque[Batch] = deque()
        self.ended = False
        self.coming = 0
        self._batch_size = batch_size
        self._papers: deque[TokenizedPaper] = deque()
        self._turn = 0

    def wants(self) -> bool:
        return len(self._papers) < 4 * self._batch_size

    def add(self, papers: Sequence[TokenizedPaper], urgent: Sequence[bool] | None) -> None:
        self._papers.extend(papers)

    @property
    def waiting(self) -> int:
        return len(self._papers) + sum(len(batch.papers) for batch in self.again)

    def shortest(self) -> Batch:
        return self.again.popleft() if self.again else Batch([self._papers.popleft()])

    def next_batch(self, lane: Lane, lanes: Sequence[Lane], now: float) -> Batch | None:
        if batch := _retried(self.again, lane, lanes, lambda shape: True):
            return batch
        usable = [other for other in lanes if other.takes_batches]
        if lane is not usable[self._turn % len(usable)]:
            return None
        if not self._papers or (len(self._papers) < self._batch_size and not self.ended):
            return None
        self._turn += 1
        count = min(self._batch_size, len(self._papers))
        return Batch([self._papers.popleft() for _ in range(count)])


class TokenPlanner:
    """Batches are formed when a lane has room, by its memory and speed, of papers of similar length.

    The paper that has waited longest is in the next batch, an urgent one first. Near the end batches grow smaller, a
    lane gets none that the others would have done before it, and when no more papers come the longest go first.
    """

    def __init__(self, batch_size: int) -> None:
        self.again: deque[Batch] = deque()
        self.ended = False
        self.coming = 0
        self._taken_in, self._tokens_taken_in = 0, 0
        self._outlook: _Outlook | None = None
        self._batch_size = batch_size
        self._urgent, self._rest = Reservoir(), Reservoir()
        self._drawn = 0
        self._held_back = 0
        """So many tokens are held back."""

    @property
    def waiting(self) -> int:
        return len(self._urgent) + len(self._rest) + sum(len(batch.papers) for batch in self.again)

    @property
    def _tokens(self) -> float:
        """Of all papers in no batch under way, those to come reckoned like those that came."""
        expected = self.coming * self._tokens_taken_in / self._taken_in if self._taken_in else 0.0
        return self._reserve + expected + sum(batch.shape.tokens for batch in self.again)

    def wants(self) -> bool:
        papers = len(self._urgent) + len(self._rest)
        return papers < LEAST_WAITING or (papers < MOST_WAITING and self._reserve < self._held_back)

    @property
    def _reserve(self) -> int:
        return self._urgent.tokens + self._rest.tokens

    def add(self, papers: Sequence[TokenizedPaper], urgent: Sequence[bool] | None) -> None:
        self.coming = max(0, self.coming - len(papers))
        self._taken_in += len(papers)
        self._tokens_taken_in += sum(len(paper.ids) for paper in papers)
        if urgent is None:
            self._rest.add(papers)
        else:
            for reservoir, wanted in ((self._urgent, True), (self._rest, False)):
                reservoir.add([paper for paper, is_urgent in zip(papers, urgent, strict=True) if is_urgent == wanted])

    def shortest(self) -> Batch:
        if reservoir := self._urgent or self._rest:
            return Batch(reservoir.draw(0, 1, lambda shape: True, 0))
        smallest = min(self.again, key=lambda batch: len(batch.papers))
        self.again.remove(smallest)
        while len(smallest.papers) > 1:
            smallest, rest = smallest.halves()
            self.again.append(rest)
        return smallest

    def next_batch(self, lane: Lane, lanes: Sequence[Lane], now: float) -> Batch | None:
        if lane.budget.is_critical:
            return None
        if batch := _retried(self.again, lane, lanes, lane.fits):
            return batch
        if not len(self._urgent) + len(self._rest):
            return _stolen(lane, lanes, now) if self.ended and lane.is_idle else None
        if self.ended:
            self.coming = 0
        elif lane.sent and self.wants() and self._reserve < self._held_back / 2:
            return None  # too few to be choosy yet, and the lane is busy
        if not self.ended and not self.coming:
            return self._draw(lane, math.inf, math.inf)  # nobody knows how far the end is
        return self._draw_near_the_end(lane, lanes, now)

    def _draw(
        self, lane: Lane, most_seconds: float, longest_seconds: float, most_papers: int = MOST_WAITING
    ) -> Batch | None:
        """A batch of `most_papers` that takes the lane `most_seconds`, unless it is of one paper, which may take
        it `longest_seconds`."""
        speed = lane.speed

        def fits(shape: Shape) -> bool:
            if not lane.fits(shape):
                return False
            return shape.papers == 1 or most_seconds == math.inf or speed.seconds(shape) <= most_seconds

        def acceptable(length: int) -> bool:
            shape = Shape(1, length, length)
            return lane.budget.fits(shape) and speed.seconds(shape) <= longest_seconds

        assert lane.ready is not None
        enough = math.inf if lane.ready.packed else min(ENOUGH_TOKENS, (lane.ready.best_tokens or math.inf) / 2)
        first, then = self._urgent, self._rest
        if not len(first) or (len(then) and self._drawn % REST_EVERY == REST_EVERY - 1):
            first, then = then, first
        for reservoir, other in ((first, then), (then, first)):
            if not len(reservoir):
                continue
            anchor = reservoir.longest(acceptable) if self.ended else reservoir.oldest
            if anchor is not None and not acceptable(reservoir.length_at(anchor)):
                anchor = reservoir.longest(acceptable)  # it waits for more memory, or for a faster device
            if anchor is None:
                continue
            most = min(most_papers, lane.most_papers(self._batch_size))
            papers = reservoir.draw(anchor, most, fits, enough)
            if len(other) and papers and len(papers) < most:
                papers += other.fill(papers, most, fits)
            self._drawn += 1
            batch = Batch(papers)
            self._held_back = max(self._held_back, BATCHES_WAITING * batch.shape.tokens)
            return batch
        return None

    def _draw_near_the_end(self, lane: Lane, lanes: Sequence[Lane], now: float) -> Batch | None:
        outlook = self._outlook
        if outlook is None or (outlook.now, outlook.busy) != (now, sum(bool(other.sent) for other in lanes)):
            outlook = self._outlook = _Outlook(self._tokens, lanes, now)
        if not outlook.is_known:
            if lane.sent:
                return None
            share = (self.waiting + self.coming) // outlook.working
            return self._draw(lane, math.inf, math.inf, most_papers=max(1, share // FIRST_PARTS))
        left, elsewhere = outlook.of(lane)
        mine = lane.seconds_left(now)
        most = SHARE_OF_THE_REST * (left - mine)
        if lane.sent and most < mine:
            return None  # what comes next is better decided when this is done
        floor = max(FIXED_TIMES * lane.speed.fixed_seconds, LEAST_SHARE * lane.speed.usual_seconds)
        return self._draw(lane, max(most, floor), elsewhere - mine)


class _Outlook:
    """How long it will take, as it was at one moment: `tokens` that wait or come, and what the lanes compute. A batch
    that is sent moves some from the one to the other, and changes nothing but how many lanes compute."""

    def __init__(self, tokens: float, lanes: Sequence[Lane], now: float) -> None:
        working = [other for other in lanes if other.takes_batches and not other.budget.is_critical]
        self.now = now
        self.busy = sum(bool(other.sent) for other in lanes)
        self.working = len(working)
        self.is_known = all(other.speed.rate for other in working)
        """Whether every lane's speed was measured."""
        self._own = {other.name: other.seconds_left(now) * other.speed.rate for other in working}
        self._work = tokens + sum(self._own.values())
        self._rate = sum(other.speed.rate for other in working)
        self._busy_rates = {other.name: other.speed.rate for other in working if other.sent}
        self._busy_rate = sum(self._busy_rates.values())

    def of(self, lane: Lane) -> tuple[float, float]:
        """Seconds until all is done, by all lanes and by the others alone, those that compute something."""
        others = self._busy_rate - self._busy_rates.get(lane.name, 0.0)
        elsewhere = (self._work - self._own.get(lane.name, 0.0)) / others if others > 0 else math.inf
        return self._work / self._rate, elsewhere


def _retried(again: deque[Batch], lane: Lane, lanes: Sequence[Lane], fits: Fits) -> Batch | None:
    """The first batch that was in trouble and may be tried on this lane, cut down until it fits; one of which nothing
    fits stays as it is."""
    if not again:
        return None
    ready = {other.name for other in lanes if other.state is State.READY}
    for batch in list(again):
        if lane.name in batch.avoid and ready - batch.avoid:
            continue
        piece, rest = batch, []
        while len(piece.papers) > 1 and not fits(piece.shape):
            piece, half = piece.halves()
            rest.append(half)
        if fits(piece.shape):
            again.remove(batch)
            again.extend(rest)
            return piece
    return None


def _stolen(lane: Lane, lanes: Sequence[Lane], now: float) -> Batch | None:
    """A batch taken from behind the one that a slower lane computes, where this one would have it done sooner."""
    for other in sorted(lanes, key=lambda other: other.seconds_left(now), reverse=True):
        queued = other.batches[1:]
        if other is lane or not queued or not lane.fits(queued[-1].shape):
            continue
        if lane.speed.seconds(queued[-1].shape) < other.seconds_left(now):
            other.withdraw(queued[-1])
            return queued[-1]
    return None
