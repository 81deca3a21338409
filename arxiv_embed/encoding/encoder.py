"""Encoders: a model on one device of this process, from packed tokens to unit vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.model import ModelFiles, activation_bytes, check_dtype
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import FloatArray, PaperTokenizer
from arxiv_embed.errors import ArxivEmbedError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

PRODUCT = (1024, 384, 1536)
TRIES = 4
"""How an "auto" type is chosen on a CPU: the best of so many matrix products of rows × width × columns."""


class Encoder(Protocol):
    """`packed` is whether a batch is computed without padding; `memory_law` where the law of its memory starts
    (gpu/memory.py): bytes a token, a token padded to the longest paper, and that times the longest's length."""

    packed: bool
    dimensions: int
    memory_law: tuple[float, float, float]

    def encode(self, batch: TokenBatch) -> FloatArray:
        """float32 [spans, dimensions], each row of unit length."""

    def computed_tokens(self, batch: TokenBatch) -> int:
        """The tokens that `encode` computes for this batch, padding included."""


def choose_dtype(requested: str, device: str) -> str:
    """What "auto" means on a device: bfloat16 where its arithmetic has it and is the faster for it, else float32.

    There are CPUs with bfloat16 instructions at half the rate of float32's (docs/decisions.md), so a CPU is tried.
    Raises `ArxivEmbedError` for a type that is not one of auto, float32, bfloat16.
    """
    check_dtype(requested)
    if requested != "auto":
        return requested
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if not _cpu_has("avx512_bf16", "amx_bf16", "bf16"):
        return "float32"
    return min(DTYPES, key=lambda name: _product_seconds(DTYPES[name]))


@torch.inference_mode()
def _product_seconds(dtype: torch.dtype) -> float:
    rows, width, columns = PRODUCT
    one, other = torch.ones(rows, width, dtype=dtype), torch.ones(columns, width, dtype=dtype)
    seconds = []
    for _ in range(1 + TRIES):
        begun = time.perf_counter()
        torch.nn.functional.linear(one, other)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def _cpu_has(*instructions: str) -> bool:
    """Whether this CPU has one of these, in torch's names ("bf16" is ARM's)."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in instructions)


def load_encoder(files: ModelFiles, device: str, dtype: str) -> Encoder:
    """Loads the model's weights onto `device` ("cpu", "cuda:0"); `dtype` is one of DTYPES.

    Raises `ArxivEmbedError` where the weights are not whole.
    """
    from arxiv_embed.encoding.bert import PackedBert  # loads numba, which takes a second and which a GPU does without

    packs = dtype == "float32" or _cpu_has("avx512_bf16", "amx_bf16")
    if device == "cpu" and packs and PackedBert.fits(files):
        return PackedBert(files, DTYPES[dtype])
    return TransformersEncoder(files, device, dtype)


class TransformersEncoder:
    """Any encoder that transformers can load, padded, with its own attention."""

    packed = False

    def __init__(self, files: ModelFiles, device: str, dtype: str, model: Any = None) -> None:
        """`model` is one that is loaded already; by default the weights of `files` are."""
        self._model = (_load(files, dtype) if model is None else model).eval().to(device)
        self._model.config.use_cache = False  # a decoder would keep every layer's keys and values
        self._device = torch.device(device)
        self.dimensions = files.dimensions
        computed, pooled = activation_bytes(self._model.config.to_dict(), DTYPES[dtype].itemsize)
        self.memory_law = (pooled, computed, self._bytes_of_attention(DTYPES[dtype].itemsize))

    def _bytes_of_attention(self, itemsize: int) -> float:
        """For each pair of positions: the mask's, and where attention is computed as it is written (eager) scores and
        weights of every head, besides."""
        eager = getattr(self._model.config, "_attn_implementation", "") == "eager"
        heads = getattr(self._model.config, "num_attention_heads", 12)
        return itemsize * (1.0 + (2 * heads if eager else 0))

    @torch.inference_mode()
    def encode(self, batch: TokenBatch) -> FloatArray:
        lengths = torch.from_numpy(batch.lengths.astype(np.int64))
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.from_numpy(batch.ids.astype(np.int64))
        mask = mask.to(self._device)
        states = self._model(input_ids=ids.to(self._device), attention_mask=mask.long()).last_hidden_state
        return _pooled(states[mask].float(), torch.from_numpy(batch.spans.astype(np.int64)).to(self._device))

    def computed_tokens(self, batch: TokenBatch) -> int:
        return len(batch.lengths) * int(batch.lengths.max())


def _load(files: ModelFiles, dtype: str) -> Any:
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, loaded = AutoModel.from_pretrained(
        files.folder, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True
    )
    # transformers fills in random numbers for what is missing; only a pooler's matter nothing here.
    missing = sorted(name for name in loaded["missing_keys"] if "pooler." not in name)
    if missing:
        raise ArxivEmbedError(
            f"The weights of model '{files.name}' lack {missing[0]} in {files.folder}: fetch it again."
        )
    return model


def _pooled(states: torch.Tensor, spans: torch.Tensor) -> FloatArray:
    """Mean of packed `states` [tokens, width] over each span [n, 2], of unit length."""
    lengths = spans[:, 1] - spans[:, 0]
    owner = torch.repeat_interleave(torch.arange(len(spans), device=spans.device), lengths)
    offsets = torch.arange(len(owner), device=spans.device) - torch.repeat_interleave(
        lengths.cumsum(0) - lengths, lengths
    )
    rows = torch.repeat_interleave(spans[:, 0], lengths) + offsets
    sums = torch.zeros(len(spans), states.shape[1], device=states.device).index_add_(0, owner, states[rows])
    vectors: FloatArray = torch.nn.functional.normalize(sums, dim=1).cpu().numpy()
    return vectors


class TextEncoder:
    """A model in this process for a few texts at a time: search's queries."""

    def __init__(self, files: ModelFiles, space: Space, device: str = "cpu", dtype: str = "auto") -> None:
        self._tokenizer = PaperTokenizer(files, space, prompt=files.query_prompt)
        self._encoder = load_encoder(files, device, choose_dtype(dtype, device))
        self._dimensions = space.dimensions

    def encode_queries(self, queries: Sequence[str]) -> FloatArray:
        """float32 [queries, dimensions], unit length; each query with the model's query prompt."""
        if not queries:
            return np.empty((0, self._dimensions), np.float32)
        papers = self._tokenizer.tokenize(queries)
        vectors: FloatArray = self._encoder.encode(pack(papers))
        rows = np.cumsum([0, *(len(paper.spans) for paper in papers[:-1])])
        queries_only: FloatArray = vectors[rows]
        return queries_only
