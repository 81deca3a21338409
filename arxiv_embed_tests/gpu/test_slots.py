"""Slots: a batch there and its vectors back, as they were, and nothing left when both sides are gone."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.slots import Slot, bytes_needed

papers = st.lists(
    st.builds(
        lambda ids, chunks: TokenizedPaper(0, ids, np.array([[0, len(ids)]] * (1 + chunks), np.int32), ids, 0),
        arrays(np.int32, st.integers(1, 40), elements=st.integers(0, 2**31 - 1)),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)


def both_sides() -> tuple[Slot, Slot]:
    ours = Slot.create()
    return ours, Slot(os.dup(ours.descriptor))


@given(papers)
def test_a_batch_is_read_back_as_it_was_put(papers: list[TokenizedPaper]) -> None:
    ours, theirs = both_sides()
    batch: TokenBatch = pack(papers)
    ours.grow(bytes_needed(batch, 4, "float32"))
    ours.put_batch(batch)
    read = theirs.get_batch(len(batch.lengths), len(batch.spans), len(batch.ids))
    for name in ("ids", "lengths", "spans"):
        sent, got = getattr(batch, name), getattr(read, name)
        assert got.dtype == np.int32
        assert np.array_equal(got, sent)
    ours.close()
    theirs.close()


@given(arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 40)), elements=st.floats(-1, 1, width=32)))
def test_vectors_come_back_as_they_were_and_are_a_copy(vectors: np.ndarray) -> None:
    ours, theirs = both_sides()
    ours.grow(vectors.nbytes)
    theirs.put_vectors(vectors)
    got = ours.get_vectors(*vectors.shape, "float32")
    theirs.put_vectors(np.zeros_like(vectors))
    assert np.array_equal(got, vectors)
    ours.close()
    theirs.close()


def test_bfloat16_is_widened_exactly() -> None:
    ours, theirs = both_sides()
    halves = np.arange(0, 2**16, 7, dtype=np.uint16).reshape(1, -1)
    ours.grow(halves.nbytes)
    theirs.put_vectors(halves)
    got = ours.get_vectors(1, halves.size, "bfloat16")
    assert np.array_equal(got.view(np.uint32) >> 16, halves)
    assert not (got.view(np.uint32) & 0xFFFF).any()


def test_a_slot_grows_while_the_other_side_looks_at_it() -> None:
    ours, theirs = both_sides()
    small = ours.grow(100)
    theirs.put_vectors(np.ones((1, 10), np.float32))
    large = ours.grow(small + 1)
    assert large >= 2 * small
    vectors = np.full((large // 4096, 1024), 3.0, np.float32)
    theirs.put_vectors(vectors)
    assert np.array_equal(ours.get_vectors(*vectors.shape, "float32"), vectors)
    assert ours.grow(10) == large
