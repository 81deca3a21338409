"""The model that `bench.gpu` measures with: Jina v4's text layers with random weights, and papers of random tokens.

Speed depends on neither. Weights and tokens follow from fixed seeds: every process that makes them has the same.

FLOP are counted as what must be computed for the real tokens: two for every weight of the layers' matrices and token
(embeddings, norms and biases left out), and for attention, which is causal, four for every layer, channel and pair of a
token with itself or one before it. Padding is never counted, nor what attention computes and then masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_embed.encoding.chunking import sentence_spans
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.metadata.paper import TEMPLATE
from bench.abstract_lengths import abstract_lengths

MODEL_SEED, TOKEN_SEED = 0, 1
POSITIONS = 8192
SENTENCE_TOKENS, CHUNK_TOKENS = 24, 128


@dataclass(frozen=True)
class TextShape:
    """The shape of a Qwen2.5-VL text model."""

    layers: int
    width: int
    heads: int
    key_value_heads: int
    inner: int
    vocabulary: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def weights(self) -> int:
        """Weights in the matrices of all layers: queries and output, keys and values, and the three of the MLP."""
        attention = 2 * self.width * (self.width + self.key_value_heads * self.head_width)
        return self.layers * (attention + 3 * self.width * self.inner)

    def flop(self, lengths: Sequence[int]) -> float:
        """What papers of these lengths, in tokens, need."""
        tokens = np.asarray(lengths, float)
        pairs = tokens * (tokens + 1) / 2
        return float((2 * self.weights * tokens + 4 * self.layers * self.width * pairs).sum())


JINA_V4 = TextShape(layers=36, width=2048, heads=16, key_value_heads=2, inner=11008, vocabulary=151_936)
"""Qwen2.5-VL-3B's text layers."""


def random_model(shape: TextShape, device: str, dtype: str) -> Any:
    """transformers' own Qwen2.5-VL text model, without head and vision, made on `device` ("cpu", "cuda:0")."""
    import torch
    from transformers import AutoModel, Qwen2_5_VLTextConfig

    from arxiv_embed.encoding.encoder import DTYPES

    config = Qwen2_5_VLTextConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": _rotary_sections(shape)},
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(MODEL_SEED)
    with torch.device(device):
        return AutoModel.from_config(config, dtype=DTYPES[dtype]).eval()


def _rotary_sections(shape: TextShape) -> list[int]:
    """A head's pairs of channels by time, height and width: of 64 pairs 16, 24 and 24, as Qwen2.5-VL has them."""
    pairs = shape.head_width // 2
    side = 3 * pairs // 8
    return [pairs - 2 * side, side, side]


def model_files(shape: TextShape) -> ModelFiles:
    """What a pool is told of the model; there are no files, as its worker makes the weights."""
    return ModelFiles(
        name="random",
        folder=Path(),
        revision=str(MODEL_SEED),
        architecture="qwen2_5_vl_text",
        dimensions=shape.width,
        position_limit=POSITIONS,
        advised_tokens=POSITIONS,
        pooling="mean",
        causal=True,
    )


def space(shape: TextShape) -> Space:
    return Space(
        model="random",
        revision=str(MODEL_SEED),
        task="retrieval",
        prompt="",
        pooling="mean",
        normalize=True,
        chunker=f"sentences:{CHUNK_TOKENS}",
        splitter=0,
        max_tokens=POSITIONS,
        window=0,
        overlap=0,
        paper_tokens=POSITIONS,
        dimensions=shape.width,
        template=TEMPLATE,
        query_prompt="",
    )


def random_papers(count: int, vocabulary: int, *, chunked: bool = True) -> list[TokenizedPaper]:
    """Papers of real lengths (from the beginning again where there are no more), the same at every call.

    Their chunks are of whole sentences, here all equally long, and of up to `CHUNK_TOKENS` tokens; they have none
    unless they are `chunked`.
    """
    lengths = np.resize(abstract_lengths(), count).astype(int)
    ids = np.random.default_rng(TOKEN_SEED).integers(0, vocabulary, lengths.sum(), np.int32)
    starts = np.cumsum(lengths) - lengths
    return [
        _paper(index, ids[start : start + length], chunked)
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


def _paper(index: int, ids: Any, chunked: bool) -> TokenizedPaper:
    chunks = sentence_spans(range(0, len(ids), SENTENCE_TOKENS), len(ids), CHUNK_TOKENS) if chunked else []
    spans = np.array([(0, len(ids)), *chunks], np.int32)
    return TokenizedPaper(index, ids, spans, spans[1:], 0)
