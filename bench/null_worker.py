"""A worker with a null encoder, `python -m bench.null_worker SOCKET SLOT…`: unit vectors that cost nothing."""

from __future__ import annotations

import sys

import numpy as np

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.encoding.tokens import FloatArray
from arxiv_embed.gpu.meter import CpuMeter
from arxiv_embed.gpu.protocol import Setup
from arxiv_embed.gpu.worker import Loaded, main

DIMENSIONS = 384
DIRECTIONS = 8_191
"""So many different vectors; a span's is by its first token and its length."""

BATCH_TOKENS = 16_384


class NullEncoder:
    """What a text's vectors are costs nothing, and is the same each time."""

    packed, dimensions, memory_law = True, DIMENSIONS, (0.0, 1e3, 0.0)

    def __init__(self) -> None:
        vectors = np.random.default_rng(0).standard_normal((DIRECTIONS, DIMENSIONS)).astype(np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode(self, batch: TokenBatch) -> FloatArray:
        starts, ends = batch.spans[:, 0], batch.spans[:, 1]
        return self._vectors[(batch.ids[starts] * 31 + batch.ids[ends - 1] * 17 + ends - starts) % DIRECTIONS]

    def computed_tokens(self, batch: TokenBatch) -> int:
        return len(batch.ids)


def load(setup: Setup) -> Loaded:
    return Loaded(NullEncoder(), "float32", CpuMeter(setup.sharers), BATCH_TOKENS)


if __name__ == "__main__":
    main(sys.argv[1:], load)
