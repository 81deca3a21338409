"""Windows: a text of any length through a model of few positions, as the reference's overlapping windows give it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.encoder import load_encoder
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.encoding.transformer import TransformersEncoder
from arxiv_embed.encoding.windows import cut_into_windows, windows_of
from arxiv_embed_tests.tiny_models import save_bert

POSITIONS, OVERLAP = 64, 16
LONG = "the theory of a galaxy is a model. we are in the field of quantum stars. " * 12
SHORT = "a star in the field."

window_sizes = st.integers(2, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@given(length=st.integers(1, 300), sizes=window_sizes)
def test_windows_cover_a_text_and_share_their_overlap(length: int, sizes: tuple[int, int]) -> None:
    window, overlap = sizes
    edges = windows_of(length, window, overlap)
    assert (edges[0][0], edges[-1][1]) == (0, length)
    assert all(stop - start <= window for start, stop in edges)
    for (_, stop), (start, following) in pairwise(edges):
        assert stop - start == overlap
        assert following - start > overlap


@given(lengths=st.lists(st.integers(1, 120), min_size=1, max_size=5), sizes=window_sizes)
def test_what_is_kept_of_the_windows_is_every_token_once_in_order(lengths: list[int], sizes: tuple[int, int]) -> None:
    ids = np.arange(sum(lengths), dtype=np.int32)
    batch = TokenBatch(ids, np.array(lengths, np.int32), np.zeros((0, 2), np.int32))
    cut, kept = cut_into_windows(batch, *sizes)
    assert cut.lengths.max() <= max(sizes[0], *lengths if kept is None else [0])
    assert np.array_equal(cut.ids if kept is None else cut.ids[kept], ids)
    assert cut.lengths.sum() == len(cut.ids)


def reference(model: torch.nn.Module, ids: np.ndarray) -> torch.Tensor:
    """The states of a long text as jina-ai/late-chunking computes them."""
    states = []
    with torch.inference_mode():
        for start in range(0, max(1, len(ids) - OVERLAP), POSITIONS - OVERLAP):
            window = torch.from_numpy(ids[start : start + POSITIONS])[None].long()
            states.append(model(input_ids=window).last_hidden_state[0, OVERLAP if start else 0 :])
    return torch.cat(states)


@pytest.mark.parametrize("kind", ["packed bert", "transformers", "transformers, padded"])
def test_a_long_text_s_vectors_are_those_of_the_reference_s_windows(tmp_path: Path, kind: str) -> None:
    model = save_bert(tmp_path, max_position_embeddings=POSITIONS)
    files = resolve_model(str(tmp_path))
    space = space_of(files, "fixed:8")
    assert (space.window, space.overlap) == (POSITIONS, OVERLAP)
    space = replace(space, paper_tokens=10_000)
    papers = PaperTokenizer(files, space).tokenize([SHORT, LONG, SHORT, LONG[:-99]])
    assert [len(paper.ids) > POSITIONS for paper in papers] == [False, True, False, True]
    assert not any(paper.cut_tokens for paper in papers)
    if kind == "packed bert":
        encoder = load_encoder(files, space, "cpu", "float32")
    else:
        encoder = TransformersEncoder(files, space, "cpu", torch.float32, pack=kind == "transformers")
    batch = pack(papers)
    expected = []
    for paper in papers:
        states = reference(model, paper.ids)
        assert len(states) == len(paper.ids)
        expected += [torch.nn.functional.normalize(states[a:b].mean(0), dim=0) for a, b in paper.spans.tolist()]
    assert (encoder.encode(batch) * torch.stack(expected).numpy()).sum(1).min() > 0.99999
    assert encoder.computed_tokens(batch) > len(batch.ids)


def test_a_limit_cuts_and_the_paper_says_how_much(tmp_path: Path) -> None:
    save_bert(tmp_path, max_position_embeddings=POSITIONS)
    files = resolve_model(str(tmp_path))
    [whole] = PaperTokenizer(files, space_of(files, "whole")).tokenize([LONG])
    [cut] = PaperTokenizer(files, space_of(files, "whole", POSITIONS)).tokenize([LONG])
    assert (len(cut.ids), cut.cut_tokens) == (POSITIONS, len(whole.ids) - POSITIONS)
    assert whole.cut_tokens == 0
