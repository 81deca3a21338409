"""The worker of `bench.gpu`: the engine's own, but for the model, which it makes in place of reading one.

`python -m bench.gpu_worker SHAPE LAYOUT SOCKET SLOT…`, where SHAPE is a `TextShape` as JSON and LAYOUT "packed" or
"padded".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from arxiv_embed.gpu.protocol import Setup
from arxiv_embed.gpu.worker import Loaded, load_model, main
from bench.gpu_model import TextShape, random_model

if TYPE_CHECKING:
    from arxiv_embed.encoding.encoder import Encoder


def command(shape: TextShape, layout: str = "packed") -> tuple[str, ...]:
    """What a pool starts, in the repository root."""
    return (sys.executable, "-m", "bench.gpu_worker", json.dumps(asdict(shape)), layout)


def loader(shape: TextShape, layout: str = "packed") -> Callable[[Setup], Loaded]:
    """The engine's `load_model`, for a model of random weights."""

    def encoder_of(setup: Setup, dtype: str) -> Encoder:
        from arxiv_embed.encoding.encoder import DTYPES, TransformersEncoder

        model = random_model(shape, setup.device, dtype)
        pack = layout == "packed"
        return TransformersEncoder(setup.files, setup.space, setup.device, DTYPES[dtype], model, pack=pack)

    return partial(load_model, encoder_of=encoder_of)


if __name__ == "__main__":
    main(sys.argv[3:], loader(TextShape(**json.loads(sys.argv[1])), sys.argv[2]))
