"""Batches and the papers that wait: nothing lost, nothing twice, within their bounds, of similar length."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.gpu.batching import LARGEST_PIECE, MOST_PADDING, Batch, Reservoir, pieces, shape_of
from arxiv_embed.gpu.memory import Shape
from arxiv_embed_tests.gpu.simulated import paper

lengths = st.lists(st.integers(1, 600), min_size=1, max_size=80)


def filled(lengths: list[int]) -> Reservoir:
    reservoir = Reservoir()
    reservoir.add([paper(index, length) for index, length in enumerate(lengths)])
    return reservoir


@given(lengths=lengths, most=st.integers(1, 20), room=st.integers(600, 5000), from_longest=st.booleans())
def test_every_paper_is_drawn_once_in_batches_that_fit(
    lengths: list[int], most: int, room: int, from_longest: bool
) -> None:
    reservoir = filled(lengths)
    drawn: list[int] = []
    while len(reservoir):
        anchor = reservoir.longest(lambda length: True) if from_longest else reservoir.oldest
        assert anchor is not None
        oldest = min(set(range(len(lengths))) - set(drawn))
        batch = reservoir.draw(anchor, most, lambda shape: shape.padded <= room, enough=0)
        shape = shape_of(batch)
        assert 1 <= shape.papers <= most
        assert shape.padded <= room
        assert shape.papers == 1 or shape.padded <= (1 + MOST_PADDING) * shape.tokens
        if not from_longest:
            assert oldest in [paper.index for paper in batch]  # nobody waits for ever
        drawn += [paper.index for paper in batch]
        assert reservoir.tokens == sum(lengths) - sum(lengths[index] for index in drawn)
    assert Counter(drawn) == Counter(range(len(lengths)))


@given(lengths=lengths)
def test_a_batch_is_a_run_of_neighbours_in_length(lengths: list[int]) -> None:
    reservoir = filled(lengths)
    batch = reservoir.draw(reservoir.oldest, 10, lambda shape: True, enough=10**9)
    drawn = Counter(len(paper.ids) for paper in batch)
    between = [length for length in lengths if min(drawn) < length < max(drawn)]
    assert all(drawn[length] == lengths.count(length) for length in between)


def test_an_anchor_that_does_not_fit_is_left_where_it_is() -> None:
    reservoir = filled([10, 500, 20])
    longest = reservoir.longest(lambda length: True)
    assert longest == 2
    assert reservoir.draw(longest, 5, lambda shape: shape.longest < 100, enough=0) == []
    assert len(reservoir) == 3
    assert reservoir.length_at(reservoir.longest(lambda length: length < 100) or 0) == 20
    assert reservoir.longest(lambda length: length < 5) is None


@given(lengths=lengths, others=lengths, most=st.integers(1, 30))
def test_a_batch_is_filled_from_the_others_without_becoming_longer(
    lengths: list[int], others: list[int], most: int
) -> None:
    first, then = filled(lengths), filled(others)

    def fits(shape: Shape) -> bool:
        return shape.padded <= 3000

    batch = first.draw(first.oldest, most, fits, enough=10**9)
    added = then.fill(batch, most, fits)
    assert len(then) + len(added) == len(others)
    if added:
        assert max(len(p.ids) for p in added) <= max(len(p.ids) for p in batch)
        assert shape_of(batch + added).padded <= 3000
        assert len(batch) + len(added) <= most


def test_the_halves_of_a_batch_hold_its_papers_and_half_of_the_suspicion() -> None:
    batch = Batch([paper(index, 5) for index in range(7)], kills=2, avoid={"cuda:1"})
    halves = batch.halves()
    assert [[paper.index for paper in half.papers] for half in halves] == [[0, 1, 2], [3, 4, 5, 6]]
    assert [(half.kills, half.avoid) for half in halves] == [(1, {"cuda:1"})] * 2


@given(st.integers(0, 50_000))
def test_pieces_follow_one_another_through_all_papers(papers: int) -> None:
    cut = list(pieces(papers))
    assert [n for piece in cut for n in (piece.start, piece.stop)] == (
        [0, *(n for piece in cut[:-1] for n in (piece.stop, piece.stop)), papers] if cut else []
    )
    assert all(0 < len(piece) <= LARGEST_PIECE for piece in cut)
    assert bool(cut) == bool(papers)


def test_the_shape_of_papers_is_their_number_their_tokens_and_the_longest() -> None:
    shape = shape_of([paper(0, 10), paper(1, 30), paper(2, 20)])
    assert shape == Shape(3, 60, 30)
    assert (shape.padded, shape.square) == (90, 2700)
    assert np.isclose(shape.padded / shape.tokens, 1.5)
