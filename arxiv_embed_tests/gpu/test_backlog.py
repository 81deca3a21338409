"""The order in which papers are tokenized: as they come at first, then longest first, urgent ones in their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.gpu.backlog import Piece, longest_first, tokenized, urgent_first
from arxiv_embed.gpu.batching import FIRST_PIECE

TEXTS = ["star " * (1 + 37 * number % 50) for number in range(500)]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PaperTokenizer:
    files = resolve_model(str(tiny_model))
    return PaperTokenizer(files, space_of(files, "whole"))


def words(texts: Sequence[str]) -> list[float]:
    return [len(text.split()) for text in texts]


def indexes(pieces: Iterator[Piece]) -> list[int]:
    return [paper.index for papers, _ in pieces for paper in papers]


def test_after_the_first_piece_the_longest_papers_are_tokenized_first(tokenizer: PaperTokenizer) -> None:
    pieces = list(tokenized(tokenizer, TEXTS, None, words))
    order = [paper.index for papers, _ in pieces for paper in papers]
    assert sorted(order) == list(range(500))
    assert order[:FIRST_PIECE] == list(range(FIRST_PIECE))
    lengths = [len(paper.ids) for papers, _ in pieces[1:] for paper in papers]
    assert lengths == sorted(lengths, reverse=True)


def test_no_length_is_estimated_before_the_devices_have_something_to_do(tokenizer: PaperTokenizer) -> None:
    asked: list[int] = []

    def counted(texts: Sequence[str]) -> list[float]:
        asked.append(len(texts))
        return words(texts)

    pieces = tokenized(tokenizer, TEXTS, None, counted)
    assert len(next(pieces)[0]) == FIRST_PIECE
    assert asked == []
    assert len(indexes(pieces)) == 500 - FIRST_PIECE
    assert asked == [500 - FIRST_PIECE]
    list(tokenized(tokenizer, TEXTS[:FIRST_PIECE], None, counted))
    assert len(asked) == 1


def test_without_lengths_papers_are_tokenized_as_they_come(tokenizer: PaperTokenizer) -> None:
    assert indexes(tokenized(tokenizer, TEXTS, None)) == list(range(500))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 99)), max_size=60))
def test_urgent_papers_keep_their_places_whatever_the_lengths(papers: list[tuple[bool, int]]) -> None:
    urgent = [is_urgent for is_urgent, _ in papers]
    texts = ["star " * length for _, length in papers]
    before = urgent_first(urgent)
    order = longest_first(before, texts, urgent, words)
    assert sorted(order) == sorted(before)
    assert [urgent[place] for place in order] == [urgent[place] for place in before]
    for kind in (True, False):
        lengths = words([texts[place] for place in order if urgent[place] == kind])
        assert lengths == sorted(lengths, reverse=True)
