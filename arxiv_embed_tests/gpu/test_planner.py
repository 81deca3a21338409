"""Planning and balancing, in virtual time: every paper once, within memory, and all devices done together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.backlog import urgent_first
from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.memory import Shape
from arxiv_embed.gpu.planner import FixedPlanner, TokenPlanner
from arxiv_embed_tests.gpu.simulated import paper
from arxiv_embed_tests.gpu.virtual import GIB, VirtualLane, play
from bench.abstract_lengths import abstract_lengths


def abstracts(count: int, seed: int = 0) -> list[TokenizedPaper]:
    """Papers with the lengths of arXiv's abstracts, about."""
    random = np.random.default_rng(seed)
    return [paper(index, int(min(random.lognormal(5.2, 0.45) + 8, 900))) for index in range(count)]


def lanes_of(*rates: float, **options: bool) -> list[VirtualLane]:
    return [VirtualLane(f"cuda:{n}", lambda now, rate=rate: rate, **options) for n, rate in enumerate(rates)]  # type: ignore[misc]


def assert_each_once(lanes: Sequence[VirtualLane], papers: Sequence[TokenizedPaper]) -> None:
    done = Counter(p.index for lane in lanes for batch in lane.computed for p in batch.papers)
    assert done == Counter(p.index for p in papers)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=400),
    rates=st.lists(st.floats(1e3, 1e5), min_size=1, max_size=4),
    batch_size=st.integers(1, 256),
    packed=st.booleans(),
)
def test_every_paper_is_computed_once_whatever_the_lengths_and_speeds(
    lengths: list[int], rates: list[float], batch_size: int, packed: bool
) -> None:
    papers = [paper(index, length) for index, length in enumerate(lengths)]
    lanes = lanes_of(*rates, packed=packed)
    play(TokenPlanner(batch_size), lanes, papers)
    assert_each_once(lanes, papers)
    assert all(shape.papers <= batch_size for lane in lanes for shape in lane.shapes)


@pytest.mark.parametrize("rates", [(1e5, 1e5), (1e5, 2e5), (1e5, 4e5), (1e5, 3e5, 8e5)])
def test_devices_of_unlike_speeds_are_done_together(rates: tuple[float, ...]) -> None:
    papers = abstracts(20_000)
    ideal = sum(len(p.ids) for p in papers) / sum(rates)
    lanes = lanes_of(*rates)
    balanced = play(TokenPlanner(256), lanes, papers).makespan
    assert_each_once(lanes, papers)
    assert balanced <= 1.05 * ideal
    dealt = play(FixedPlanner(64), lanes_of(*rates), papers).makespan
    assert len(set(rates)) == 1 or dealt > 1.3 * ideal


def test_a_device_that_is_throttled_midway_is_given_less() -> None:
    papers = abstracts(20_000)
    tokens = sum(len(p.ids) for p in papers)
    middle = tokens / 2e5 / 2
    lanes = [
        VirtualLane("cuda:0", lambda now: 1e5),
        VirtualLane("cuda:1", lambda now: 1e5 if now < middle else 1e5 / 3),
    ]
    ideal = middle + (tokens - 2e5 * middle) / (1e5 + 1e5 / 3)
    assert play(TokenPlanner(256), lanes, papers).makespan <= 1.05 * ideal
    assert_each_once(lanes, papers)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(1e4, 1e6), min_size=2, max_size=4), st.integers(0, 100))
def test_no_device_ends_long_after_the_others(rates: list[float], seed: int) -> None:
    papers = abstracts(4000, seed)
    lanes = lanes_of(*rates)
    makespan = play(TokenPlanner(256), lanes, papers).makespan
    ideal = sum(len(p.ids) for p in papers) / sum(rates)
    one_paper = max(len(p.ids) for p in papers) / max(rates)
    # The first batch of each is given out before anything is known of the speeds.
    unknown = max(lane.shapes[0].tokens / rate for lane, rate in zip(lanes, rates, strict=True))
    assert makespan <= 1.05 * ideal + one_paper + unknown


def test_a_slow_device_is_left_idle_where_the_fast_one_would_be_done_before_it() -> None:
    fast, slow = lanes_of(1e6, 1e3)
    for lane, rate in ((fast, 1e6), (slow, 1e3)):
        for papers in range(1, 20):
            lane.speed.observe(Shape(papers, 100 * papers, 100), 100 * papers / rate)
    papers = [paper(index, 500) for index in range(100)]
    play(TokenPlanner(10), [fast, slow], papers)
    assert not slow.computed
    assert_each_once([fast, slow], papers)


def test_an_idle_device_takes_what_is_queued_behind_a_slow_one() -> None:
    fast, slow = lanes_of(1e5, 1e2)
    planner = TokenPlanner(10)
    planner.ended = True
    for lane, rate in ((fast, 1e5), (slow, 1e2)):
        lane.speed.observe(Shape(1, 100, 100), 100 / rate)
        lane.budget.done(Shape(1, 100, 100), 9 * GIB, 0)
    slow.send(Batch([paper(0, 200)]), 0.0)
    slow.send(Batch([paper(1, 200)]), 0.0)
    taken = planner.next_batch(fast, [fast, slow], 0.0)
    assert taken is not None
    assert [p.index for p in taken.papers] == [1]
    assert [p.index for batch in slow.batches for p in batch.papers] == [0]
    assert planner.next_batch(fast, [fast, slow], 0.0) is None  # what a device has begun stays with it


def test_no_batch_is_formed_that_does_not_fit_and_memory_is_used_well() -> None:
    random = np.random.default_rng(1)
    papers = [paper(index, int(np.exp(random.uniform(np.log(8), np.log(8192))))) for index in range(6000)]
    [lane] = lanes_of(1e5, total=24 * GIB, packed=False)  # type: ignore[arg-type]
    play(TokenPlanner(256), [lane], papers)
    peaks = [(8 * GIB + 1e5 * shape.padded) / (24 * GIB) for shape in lane.shapes]
    assert max(peaks) <= 0.75
    assert np.mean(peaks) >= 0.6


def test_padding_stays_small_on_lengths_like_those_of_abstracts() -> None:
    papers = abstracts(30_000)
    lanes = lanes_of(1e5, 1e5, packed=False)
    play(TokenPlanner(256), lanes, papers)
    computed = sum(shape.padded for lane in lanes for shape in lane.shapes)
    assert computed / sum(len(p.ids) for p in papers) - 1 <= 0.04


@pytest.mark.parametrize("rates", [(4e5,), (1e5, 1e5), (1e5, 4e5)])
def test_papers_that_come_longest_first_by_an_estimate_are_done_sooner_and_with_less_padding(
    rates: tuple[float, ...],
) -> None:
    papers = abstracts(12_000)
    noise = np.random.default_rng(3).normal(1, 0.06, len(papers))
    estimated = {p.index: len(p.ids) * error for p, error in zip(papers, noise, strict=True)}
    ordered = [*papers[:128], *sorted(papers[128:], key=lambda p: -estimated[p.index])]
    told = []
    for order in (papers, ordered):
        lanes = lanes_of(*rates, packed=False)
        makespan = play(TokenPlanner(200), lanes, order, supply=2300).makespan
        padded = sum(shape.padded for lane in lanes for shape in lane.shapes)
        told.append((makespan, padded / sum(len(p.ids) for p in papers) - 1))
    (as_they_come, padding), (longest_first, less_padding) = told
    assert longest_first < as_they_come
    assert less_padding < 0.75 * padding


def test_the_longest_go_first_near_the_end() -> None:
    papers = abstracts(2000)
    [lane] = lanes_of(1e5)
    play(TokenPlanner(64), [lane], papers)
    longest = [shape.longest for shape in lane.shapes]
    assert longest[3:] == sorted(longest[3:], reverse=True)


def test_urgent_papers_go_first_and_the_rest_is_not_starved() -> None:
    marked = [index % 4 == 0 for index in range(12_000)]
    order, papers = urgent_first(marked), abstracts(12_000)
    assert sorted(order) == list(range(12_000))
    [lane] = lanes_of(1e5)
    played = play(TokenPlanner(64), [lane], [papers[n] for n in order], [marked[n] for n in order])
    assert_each_once([lane], papers)
    shares = [sum(marked[p.index] for p in batch.papers) / len(batch.papers) for _, batch in played.sent]
    first = shares[2:42]
    assert np.mean(first) > 0.6  # a quarter of all papers is urgent
    assert 1 / 6 < sum(share < 0.5 for share in first) / len(first) < 1 / 3


def test_standard_batches_are_full_in_order_and_dealt_in_turn() -> None:
    papers = abstracts(130)
    lanes = lanes_of(1e5, 4e5)
    played = play(FixedPlanner(20), lanes, papers)
    assert [p.index for _, batch in played.sent for p in batch.papers] == list(range(130))
    assert [len(batch.papers) for _, batch in played.sent] == [20] * 6 + [10]
    assert [name for name, _ in played.sent] == ["cuda:0", "cuda:1"] * 3 + ["cuda:0"]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=50), st.integers(200, 2000))
def test_what_is_to_be_tried_again_is_cut_until_it_fits(lengths: list[int], room: int) -> None:
    [lane] = lanes_of(1e5)
    lane.fits = lambda shape: shape.papers == 1 or shape.tokens <= room  # type: ignore[method-assign]
    planner = TokenPlanner(256)
    planner.ended = True
    planner.again.append(Batch([paper(index, length) for index, length in enumerate(lengths)]))
    tried: list[int] = []
    while batch := planner.next_batch(lane, [lane], 0.0):
        assert len(batch.papers) == 1 or batch.shape.tokens <= room
        tried += [p.index for p in batch.papers]
    assert sorted(tried) == list(range(len(lengths)))


def test_what_failed_on_one_device_is_tried_on_another() -> None:
    one, other = lanes_of(1e5, 1e5)
    planner = TokenPlanner(256)
    batch = Batch([paper(0, 10)], kills=1, avoid={one.name})
    planner.again.append(batch)
    assert planner.next_batch(one, [one, other], 0.0) is None
    assert planner.next_batch(other, [one, other], 0.0) is batch
    planner.again.append(batch)
    other.retire(0.0)
    assert planner.next_batch(one, [one, other], 0.0) is batch  # there is no other any more


@pytest.mark.parametrize(("devices", "share"), [(8, 0.97), (64, 0.93)])
def test_many_unlike_devices_compute_real_lengths_nearly_as_fast_as_can_be(devices: int, share: float) -> None:
    rates = np.random.default_rng(1).uniform(1e4, 5e4, devices)
    lengths = abstract_lengths()
    papers = [paper(index, int(lengths[index % len(lengths)])) for index in range(2_500 * devices)]
    lanes = lanes_of(*rates)
    makespan = play(TokenPlanner(200), lanes, papers).makespan
    ideal = sum(len(p.ids) for p in papers) / sum(rates)
    assert ideal >= share * makespan


def test_a_few_papers_are_dealt_to_many_devices_whose_speed_nobody_knows() -> None:
    lanes = lanes_of(*np.linspace(1e4, 5e4, 64))
    papers = [paper(index, 200) for index in range(6_400)]
    makespan = play(TokenPlanner(200), lanes, papers).makespan
    assert makespan <= 1.5 * sum(len(p.ids) for p in papers) / sum(lane.rate_at(0.0) for lane in lanes)
