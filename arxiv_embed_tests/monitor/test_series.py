"""A series: what a device did, spread over the time in which it did it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.monitor.series import MOST_BUCKETS, Series
from arxiv_embed_tests import records


def taken(*events: records.Timed) -> Series:
    series = Series()
    for time, event in events:
        series.take({"time": time, "event": event.name, **vars(event)})
    return series


def test_a_batch_counts_evenly_over_the_seconds_that_it_took() -> None:
    series = Series(began=100.0)
    series.add("cuda:0", 104.0, 4.0, papers=40, tokens=400)
    series.add("cuda:1", 104.0, 2.0, papers=20, tokens=100)
    assert series.papers_per_second(104.0, 4, "cuda:0") == pytest.approx([10, 10, 10, 10])
    assert series.papers_per_second(104.0, 4, "cuda:1") == pytest.approx([0, 0, 10, 10])
    assert series.tokens_per_second(104.0, 2) == pytest.approx([100, 150])


def test_a_batch_that_is_still_computed_is_no_slump_but_a_device_that_does_nothing_for_long_is() -> None:
    series = Series(began=100.0)
    for second in range(1, 61):
        series.add("cuda:0", 100.0 + second, 1.0, papers=5, tokens=50)
    assert series.papers_per_second(165.0, 10) == pytest.approx([5] * 10)
    assert series.papers_per_second(220.0, 2) == pytest.approx([5, 0])


def test_a_run_that_is_tried_again_begins_anew_with_its_devices() -> None:
    first = [(50.0, records.started(["a"], 9, ["cpu:0"])), (60.0, records.batch("cpu:0", 9, shard="a"))]
    again = [(900.0, records.started(["a"], 9, ["cpu:0"])), (910.0, records.batch("cpu:0", 8, seconds=2.0, shard="a"))]
    series = taken(*first, *again)
    assert series.span(910.0) == 10
    assert sum(series.papers_per_second(910.0, 10)) == pytest.approx(8)


@given(st.lists(st.tuples(st.floats(0.0, 1e5), st.floats(0.0, 900.0), st.integers(0, 500)), max_size=30))
def test_a_run_of_hours_takes_the_memory_of_one_of_minutes_and_loses_no_paper(
    batches: list[tuple[float, float, int]],
) -> None:
    series = Series(began=1e9)
    for time, seconds, papers in batches:
        series.add("cuda:0", 1e9 + time, seconds, papers, 10 * papers)
    for lane in series.lanes.values():
        assert len(lane.papers) <= MOST_BUCKETS
        assert sum(lane.papers) == pytest.approx(sum(papers for _, _, papers in batches), abs=1e-6)
        assert sum(lane.tokens) == pytest.approx(10 * sum(papers for _, _, papers in batches), abs=1e-6)
