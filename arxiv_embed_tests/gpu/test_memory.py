"""The memory law and the budget: what is predicted, what is learned, and how much a batch may take."""

from __future__ import annotations

import numpy as np
import pytest

from arxiv_embed.gpu.budget import CRITICAL, LEAST_SCALE, TARGET, Budget, MemoryState
from arxiv_embed.gpu.memory import FIRST_MARGIN, MEASURED_MARGIN, MemoryLaw, Shape

GIB = 2**30
LAWS = {
    "flash attention": (24 * GIB, 6 * GIB, (0.0, 150e3, 0.0)),
    "eager attention": (48 * GIB, 7.5 * GIB, (40e3, 80e3, 300.0)),
    "a small model": (8 * GIB, 1.0 * GIB, (10e3, 25e3, 0.02)),
}


def shapes(count: int, seed: int) -> list[Shape]:
    """Batches as they come, of lengths like those of abstracts."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        longest = int(random.lognormal(5.2, 0.5)) + 8
        papers = int(random.integers(2, 257))
        found.append(Shape(papers, round(papers * longest * random.uniform(0.9, 1.0)), longest))
    return found


def taken(law: tuple[float, float, float], shape: Shape, noise: float = 0.0) -> int:
    a, c, b = law
    return round((a * shape.tokens + c * shape.padded + b * shape.square) * (1 + noise))


@pytest.mark.parametrize("name", LAWS)
def test_after_thirty_batches_a_peak_is_predicted_within_eight_percent_and_hardly_ever_exceeded(name: str) -> None:
    _, base, hidden = LAWS[name]
    random = np.random.default_rng(4)
    law = MemoryLaw((0.3 * hidden[1], 0.5 * hidden[1], 1.0))
    errors = []
    for shape in shapes(630, seed=4):
        measured = taken(hidden, shape, 0.02 * random.standard_normal())
        if len(law.seen) >= MEASURED_MARGIN:
            errors.append((base + law.bound(shape)) / (base + measured) - 1)
        law.observe(shape, measured)
    relative = np.array(errors)
    assert (np.abs(relative) <= 0.08).mean() >= 0.95
    assert (relative < 0).mean() <= 1 / 200


def test_the_margin_is_a_cautious_one_first_and_then_what_the_residuals_say() -> None:
    law = MemoryLaw((1e4, 1e5, 0.0))
    seen = shapes(MEASURED_MARGIN, seed=1)
    for shape in seen[:-1]:
        law.observe(shape, taken((1e4, 1e5, 0.0), shape))
        assert law.margin == FIRST_MARGIN
    law.observe(seen[-1], taken((1e4, 1e5, 0.0), seen[-1]))
    assert law.margin < 0.01


def test_a_quadratic_term_is_found_where_there_is_one_and_stays_away_where_there_is_none() -> None:
    for quadratic in (0.0, 500.0):
        law = MemoryLaw((1e4, 1e5, 1.0))
        for shape in shapes(60, seed=2):
            law.observe(shape, taken((0.0, 1e5, quadratic), shape))
        long = Shape(1, 4096, 4096)
        assert law.expected(long) == pytest.approx(taken((0.0, 1e5, quadratic), long), rel=0.05)


def test_a_law_goes_on_from_what_an_earlier_run_has_seen() -> None:
    law = MemoryLaw((1.0, 1.0, 0.0))
    for shape in shapes(50, seed=3):
        law.observe(shape, taken((2e4, 1e5, 3.0), shape))
    again = MemoryLaw((1.0, 1.0, 0.0), list(law.seen))
    assert again.coefficients == law.coefficients
    assert again.margin == law.margin
    assert not again.is_new


def test_one_batch_that_ran_out_does_not_spoil_the_margin() -> None:
    law = MemoryLaw((0.0, 1e5, 0.0))
    for shape in shapes(100, seed=5):
        law.observe(shape, taken((0.0, 1e5, 0.0), shape))
    law.observe_more_than(Shape(10, 1000, 100), available=10 * GIB)
    assert law.margin < 0.05
    assert law.expected(Shape(100, 20_000, 200)) < 1.5 * 2e9


def test_running_out_of_memory_teaches_that_more_was_needed() -> None:
    law = MemoryLaw((0.0, 1e5, 0.0))
    shape = Shape(10, 1000, 100)
    law.observe(shape, taken((0.0, 1e5, 0.0), shape))
    larger = Shape(20, 2000, 100)
    law.observe_more_than(larger, available=3 * 10**8)
    assert law.expected(larger) > 2 * 10**8 * 1.1
    before = law.coefficients
    law.observe_more_than(Shape(100, 10_000, 100), available=10**8)  # no news: that much was expected
    assert law.coefficients == before


def budget(total: int = 100 * GIB, base: int = 20 * GIB, other: int = 0, keeps: bool = False) -> Budget:
    return Budget(MemoryLaw((0.0, 1e6, 0.0)), MemoryState(total, base, other, keeps))


def grown(of: Budget) -> Budget:
    """After batches that were as large as the law allows."""
    for papers in (1, 3, 9, 27, 81, 243, 729):
        shape = Shape(papers, 100 * papers, 100)
        of.done(shape, 20 * GIB + taken((0.0, 1e6, 0.0), shape), 0)
    return of


def most(of: Budget) -> int:
    """Papers of 100 tokens that fit together."""
    return max(papers for papers in range(1, 3000) if of.fits(Shape(papers, 100 * papers, 100)))


def test_the_first_batches_are_small_and_grow_with_what_was_measured() -> None:
    of = budget()
    assert most(of) * 1e8 < 0.125 * (TARGET - 0.2) * 100 * GIB
    shape = Shape(50, 5000, 100)
    of.done(shape, 20 * GIB + taken((0.0, 1e6, 0.0), shape), 0)
    assert most(of) == 150


def test_a_batch_is_planned_for_the_target_and_not_beyond() -> None:
    of = grown(budget())
    peak = of.predicted_peak(Shape(most(of), 100 * most(of), 100))
    assert 0.73 * 100 * GIB < peak <= TARGET * 100 * GIB
    assert not of.fits(Shape(most(of) + 5, 100 * most(of) + 500, 100))


def test_what_others_take_is_not_planned_with() -> None:
    of = grown(budget())
    before = most(of)
    of.looked(30 * GIB)
    assert most(of) == pytest.approx(before * (0.75 - 0.2 - 0.3) / (0.75 - 0.2), rel=0.02)
    assert not of.is_critical
    of.looked(71 * GIB)
    assert of.is_critical
    of.looked(0)
    assert most(of) == before


def test_running_out_of_memory_shrinks_the_budget_and_it_recovers_slowly() -> None:
    of = grown(budget())
    before = most(of)
    small = Shape(10, 1000, 100)
    of.ran_out(Shape(before, 100 * before, 100), 0)
    assert most(of) < 0.75 * before
    steps = 0
    while of.scale < 1:
        of.done(small, 20 * GIB + taken((0.0, 1e6, 0.0), small), 0)
        steps += 1
    assert 5 <= steps <= 30
    for _ in range(20):
        of.ran_out(Shape(2, 200, 100), 0)
    assert of.scale == LEAST_SCALE


def test_a_peak_above_the_critical_share_shrinks_the_next_batches() -> None:
    of = grown(budget())
    shape = Shape(500, 50_000, 100)
    of.done(shape, round((CRITICAL + 0.01) * 100 * GIB), 0)
    assert of.scale < 1


def test_one_paper_is_measured_against_what_is_critical_as_it_cannot_be_made_less() -> None:
    of = grown(budget())
    length = round(0.6 * 100 * GIB / 1e6)
    assert of.fits(Shape(1, length, length))
    assert not of.fits(Shape(2, 2 * (length // 2), length // 2))
    of.looked(30 * GIB)
    assert not of.fits(Shape(1, length, length))
    assert of.would_fit_alone(Shape(1, length, length))


def test_a_worker_that_keeps_its_memory_teaches_only_when_it_grows() -> None:
    of = budget(keeps=True)
    of.done(Shape(10, 1000, 100), 22 * GIB, 0)
    assert len(of.law.seen) == 1
    of.done(Shape(1, 100, 100), 22 * GIB, 0)
    assert len(of.law.seen) == 1
    assert of.predicted_peak(Shape(1, 100, 100)) >= 22 * GIB


def test_a_heap_that_grows_a_little_is_not_taken_for_what_a_small_batch_needs() -> None:
    of = budget(keeps=True)
    of.done(Shape(10, 1000, 100), 22 * GIB, 0)
    for turn in range(50):
        of.done(Shape(2, 100, 50), 22 * GIB + turn * 1_000, 0)
    assert len(of.law.seen) == 1
    assert of.predicted_peak(Shape(10, 1000, 100)) < 23 * GIB
    of.done(Shape(20, 2000, 100), 24 * GIB, 0)
    assert len(of.law.seen) == 2
