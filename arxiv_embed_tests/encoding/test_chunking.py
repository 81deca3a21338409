"""Chunkers: spans over a text's content tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.encoding.chunking import Chunker, fixed_spans, parse_chunker, sentence_spans
from arxiv_embed.errors import ArxivEmbedError


@pytest.mark.parametrize(
    ("spec", "chunker"),
    [
        ("sentences:128", Chunker("sentences", 128)),
        ("fixed:64", Chunker("fixed", 64)),
        ("fixed:1", Chunker("fixed", 1)),
        ("whole", Chunker("whole", 0)),
    ],
)
def test_a_chunker_is_read_as_it_is_written(spec: str, chunker: Chunker) -> None:
    assert parse_chunker(spec) == chunker


@pytest.mark.parametrize("spec", ["", "fixed", "fixed:0", "fixed:-1", "fixed:٣", "fixed:64 ", "whole:3", "words:4"])
def test_an_unknown_chunker_is_named_in_the_error(spec: str) -> None:
    with pytest.raises(ArxivEmbedError, match="Unknown chunker"):
        parse_chunker(spec)


def assert_covers(spans: list[tuple[int, int]], tokens: int, size: int) -> None:
    assert spans[0][0] == 0
    assert spans[-1][1] == tokens
    assert all(left[1] == right[0] for left, right in pairwise(spans))
    assert all(1 <= stop - start <= size for start, stop in spans)


@given(tokens=st.integers(1, 400), size=st.integers(1, 140))
def test_fixed_chunks_are_full_but_for_the_last(tokens: int, size: int) -> None:
    spans = fixed_spans(tokens, size)
    assert_covers(spans, tokens, size)
    assert all(stop - start == size for start, stop in spans[:-1])


@given(starts=st.lists(st.integers(0, 450), max_size=30), tokens=st.integers(1, 400), size=st.integers(1, 140))
def test_sentence_chunks_cover_every_token_once_and_break_a_sentence_only_where_they_must(
    starts: list[int], tokens: int, size: int
) -> None:
    starts = [0, *sorted(starts)]
    spans = sentence_spans(starts, tokens, size)
    assert_covers(spans, tokens, size)
    edges = sorted({start for start in starts if start < tokens} | {tokens})
    for (begin, cut), (_, next_stop) in pairwise(spans):
        if cut in edges:
            following = min(edge for edge in edges if edge > cut)
            assert following - begin > size, "another whole sentence would have fitted"
        else:
            assert cut - begin == size, "a sentence was broken before the chunk was full"
        assert next_stop > cut


def test_whole_sentences_are_gathered_while_they_fit() -> None:
    assert sentence_spans([0, 4, 9, 12], 20, 12) == [(0, 12), (12, 20)]
    assert sentence_spans([0, 3], 30, 10) == [(0, 3), (3, 13), (13, 23), (23, 30)]


def test_the_whole_text_is_one_chunk_and_no_text_is_none() -> None:
    assert parse_chunker("whole").spans("ab", 2, lambda char: char) == [(0, 2)]
    for spec in ("whole", "fixed:3", "sentences:3"):
        assert parse_chunker(spec).spans("  ", 0, lambda char: 0) == []
