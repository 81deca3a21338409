"""A fit: least squares with coefficients that are not negative, each error taken relative to what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

PRIOR_WEIGHT, RIDGE = 0.01, 1e-6
"""What a start counts for beside one measurement: it decides only where nothing was measured. The ridge stands in for
it where there is none."""

UNIT_MOST = 1e4


def fit_nonnegative(features: Array, measured: Array, weights: Array, start: Sequence[float]) -> tuple[float, ...]:
    """The coefficients θ ≥ 0 that minimise Σ w ((x·θ) / y − 1)², drawn a little towards `start`.

    `features` [n, k] with few k, `measured` [n] > 0, `weights` [n], `start` [k], where 0 is no opinion. The minimum of
    so small a problem is found by trying every set of positive coefficients (the conditions are those of Lawson and
    Hanson, "Solving Least Squares Problems", chapter 23).
    """
    relative = features / measured[:, None]
    given = np.asarray(start, float)
    # A coefficient's natural unit is what it would be if its feature alone explained what was measured.
    natural = 1 / np.maximum(np.sqrt(np.mean(relative**2, axis=0)), 1e-300)
    scale = np.where(given > 0, np.clip(natural, given, UNIT_MOST * given), natural)
    scaled = relative * scale
    pull = np.where(given > 0, PRIOR_WEIGHT, RIDGE)
    gram = (scaled * weights[:, None]).T @ scaled + np.diag(pull)
    right = weights @ scaled + pull * given / scale
    best, least = np.zeros(len(scale)), np.inf
    for size in range(1, len(scale) + 1):
        for chosen in combinations(range(len(scale)), size):
            index = np.array(chosen)
            solved = np.linalg.solve(gram[np.ix_(index, index)], right[index])
            loss = -float(right[index] @ solved)
            if loss < least and (solved >= 0).all():
                best, least = np.zeros(len(scale)), loss
                best[index] = solved
    return tuple((best * scale).tolist())
