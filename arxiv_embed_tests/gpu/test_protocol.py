"""The protocol: every frame read back as it was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.protocol import (
    Encoded,
    Failed,
    WorkerReady,
    WorkerSetup,
    batch_frame,
    encoded_frame,
    failed_frame,
    read_answer,
    read_batch,
)

numbers = st.integers(0, 2**64 - 1)
seconds = st.floats(0, 1e9)
token_ids = arrays(np.int32, st.integers(1, 40), elements=st.integers(0, 2**31 - 1))
papers = st.lists(
    st.builds(
        lambda ids, chunks: TokenizedPaper(0, ids, np.array([[0, len(ids)]] * (1 + chunks), np.int32), ids, 0),
        token_ids,
        st.integers(0, 3),
    ),
    max_size=6,
)


@given(number=numbers, papers=papers)
def test_a_batch_is_read_back_as_it_was_sent(number: int, papers: list[TokenizedPaper]) -> None:
    batch: TokenBatch = pack(papers)
    read_number, read = read_batch(batch_frame(number, batch))
    assert read_number == number
    for name in ("ids", "lengths", "spans"):
        sent, got = getattr(batch, name), getattr(read, name)
        assert got.dtype == sent.dtype == np.int32
        assert np.array_equal(got, sent)


@given(papers=papers)
def test_the_spans_of_a_batch_are_those_of_its_papers_moved_behind_one_another(papers: list[TokenizedPaper]) -> None:
    batch = pack(papers)
    rows = iter(batch.spans.tolist())
    for place, paper in enumerate(papers):
        for span in paper.spans:
            start, stop = next(rows)
            assert np.array_equal(batch.ids[start:stop], paper.ids[slice(*span)])
            assert start >= batch.lengths[:place].sum()
    assert next(rows, None) is None


@given(
    number=numbers,
    seconds=seconds,
    peak_memory=st.integers(0, 2**64 - 1),
    computed=st.integers(0, 2**32 - 1),
    vectors=arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=0), elements=st.floats(-1, 1, width=32)),
)
def test_an_answer_is_read_back_as_it_was_sent(
    number: int, seconds: float, peak_memory: int, computed: int, vectors: np.ndarray
) -> None:
    read = read_answer(encoded_frame(Encoded(number, seconds, peak_memory, computed, vectors)))
    assert isinstance(read, Encoded)
    assert (read.number, read.seconds) == (number, seconds)
    assert (read.peak_memory, read.computed_tokens) == (peak_memory, computed)
    assert read.vectors.shape == vectors.shape
    assert np.array_equal(read.vectors, vectors)


@given(number=numbers, error=st.text())
def test_a_failure_is_read_back_as_it_was_sent(number: int, error: str) -> None:
    assert read_answer(failed_frame(Failed(number, error))) == Failed(number, error)


@given(dtype=st.text(), seconds=seconds, error=st.text())
def test_readiness_is_read_back_as_it_was_sent(dtype: str, seconds: float, error: str) -> None:
    ready = WorkerReady(dtype, seconds, error)
    assert WorkerReady.from_bytes(ready.to_bytes()) == ready


@given(name=st.text(), folder=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_worker_is_told_of_the_very_files_that_the_pool_found(name: str, folder: str) -> None:
    files = ModelFiles(name, Path(folder), "abc", "bert", 384, 512, 256, "mean", "passage: ", "")
    setup = WorkerSetup(files, "cuda:1", "auto")
    assert WorkerSetup.from_bytes(setup.to_bytes()) == setup
