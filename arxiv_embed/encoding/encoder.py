"""Encoders: a model on one device of this process, from packed tokens to unit vectors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.model import ModelFiles, check_dtype
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import FloatArray, PaperTokenizer
from arxiv_embed.encoding.transformer import TransformersEncoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

TOKEN_CHARACTERS = 20
"""Of a query so many a token are looked at, which is four times what a token has: the rest is beyond its vector."""

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
        with torch.cuda.device(device):  # torch is asked of the current one
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
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


def _has_onednn() -> bool:
    """Whether this build of torch has the library of products that `PackedBert` is written for."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def load_encoder(files: ModelFiles, space: Space, device: str, dtype: str) -> Encoder:
    """Loads the model's weights onto `device` ("cpu", "cuda:0") for a space; `dtype` is one of DTYPES.

    Raises `ArxivEmbedError` where the weights are not whole.
    """
    from arxiv_embed.encoding.bert import PackedBert  # loads numba, which takes a second and which a GPU does without

    packs = _has_onednn() and (dtype == "float32" or _cpu_has("avx512_bf16", "amx_bf16"))
    if device == "cpu" and packs and PackedBert.fits(files):
        return PackedBert(files, space, DTYPES[dtype])
    return TransformersEncoder(files, space, device, DTYPES[dtype])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """A few tokens are no work for several: each product would wait for the last of them, which another process may
    have put off (two cores at a load of four: 95% of searches within 42 ms, and not 220)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TextEncoder:
    """A model in this process for a few texts at a time: search's queries."""

    def __init__(self, files: ModelFiles, space: Space, device: str = "cpu", dtype: str = "auto") -> None:
        self._tokenizer = PaperTokenizer(files, space, prompt=space.query_prompt)
        self._encoder = load_encoder(files, space, device, choose_dtype(dtype, device))
        self._dimensions = space.dimensions
        self._reach = space.paper_reach * TOKEN_CHARACTERS

    def encode_queries(self, queries: Sequence[str]) -> FloatArray:
        """float32 [queries, dimensions], unit length; each query with the model's query prompt."""
        if not queries:
            return np.empty((0, self._dimensions), np.float32)
        papers = self._tokenizer.tokenize([query[: self._reach] for query in queries])
        with _one_thread():
            vectors: FloatArray = self._encoder.encode(pack(papers))
        rows = np.cumsum([0, *(len(paper.spans) for paper in papers[:-1])])
        queries_only: FloatArray = vectors[rows]
        return queries_only
