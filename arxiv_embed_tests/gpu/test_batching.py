"""Batches: nothing lost, nothing twice, and within their bounds."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.batching import LARGEST_WINDOW, batches_by_count, batches_by_tokens, windows

NO_SPANS = np.empty((0, 2), np.int32)
lengths = st.lists(st.integers(1, 600), max_size=60)


def papers_of(lengths: list[int]) -> list[TokenizedPaper]:
    return [TokenizedPaper(n, np.zeros(length, np.int32), NO_SPANS, NO_SPANS, 0) for n, length in enumerate(lengths)]


@given(lengths=lengths, budget=st.integers(1, 2000), most=st.integers(1, 20))
def test_batches_by_tokens_hold_every_paper_once_within_budget_and_count(
    lengths: list[int], budget: int, most: int
) -> None:
    batches = list(batches_by_tokens(papers_of(lengths), budget, most))
    assert Counter(paper.index for batch in batches for paper in batch) == Counter(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(len(paper.ids) for paper in batch)
        assert padded <= budget or len(batch) == 1
        assert 1 <= len(batch) <= most
    sizes = [len(paper.ids) for batch in batches for paper in batch]
    assert sizes == sorted(sizes, reverse=True)


@given(lengths=lengths, budget=st.integers(1, 2000), most=st.integers(1, 20))
def test_no_batch_by_tokens_ends_while_the_next_paper_fits(lengths: list[int], budget: int, most: int) -> None:
    batches = list(batches_by_tokens(papers_of(lengths), budget, most))
    for batch in batches[:-1]:
        assert len(batch) == most or (len(batch) + 1) * len(batch[0].ids) > budget


@given(lengths=lengths, count=st.integers(1, 20))
def test_batches_by_count_are_full_and_in_order(lengths: list[int], count: int) -> None:
    batches = list(batches_by_count(papers_of(lengths), count))
    assert [paper.index for batch in batches for paper in batch] == list(range(len(lengths)))
    assert all(len(batch) == count for batch in batches[:-1])
    assert all(1 <= len(batch) <= count for batch in batches)


@given(st.integers(0, 50_000))
def test_windows_follow_one_another_through_all_papers(papers: int) -> None:
    cut = list(windows(papers))
    assert [n for window in cut for n in (window.start, window.stop)] == (
        [0, *(n for window in cut[:-1] for n in (window.stop, window.stop)), papers] if cut else []
    )
    assert all(0 < len(window) <= LARGEST_WINDOW for window in cut)
    assert bool(cut) == bool(papers)
