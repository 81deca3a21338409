"""Speed: how long a device takes for a batch, from its own last batches."""

from __future__ import annotations

from collections import deque

import numpy as np

from arxiv_embed.gpu.fit import fit_nonnegative
from arxiv_embed.gpu.memory import Shape

REMEMBERED, RECENT = 100, 8
FORGETTING = 0.9
"""A device that is throttled is to be seen as such within a few batches."""


class Speed:
    """seconds = α + β·tokens + γ·tokens × longest over one device's last batches, the latest counting most.

    `packed` says whether a batch computes its papers' tokens, or all of them padded to the longest.
    """

    def __init__(self, *, packed: bool) -> None:
        self._packed = packed
        self._seen: deque[tuple[int, int, float]] = deque(maxlen=REMEMBERED)
        self._coefficients = (0.0, 0.0, 0.0)
        self.rate = 0.0
        """Tokens/s over the last few batches, padding not counted; 0.0 while nothing was measured."""
        self.usual_seconds = 0.0
        """What a large batch has taken of late."""
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT)

    def computed(self, shape: Shape) -> int:
        """The tokens that a batch computes."""
        return shape.tokens if self._packed else shape.padded

    def seconds(self, shape: Shape) -> float:
        """Predicted for a batch; 0.0 while nothing was measured."""
        fixed, linear, quadratic = self._coefficients
        return fixed + self.computed(shape) * (linear + quadratic * shape.longest)

    @property
    def fixed_seconds(self) -> float:
        """What a batch takes however little is in it."""
        return self._coefficients[0]

    def observe(self, shape: Shape, seconds: float) -> None:
        """Takes in how long a batch took, in seconds > 0."""
        self._recent.append((shape.tokens, seconds))
        self.usual_seconds = max(seconds, 0.9 * self.usual_seconds)
        self.rate = sum(tokens for tokens, _ in self._recent) / sum(spent for _, spent in self._recent)
        computed = self.computed(shape)
        self._seen.append((computed, computed * shape.longest, seconds))
        seen = np.array(self._seen, float)
        features = np.stack([np.ones(len(seen)), seen[:, 0], seen[:, 1]], axis=1)
        weights = FORGETTING ** np.arange(len(seen) - 1, -1, -1.0)
        fixed, linear, quadratic = fit_nonnegative(features, seen[:, 2], weights, (0.0, 0.0, 0.0))
        self._coefficients = (fixed, linear, quadratic)
