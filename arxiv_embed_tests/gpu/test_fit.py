"""The fit: coefficients found again, never negative, and the start where nothing was measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.gpu.fit import fit_nonnegative

positive = st.floats(0.1, 1e6)


@given(st.lists(positive, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_exact_measurements_give_their_coefficients_back(truth: list[float], seed: int) -> None:
    features = np.random.default_rng(seed).uniform(1, 1000, (80, len(truth)))
    fitted = fit_nonnegative(features, features @ truth, np.ones(80), [0.0] * len(truth))
    assert features @ fitted == pytest.approx(features @ truth, rel=1e-3)


@given(st.integers(0, 2**32 - 1))
def test_no_coefficient_is_negative_and_none_other_would_be_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    features, measured = random.uniform(0, 10, (40, 3)), random.uniform(1, 100, 40)
    start = random.uniform(0.1, 2, 3)
    fitted = np.array(fit_nonnegative(features, measured, np.ones(40), start))
    assert (fitted >= 0).all()

    def loss(candidate: np.ndarray) -> float:
        errors = (features @ candidate) / measured - 1
        unit = np.maximum(start, 1 / np.sqrt(((features / measured[:, None]) ** 2).mean(axis=0)))
        return float((errors**2).sum() + 0.01 * (((candidate - start) / unit) ** 2).sum())

    for _ in range(50):
        other = np.maximum(fitted + random.normal(0, 0.1, 3), 0)
        assert loss(other) >= loss(fitted) - 1e-9


def test_where_nothing_was_measured_the_start_stands() -> None:
    features = np.array([[100.0, 0.0], [200.0, 0.0]])
    fitted = fit_nonnegative(features, np.array([300.0, 600.0]), np.ones(2), [1.0, 5.0])
    assert fitted == (pytest.approx(3.0, rel=0.01), pytest.approx(5.0))
