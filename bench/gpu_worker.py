"""The worker of `bench.gpu`: the engine's own, but for the model, which it makes in place of reading one.

`python -m bench.gpu_worker SHAPE SOCKET SLOT…`, where SHAPE is a `TextShape` as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from arxiv_embed.gpu.meter import CpuMeter, CudaMeter, Meter
from arxiv_embed.gpu.protocol import Setup
from arxiv_embed.gpu.worker import BEST_TOKENS, Loaded, main
from bench.gpu_model import TextShape, random_model


def command(shape: TextShape) -> tuple[str, ...]:
    """What a pool starts, in the repository root."""
    return (sys.executable, "-m", "bench.gpu_worker", json.dumps(asdict(shape)))


def loader(shape: TextShape) -> Callable[[Setup], Loaded]:
    """As the engine's `load_model`, for a model of random weights."""

    def load(setup: Setup) -> Loaded:
        meter: Meter = CpuMeter(setup.sharers) if setup.device == "cpu" else CudaMeter()
        import torch

        from arxiv_embed.encoding.encoder import TransformersEncoder

        torch.set_num_threads(1)
        model = random_model(shape, setup.device, setup.dtype)
        encoder = TransformersEncoder(setup.files, setup.device, setup.dtype, model)
        return Loaded(encoder, setup.dtype, meter, BEST_TOKENS["cpu" if setup.device == "cpu" else "cuda"])

    return load


if __name__ == "__main__":
    main(sys.argv[2:], loader(TextShape(**json.loads(sys.argv[1]))))
