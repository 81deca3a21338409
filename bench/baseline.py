"""The baseline: sentence-transformers and the bare matrix product, in a process of their own.

That process's threads and memory are its own, and it rests while something else is measured.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from types import TracebackType
from typing import Any, Self

import numpy as np

from arxiv_embed.encoding.encoder import DTYPES
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.tokens import FloatArray
from arxiv_embed.gpu.devices import usable_cores

PRODUCT = (4096, 384, 1536)
"""Rows, width and columns of the matrix product: about that of a feed-forward layer over one batch."""

PRODUCTS, TRIES = 10, 10


class Baseline:
    """A context manager; every core is its own while it is asked something."""

    def __init__(self, files: ModelFiles) -> None:
        self._folder = str(files.folder)
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare, (usable_cores(),))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.shutdown(cancel_futures=True)

    def encode(self, texts: Sequence[str], dtype: str, max_tokens: int) -> tuple[FloatArray, float]:
        """Vectors float32 [texts, dimensions], as `SentenceTransformer.encode` makes them, and the seconds it took."""
        return self._process.submit(_encode, list(texts), dtype, max_tokens, self._folder).result()

    def matrix_rate(self, dtype: str) -> float:
        """FLOP/s of the product of `PRODUCT` on all cores: the best of several tries."""
        return self._process.submit(_matrix_rate, dtype).result()


def has_bfloat16() -> bool:
    """Whether this CPU has arithmetic for bfloat16; without, it is emulated and not worth waiting for."""
    from torch.cpu import get_capabilities

    capabilities = get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _prepare(threads: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(threads)


@cache
def _model(folder: str, dtype: str) -> Any:
    from sentence_transformers import SentenceTransformer

    kwargs = {} if dtype == "float32" else {"dtype": DTYPES[dtype]}
    return SentenceTransformer(folder, device="cpu", model_kwargs=kwargs)


def _encode(texts: list[str], dtype: str, max_tokens: int, folder: str) -> tuple[FloatArray, float]:
    model = _model(folder, dtype)
    model.max_seq_length = max_tokens
    begun = time.perf_counter()
    vectors = model.encode(texts, show_progress_bar=False)
    return np.asarray(vectors, np.float32), time.perf_counter() - begun


def _matrix_rate(dtype: str) -> float:
    import torch

    rows, width, columns = PRODUCT
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(rows, width, generator=generator).to(DTYPES[dtype])
    other = torch.randn(width, columns, generator=generator).to(DTYPES[dtype])
    seconds = []
    with torch.inference_mode():
        for _ in range(TRIES):
            begun = time.perf_counter()
            for _ in range(PRODUCTS):
                one @ other
            seconds.append(time.perf_counter() - begun)
    return 2 * rows * width * columns * PRODUCTS / min(seconds)
