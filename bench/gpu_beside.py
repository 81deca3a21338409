"""What `bench.gpu` holds the engine against: the bare matrix product, sentence-transformers on the same module, and
what the module itself needs of memory.

Each is measured in a process of its own that ends with it, so that the device's memory is whole again.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.meter import CpuMeter, CudaMeter
from bench.gpu_model import TextShape, model_files, random_model, random_papers, space

ROWS = 8192
PRODUCTS = 20
WARMING_PAPERS = 64
"""sentence-transformers is tried with so many papers first, and then with so many more to tell its speed."""

LENGTH = 256
"""Of each text, where memory is measured."""

FIRST_CHARACTER = 0x10000
"""Token n is written as the n-th character from here on: none is a surrogate, and a text has as many characters as
tokens, which is what sentence-transformers sorts by."""


@dataclass(frozen=True)
class Timed:
    """How many papers, of how many tokens, took how many seconds."""

    papers: int
    tokens: int
    seconds: float


def matrix_rates(device: Device, shape: TextShape, dtype: str, seconds: float, rows: int = ROWS) -> list[float]:
    """FLOP/s of the model's largest product, `rows` × width by width × inner, over and over for so many seconds."""
    with _alone(device) as call:
        return call(partial(_matrix_rates, device.torch_name, shape, dtype, seconds, rows))


def sentence_transformers(device: Device, shape: TextShape, dtype: str, papers: int, seconds: float) -> Timed:
    """`SentenceTransformer.encode` with its defaults, on the first `papers` papers, or so many of them that it takes
    about so many seconds."""
    with _alone(device) as call:
        return call(partial(_sentence_transformers, device.torch_name, shape, dtype, papers, seconds))


def memory_of_a_token(device: Device, shape: TextShape, dtype: str, tokens: int) -> tuple[float, float]:
    """Bytes beyond the model, for each of about so many tokens in a batch: of the encoder, and of the inner model when
    it is called plainly with texts of one length, which need no mask."""
    with _alone(device) as call:
        return call(partial(_memory_of_a_token, device.torch_name, shape, dtype, tokens))


@contextmanager
def _alone(device: Device) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Calls functions in a process that sees this device alone."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _see, (device.environment,)) as process:
        yield lambda function: process.submit(function).result()


def _see(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def _matrix_rates(device: str, shape: TextShape, dtype: str, seconds: float, rows: int) -> list[float]:
    import torch

    from arxiv_embed.encoding.encoder import DTYPES

    generator = torch.Generator(device).manual_seed(0)

    def random(rows: int) -> torch.Tensor:
        return torch.randn(rows, shape.width, generator=generator, device=device).to(DTYPES[dtype])

    states, weights = random(rows), random(shape.inner)
    rates: list[float] = []
    ends = time.perf_counter() + seconds
    with torch.inference_mode():
        for _ in range(PRODUCTS):
            torch.nn.functional.linear(states, weights)
        while not rates or time.perf_counter() < ends:
            _wait_for(device)
            begun = time.perf_counter()
            for _ in range(PRODUCTS):
                torch.nn.functional.linear(states, weights)
            _wait_for(device)
            rates.append(2 * rows * shape.width * shape.inner * PRODUCTS / (time.perf_counter() - begun))
    return rates


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def _sentence_transformers(device: str, shape: TextShape, dtype: str, papers: int, seconds: float) -> Timed:
    encoder = wrapped(random_model(shape, device, dtype), device)
    texts = [text_of(paper.ids) for paper in random_papers(max(papers, 2 * WARMING_PAPERS), shape.vocabulary)]
    encoder.encode(texts[:WARMING_PAPERS], show_progress_bar=False)
    trial = _timed(encoder, texts[WARMING_PAPERS : 2 * WARMING_PAPERS])
    return _timed(encoder, texts[: min(papers, max(WARMING_PAPERS, round(seconds * trial.papers / trial.seconds)))])


def _memory_of_a_token(device: str, shape: TextShape, dtype: str, tokens: int) -> tuple[float, float]:
    import torch

    from arxiv_embed.encoding.encoder import DTYPES, TransformersEncoder

    meter = CpuMeter(1) if device == "cpu" else CudaMeter()
    model = random_model(shape, device, dtype)
    texts = max(1, tokens // LENGTH)
    ids = torch.randint(0, shape.vocabulary, (texts, LENGTH), device=device)

    def beyond_the_model(compute: Callable[[], object]) -> float:
        compute()
        meter.free()
        held = meter.held()
        meter.begin()
        compute()
        return max(0, meter.peak() - held) / ids.numel()

    with torch.inference_mode():
        inner = beyond_the_model(lambda: model(input_ids=ids, use_cache=False))
    batch = TokenBatch(
        ids=ids.flatten().int().cpu().numpy(),
        lengths=np.full(texts, LENGTH, np.int32),
        spans=np.array([[start, start + LENGTH] for start in range(0, ids.numel(), LENGTH)], np.int32),
    )
    encoder = TransformersEncoder(model_files(shape), space(shape), device, DTYPES[dtype], model)
    return beyond_the_model(lambda: encoder.encode(batch)), inner


def _timed(encoder: Any, texts: list[str]) -> Timed:
    begun = time.perf_counter()
    encoder.encode(texts, show_progress_bar=False)
    return Timed(len(texts), sum(map(len, texts)), time.perf_counter() - begun)


def wrapped(model: Any, device: str) -> Any:
    """A `SentenceTransformer` around a transformers model, which reads the texts of `text_of`; it pools and normalizes.

    It keeps no keys and values, as sentence-transformers' own `Transformer` does not.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    class Transformer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.auto_model = model

        def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
            ids = [torch.from_numpy(ids_of(text)) for text in texts]
            return {
                "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
                "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], True),
            }

        def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            states = self.auto_model(
                input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False
            ).last_hidden_state
            return {**features, "token_embeddings": states}

    modules = [Transformer(), Pooling(model.config.hidden_size), Normalize()]
    return SentenceTransformer(modules=modules, device=device)


def text_of(ids: np.ndarray) -> str:  # type: ignore[type-arg]
    """A text whose characters are these tokens."""
    return (ids.astype("<u4") + np.uint32(FIRST_CHARACTER)).tobytes().decode("utf-32-le")


def ids_of(text: str) -> np.ndarray:  # type: ignore[type-arg]
    """int64 [tokens]: the tokens of a text of `text_of`."""
    return np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int64) - FIRST_CHARACTER
