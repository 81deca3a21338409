"""Late chunking: a chunk's vector is pooled from states that have attended to the whole text, or under a causal model
to what comes before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arxiv_embed.encoding.batch import pack
from arxiv_embed.encoding.bert import PackedBert
from arxiv_embed.encoding.encoder import Encoder, TransformersEncoder, load_encoder
from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer, TokenizedPaper
from arxiv_embed_tests.tiny_models import bytepairs, save_bert, save_qwen2

TEXTS = ["The star is a galaxy. A field of stars.", "quantum theory " * 20, "In the model we trust. " * 3, "x"]


def padded(files: ModelFiles) -> Encoder:
    return TransformersEncoder(files, space_of(files, "whole"), "cpu", torch.float32)


def packed(files: ModelFiles) -> Encoder:
    return PackedBert(files, space_of(files, "whole"), torch.float32)


def tokenized(files: ModelFiles, chunker: str, texts: list[str]) -> list[TokenizedPaper]:
    return PaperTokenizer(files, space_of(files, chunker, files.position_limit)).tokenize(texts)


@pytest.mark.parametrize("chunker", ["sentences:7", "fixed:5", "whole"])
@pytest.mark.parametrize(("save", "encoder_of"), [(save_bert, packed), (save_bert, padded), (save_qwen2, padded)])
def test_the_token_weighted_mean_of_a_paper_s_chunks_is_the_paper_s_own_mean(
    tmp_path: Path, save: Any, encoder_of: Any, chunker: str
) -> None:
    """The encoders give unit vectors: the lengths that they had come from transformers' own states."""
    model = save(tmp_path)
    files = resolve_model(str(tmp_path))
    papers = tokenized(files, chunker, TEXTS)
    vectors = encoder_of(files).encode(pack(papers))
    first = 0
    for paper in papers:
        _, *chunks = paper.spans.tolist()
        with torch.inference_mode():
            states = model(input_ids=torch.tensor(paper.ids[None].astype(np.int64))).last_hidden_state[0].numpy()
        lengths = [np.linalg.norm(states[start:stop].mean(0)) for start, stop in chunks]
        tokens = [stop - start for start, stop in chunks]
        units = vectors[first + 1 : first + 1 + len(chunks)]
        weighted = sum(n * length * unit for n, length, unit in zip(tokens, lengths, units, strict=True))
        assert sum(tokens) == len(paper.ids)
        assert np.allclose(weighted / len(paper.ids), states.mean(0), atol=1e-5)
        assert np.allclose(weighted / np.linalg.norm(weighted), vectors[first], atol=1e-5)
        first += 1 + len(chunks)
    assert first == len(vectors)


def moved(folder: Path, save: Any, before: str, after: str) -> list[bool]:
    """Which of a text's chunks have another vector once its last sentence is another."""
    save(folder, bytepairs())
    files = resolve_model(str(folder))
    papers = tokenized(files, "sentences:20", [before, after])
    assert [before[a:b] for a, b in papers[0].chars][:-1] == [after[a:b] for a, b in papers[1].chars][:-1]
    encoder = load_encoder(files, space_of(files, "whole"), "cpu", "float32")
    old, new = (encoder.encode(pack([paper]))[1:] for paper in papers)
    return [not np.allclose(one, other, atol=1e-3) for one, other in zip(old, new, strict=True)]


TEXT = "The star is a field. We see the galaxy. {} in the theory."


def test_under_a_bert_every_chunk_sees_the_whole_text(tmp_path: Path) -> None:
    assert moved(tmp_path, save_bert, TEXT.format("A star is"), TEXT.format("To model")) == [True, True, True]


def test_under_a_causal_model_a_chunk_sees_only_what_comes_before_it(tmp_path: Path) -> None:
    assert moved(tmp_path, save_qwen2, TEXT.format("A star is"), TEXT.format("To model")) == [False, False, True]


def test_under_a_causal_model_a_chunk_sees_all_that_comes_before_it(tmp_path: Path) -> None:
    """The last chunk's own words are the same in both, and stand at the same place."""
    save_qwen2(tmp_path)
    files = resolve_model(str(tmp_path))
    one, other = tokenized(
        files, "sentences:20", ["The star is a field. We see it.", "The star is a fever. We see it."]
    )
    assert [one.ids[a:b].tolist() for a, b in one.spans[-1:]] == [other.ids[a:b].tolist() for a, b in other.spans[-1:]]
    encoder = load_encoder(files, space_of(files, "whole"), "cpu", "float32")
    assert not np.allclose(encoder.encode(pack([one]))[-1], encoder.encode(pack([other]))[-1], atol=1e-3)
