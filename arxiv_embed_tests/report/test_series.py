"""Series: what is drawn of a long run adds up to what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from arxiv_embed.report.series import highest, rates, shares, some, stretches
from arxiv_embed.report.timeline import DoneBatch


def done(time: float, seconds: float, tokens: int = 1_000) -> DoneBatch:
    return DoneBatch(time, "cuda:0", 10, tokens, tokens, seconds, 1, 1, 100, 0)


def test_the_tokens_of_a_batch_are_spread_over_the_time_that_it_took() -> None:
    edges = np.linspace(0.0, 10.0, 11)
    found = rates([done(4.0, 2.0), done(9.5, 0.25), done(10.0, 20.0, 2_000)], edges)
    assert found[2:4] == pytest.approx([500 + 100, 500 + 100])
    assert found.sum() == pytest.approx(1_000 + 1_000 + 1_000)  # half of the last one was before


def test_peaks_are_kept_however_few_points_are_drawn() -> None:
    times, values = np.linspace(0.0, 100.0, 10_001), np.zeros(10_001)
    values[4_567] = 9.0
    at, most = highest(times, values, np.linspace(0.0, 100.0, 11))
    assert len(at) == 10
    assert most.max() == 9.0


def test_a_share_is_of_sums_and_bins_without_anything_are_left_out() -> None:
    at, share = shares(np.array([1.0, 1.5, 9.0]), np.array([1.0, 0.0, 1.0]), np.array([2.0, 8.0, 4.0]), np.arange(11.0))
    assert at.tolist() == [1.5, 9.5]
    assert share.tolist() == [0.1, 0.25]


def test_of_many_things_some_are_taken_evenly() -> None:
    assert some(range(1_000), 5) == [0, 249, 499, 749, 999]
    assert some([1, 2], 5) == [1, 2]


def test_equal_values_are_one_stretch_each_until_the_next() -> None:
    assert list(stretches([1, 2, 3, 4], "aabb", 9.0)) == [(1, 3, "a"), (3, 9.0, "b")]
