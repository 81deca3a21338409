"""The actor: a worker's work on a device of a cluster, in a process that Ray starts where the device is.

It knows nothing of Ray. What comes and goes is the protocol's JSON (gpu/protocol.py) and arrays of numbers.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.encoding.tokens import IntArray
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.protocol import Cancelled, Looked, from_json, to_json
from arxiv_embed.gpu.readings import Instruments
from arxiv_embed.gpu.worker import Loaded, Vectors, encode_batch, load_for

LOAD_MODEL = "arxiv_embed.gpu.worker:load_model"
"""What loads a model there: a module and its function."""

CONTROL = "control"
"""Of Ray's groups of calls that run at once the one beside the computing."""


class EncodingActor:
    """Two of its calls run at once: one of those that compute, in the order they came, and one of the last two."""

    def __init__(self, load: str = LOAD_MODEL) -> None:
        module, _, function = load.partition(":")
        self._load: Callable[..., Loaded] = getattr(importlib.import_module(module), function)
        self._loaded: Loaded | None = None
        self._cancelled: set[int] = set()
        self._instruments: Instruments | None = None
        self._device = ""

    def load(self, setup: bytes) -> bytes:
        """Answers a `Setup`, by when the model before is no more."""
        if self._loaded is not None:
            meter = self._loaded.meter
            self._loaded = None
            meter.free()
        self._loaded, answer = load_for(from_json(setup), self._load)
        return to_json(answer)

    def encode(self, work: bytes, lengths: IntArray, spans: IntArray, ids: IntArray) -> tuple[bytes, Vectors | None]:
        """Answers a `Work`; the vectors where it was done."""
        assert self._loaded is not None
        asked = from_json(work)
        if asked.number in self._cancelled:
            self._cancelled.discard(asked.number)
            return to_json(Cancelled(asked.number)), None
        answer, vectors = encode_batch(lambda: TokenBatch(ids, lengths, spans), asked, self._loaded)
        return to_json(answer), vectors

    def look(self) -> bytes:
        """Answers a `Look`."""
        assert self._loaded is not None
        return to_json(Looked(self._loaded.meter.other()))

    def cancel(self, number: int) -> None:
        """Takes a work back, if it has not begun."""
        self._cancelled.add(number)

    def read(self) -> dict[str, Any]:
        """How its device is: the fields of a `Reading`, by the driver or the system of this machine."""
        if self._instruments is None:
            [device] = parse_devices("cuda:0" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu:1")
            self._instruments = Instruments([device])
            self._device = device.name
        [reading] = self._instruments.read({self._device: os.getpid()})
        return asdict(reading)


for _beside in (EncodingActor.cancel, EncodingActor.read):
    # As `ray.method(concurrency_group=…)` marks a method, without Ray. To name the group at a call is refused by ray://,
    # and what the bridge would add to the class its client server does not see.
    vars(_beside)["__ray_concurrency_group__"] = CONTROL
