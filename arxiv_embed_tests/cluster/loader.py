"""A loader for actors in tests: an encoder whose vectors tell which texts they are of, and that takes its time."""

from __future__ import annotations

import os
import time

import numpy as np

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.gpu.meter import CpuMeter
from arxiv_embed.gpu.protocol import Setup
from arxiv_embed.gpu.worker import Loaded
from arxiv_embed_tests.gpu.simulated import WIDTH, vectors_of

LOAD, LOAD_SLOW = f"{__name__}:load", f"{__name__}:load_slow"
SECONDS = "ARXIV_EMBED_TESTS_BATCH_SECONDS"


class Encoder:
    packed, dimensions, memory_law = True, WIDTH, (0.0, 1e3, 0.0)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def encode(self, batch: TokenBatch) -> np.ndarray:
        time.sleep(self._seconds)
        return vectors_of(batch.ids, batch.spans)

    def computed_tokens(self, batch: TokenBatch) -> int:
        return len(batch.ids)


def load(setup: Setup) -> Loaded:
    return Loaded(Encoder(float(os.environ.get(SECONDS, "0.05"))), "float32", CpuMeter(setup.sharers), 0)


def load_slow(setup: Setup) -> Loaded:
    """With a second for each batch."""
    return Loaded(Encoder(1.0), "float32", CpuMeter(setup.sharers), 0)
