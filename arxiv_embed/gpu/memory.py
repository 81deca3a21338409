"""Memory: the law of what a batch takes of a device, learned from what batches took.

peak = base + a·tokens + c·(papers × longest) + b·(papers × longest²), coefficients not negative. The base is measured
once the model is loaded; the rest begins as the model's configuration says and is fitted to measured peaks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arxiv_embed.gpu.fit import Array, fit_nonnegative

FIRST_MARGIN = 0.15
MEASURED_MARGIN = 30
"""After so many batches the margin is the residuals' own quantile."""

QUANTILE, NORMAL_QUANTILE = 0.999, 3.09
"""One batch in a thousand may turn out larger than predicted; and so many standard deviations, if errors are
normal."""

REMEMBERED = 400
FORGETTING = 0.99

MOST_SURPRISE = 1.5
"""A batch that ran out of memory counts for so many times what was expected at most: another may have done it."""

GROWTH = 3.0
"""A batch may exceed the largest measured yet by this, in tokens and in tokens × longest."""


class Shape(NamedTuple):
    """What a batch's memory and time follow from: how many papers, their tokens together, the longest's tokens."""

    papers: int
    tokens: int
    longest: int

    @property
    def padded(self) -> int:
        """Tokens, all papers padded to the longest."""
        return self.papers * self.longest

    @property
    def square(self) -> int:
        """What the weights of attention count, all papers padded to the longest."""
        return self.papers * self.longest * self.longest


class Observation(NamedTuple):
    """A batch's shape, and the bytes that it took beyond the base; `measured` is False where it ran out of memory, and
    all that is known is that it needed more than there was."""

    papers: int
    tokens: int
    longest: int
    taken: int
    measured: bool = True

    @property
    def shape(self) -> Shape:
        return Shape(self.papers, self.tokens, self.longest)


class MemoryLaw:
    """The law of one type of device in one space, in bytes beyond the base.

    `start` are the coefficients (bytes a token, a padded token, a padded token × longest) to begin with; `seen` is what
    earlier runs measured.
    """

    def __init__(self, start: Sequence[float], seen: Sequence[Observation] = ()) -> None:
        self.start = tuple(start)
        self.coefficients = self.start
        self.margin = FIRST_MARGIN
        self.seen: deque[Observation] = deque(seen, maxlen=REMEMBERED)
        self._most_padded = max((o.shape.padded for o in self.seen), default=0)
        self._most_square = max((o.shape.square for o in self.seen), default=0)
        if self.seen:
            self._fit()

    def expected(self, shape: Shape) -> float:
        """The fit itself, without a margin."""
        papers, tokens, longest = shape
        a, c, b = self.coefficients
        return a * tokens + papers * longest * (c + b * longest)

    def bound(self, shape: Shape) -> float:
        """What the batch will take at most, as far as can be told."""
        return self.expected(shape) * (1 + self.margin)

    @property
    def is_new(self) -> bool:
        """Whether nothing was measured yet."""
        return not self._most_padded

    def trusts(self, shape: Shape) -> bool:
        """Whether the shape is near enough to what was done before for the law to speak of it."""
        return shape.padded <= GROWTH * self._most_padded and shape.square <= GROWTH * self._most_square

    def is_largest(self, shape: Shape) -> bool:
        """Whether no batch that was done is larger by any measure."""
        return shape.padded >= self._most_padded or shape.square >= self._most_square

    def observe(self, shape: Shape, taken: int) -> None:
        """Takes in what a batch took, in bytes > 0."""
        self.widen(shape)
        self.seen.append(Observation(*shape, taken))
        self._fit()

    def observe_more_than(self, shape: Shape, available: int) -> None:
        """Takes in that a batch ran out of memory: it needed more than there was, nobody knows how much."""
        if self.expected(shape) < available:
            needed = min(available * (1 + FIRST_MARGIN), MOST_SURPRISE * self.expected(shape))
            self.seen.append(Observation(*shape, round(needed), measured=False))
            self._fit()

    def widen(self, shape: Shape) -> None:
        """Takes in that a batch was done, whatever it took."""
        self._most_padded = max(self._most_padded, shape.padded)
        self._most_square = max(self._most_square, shape.square)

    def _fit(self) -> None:
        papers, tokens, longest, taken, measured = np.array(self.seen, float).T
        features = np.stack([tokens, papers * longest, papers * longest**2], axis=1)
        weights = FORGETTING ** np.arange(len(taken) - 1, -1, -1.0)
        self.coefficients = fit_nonnegative(features, taken, weights, self.start)
        if np.count_nonzero(measured) >= MEASURED_MARGIN:
            residuals = taken / (features @ self.coefficients) - 1
            self.margin = _margin(residuals[measured > 0], len(self.start))


def _margin(residuals: Array, coefficients: int) -> float:
    """The high quantile of the residuals, widened by what so many fitted coefficients have taken from them."""
    normal = residuals.mean() + NORMAL_QUANTILE * residuals.std()
    widening = (1 + coefficients / len(residuals)) / (1 - coefficients / len(residuals))
    return max(float(np.quantile(residuals, QUANTILE)), float(normal)) * float(np.sqrt(widening))
