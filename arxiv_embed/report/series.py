"""Series: a run's batches and reports as few enough points to draw, however long it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from arxiv_embed.report.timeline import DoneBatch, Timeline

FEWEST_BATCHES, FEWEST_REPORTS = 6, 2
"""Below which there is nothing to see."""

Floats = npt.NDArray[np.float64]
Thing = TypeVar("Thing")


def shows_batches(timeline: Timeline) -> bool:
    return len(timeline.batches) >= FEWEST_BATCHES


def shows_health(timeline: Timeline) -> bool:
    return len(timeline.reports) >= FEWEST_REPORTS


def rates(batches: Sequence[DoneBatch], edges: Floats) -> Floats:
    """Tokens/s in each bin between the edges, a batch's tokens spread over the time that it was computed in."""
    if not batches:
        return np.zeros(len(edges) - 1)
    ends = np.array([batch.time for batch in batches])
    seconds = np.maximum([batch.seconds for batch in batches], 1e-6)
    tokens = np.array([batch.tokens for batch in batches], float)
    done = np.zeros(len(edges))
    for end, took, count in zip(ends, seconds, tokens, strict=True):
        done += count * np.clip((edges - (end - took)) / took, 0.0, 1.0)
    return np.diff(done) / np.diff(edges)


def highest(times: Floats, values: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """The time and the highest of the values in each bin that has any."""
    bins = np.clip(np.searchsorted(edges, times, "right") - 1, 0, len(edges) - 2)
    found = np.full(len(edges) - 1, -np.inf)
    np.maximum.at(found, bins, values)
    there = np.isfinite(found)
    return ((edges[:-1] + edges[1:]) / 2)[there], found[there]


def shares(times: Floats, parts: Floats, wholes: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """The time, and the sum of the parts over the sum of the wholes, of each bin that has any."""
    bins = np.clip(np.searchsorted(edges, times, "right") - 1, 0, len(edges) - 2)
    part, whole = np.bincount(bins, parts, len(edges) - 1), np.bincount(bins, wholes, len(edges) - 1)
    there = whole > 0
    return ((edges[:-1] + edges[1:]) / 2)[there], part[there] / whole[there]


def some(things: Sequence[Thing], most: int) -> Sequence[Thing]:
    """At most so many of them, evenly spread."""
    return things if len(things) <= most else [things[i] for i in np.linspace(0, len(things) - 1, most).astype(int)]


def stretches(times: Sequence[float], values: Sequence[Any], end: float) -> Iterator[tuple[float, float, Any]]:
    """(from, to, value) of each stretch of equal values; each holds until the next."""
    runs = [
        (next(same)[0], value) for value, same in groupby(zip(times, values, strict=True), key=lambda pair: pair[1])
    ]
    for (begun, value), after in zip(runs, [*(begun for begun, _ in runs[1:]), end], strict=True):
        yield begun, max(begun, after), value
