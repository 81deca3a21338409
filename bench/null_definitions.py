"""The project's definitions with a null encoder: what a run takes beside the embedding itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np

import arxiv_embed.equipment
from arxiv_embed.definitions import defs as defs
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident, Outcome

DIMENSIONS = 384
BATCH = 100
TOKENS = 200


class NullPool:
    """Stands in for `Pool`: a vector and a chunk for each text at once, its direction by the text's length."""

    dtype = "float32"
    packed = True

    def __init__(self, files: object, space: object, devices: object, **options: object) -> None:
        self._random = np.random.default_rng(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def encode(
        self,
        texts: Sequence[str],
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        urgent: Sequence[bool] | None = None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Iterator[Outcome]:
        for start in range(0, len(texts), BATCH):
            some = texts[start : start + BATCH]
            on_batch(BatchReport("cpu:0", len(some), len(some) * TOKENS, len(some) * TOKENS, 0.001, 1 << 20, 1 << 20))
            for index, text in enumerate(some, start):
                vectors = self._random.standard_normal((2, DIMENSIONS)).astype(np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                spans = np.array([[0, len(text)]], np.int32)
                yield EncodedPaper(index, spans, np.array([TOKENS], np.int32), vectors, TOKENS, 0)


arxiv_embed.equipment.Pool = NullPool  # type: ignore[assignment,misc]
