"""Simulated devices: real worker processes under the real protocol, with a hidden law of memory and of speed.

`python simulated.py DEVICES.json SOCKET SLOT…` plays the device that CUDA_VISIBLE_DEVICES names. What befalls it is on
a script, and goes on where it was when its worker is started anew.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.backlog import Piece
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.gpu.process import WorkerProcess
from arxiv_embed.gpu.protocol import Setup
from arxiv_embed.gpu.worker import Loaded, main

GIB = 2**30
WIDTH = 4


@dataclass(frozen=True)
class Event:
    """`what` happens in the device's batches numbered `first` to `last`, or, with a `token`, in every batch that holds
    it: "crash", "hang", "out of memory", "error", "not finite", "tenant" (`amount` bytes are another's, who comes while
    the first of them is computed) or "throttle" (everything takes `amount` times as long)."""

    what: str
    first: int = 0
    last: int = 0
    token: int | None = None
    amount: float = 0.0


@dataclass(frozen=True)
class Simulation:
    """One device. `law` are bytes a token, a padded token and its square; `start` is what its worker believes of that;
    `noise` the standard deviation of what a batch takes, as a part of it. Tokens are computed at `rate` a second."""

    total: int = 24 * GIB
    weights: int = 6 * GIB
    law: tuple[float, float, float] = (20e3, 100e3, 0.0)
    start: tuple[float, float, float] = (10e3, 50e3, 1.0)
    noise: float = 0.02
    rate: float = 4e6
    fixed_seconds: float = 0.0
    packed: bool = False
    device_type: str = "Simulated 24 GiB"
    width: int = WIDTH
    vector_type: str = "float32"
    loads: bool = True
    script: Sequence[Event] = field(default_factory=list)


class SimulatedDevice:
    """The encoder and the meter of a simulated device. `history` counts its batches, one byte each, over all its
    workers."""

    keeps = False

    def __init__(self, simulation: Simulation, history: Path, seed: int) -> None:
        self.simulation = simulation
        self.packed, self.dimensions, self.memory_law = simulation.packed, simulation.width, simulation.start
        self.device_type = simulation.device_type
        self._history = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._random = np.random.default_rng([seed, self._batches])
        self._peak = 0
        self._sound = True
        self._empty = np.zeros((0, simulation.width), np.uint16)

    @property
    def _batches(self) -> int:
        return os.fstat(self._history).st_size

    def _now(self, what: str, ids: np.ndarray | None = None) -> Event | None:  # type: ignore[type-arg]
        """What is on the script for the present batch."""
        number = self._batches
        for event in self.simulation.script:
            if event.what != what:
                continue
            if event.token is not None:
                if ids is not None and event.token in ids:
                    return event
            elif event.first <= number <= event.last:
                return event
        return None

    # the encoder

    def computed_tokens(self, batch: TokenBatch) -> int:
        return len(batch.ids) if self.packed else len(batch.lengths) * int(batch.lengths.max())

    def encode(self, batch: TokenBatch) -> np.ndarray:  # type: ignore[type-arg]
        begun = time.perf_counter()
        befalls = {
            what: self._now(what, batch.ids) for what in ("crash", "hang", "out of memory", "error", "not finite")
        }
        tenant, throttle = self._now("tenant"), self._now("throttle")
        taken = self._taken(batch)
        os.write(self._history, b".")
        if befalls["crash"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        if befalls["hang"]:
            time.sleep(1e6)
        vectors = self._vectors(batch)
        seconds = self.simulation.fixed_seconds + self.computed_tokens(batch) / self.simulation.rate
        until = begun + seconds * (throttle.amount if throttle else 1.0)
        other = tenant.amount if tenant else 0
        if befalls["out of memory"] or self.simulation.weights + taken + other > self.simulation.total:
            raise MemoryError("simulated device out of memory")
        time.sleep(max(0.0, until - time.perf_counter()))
        self._peak = self.simulation.weights + taken
        if befalls["error"]:
            self._sound = not befalls["error"].amount
            raise ValueError("a token that nobody can embed")
        return vectors * np.nan if befalls["not finite"] else vectors

    def _vectors(self, batch: TokenBatch) -> np.ndarray:  # type: ignore[type-arg]
        if self.simulation.vector_type == "float32":
            return vectors_of(batch.ids, batch.spans)
        if len(self._empty) < len(batch.spans):
            self._empty = np.zeros((len(batch.spans), self.dimensions), np.uint16)
        return self._empty[: len(batch.spans)]

    def _taken(self, batch: TokenBatch) -> int:
        papers, tokens, longest = len(batch.lengths), len(batch.ids), int(batch.lengths.max())
        a, c, b = self.simulation.law
        exact = a * tokens + papers * longest * (c + b * longest)
        return round(exact * (1 + self.simulation.noise * self._random.standard_normal()))

    # the meter

    def total(self) -> int:
        return self.simulation.total

    def held(self) -> int:
        return self.simulation.weights

    def other(self) -> int:
        tenant = self._now("tenant")
        return round(tenant.amount) if tenant and self._batches > tenant.first else 0

    def available(self) -> int:
        return self.total() - self.held() - self.other()

    def begin(self) -> None:
        self._peak = self.held()

    def peak(self) -> int:
        return self._peak

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def free(self) -> None: ...

    def is_sound(self) -> bool:
        return self._sound


def vectors_of(ids: np.ndarray, spans: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """float32 [spans, WIDTH]: what follows from the very tokens of each span and from no others."""
    sums = np.concatenate([[0], np.cumsum(ids, dtype=np.int64)])
    squares = np.concatenate([[0], np.cumsum(ids.astype(np.int64) ** 2)])
    first, last = spans[:, 0], spans[:, 1]
    columns = [sums[last] - sums[first], squares[last] - squares[first], last - first, ids[first]]
    return np.stack(columns, axis=1).astype(np.float32)


def paper(index: int, length: int, chunks: int = 1, token: int | None = None) -> TokenizedPaper:
    """A paper of so many tokens, unlike every other; with `token` among them."""
    ids = (np.arange(length, dtype=np.int32) * 7 + index) % 1000
    if token is not None:
        ids[length // 2] = token
    edges = np.linspace(0, length, chunks + 1).astype(np.int32)
    spans = np.concatenate([[[0, length]], np.stack([edges[:-1], edges[1:]], axis=1)]).astype(np.int32)
    return TokenizedPaper(index, ids, spans, spans[1:], 0)


def pieces_of(papers: Sequence[TokenizedPaper], size: int = 256) -> Iterator[Piece]:
    for start in range(0, len(papers), size):
        yield papers[start : start + size], None


def simulated_pool(folder: Path, simulations: Sequence[Simulation], **options: object) -> Pool:
    """A pool of simulated devices, not yet entered; `options` are `Pool`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    devices = [Device(f"cuda:{number}", "cuda", f"GPU-{number}") for number in range(len(simulations))]
    described = {device.uuid: asdict(one) for device, one in zip(devices, simulations, strict=True)}
    (folder / "devices.json").write_text(json.dumps(described))
    hire = partial(WorkerProcess, command=(sys.executable, "-P", __file__, str(folder / "devices.json")))
    files = ModelFiles("simulated", folder, "1", "simulated", WIDTH, 8192, 8192, "mean")
    space = Space("simulated", "1", "retrieval", "", "mean", True, "whole", 0, 8192, 0, 0, 8192, WIDTH, "", "")
    return Pool(files, space, devices, hire=hire, **options)  # type: ignore[arg-type]


def loader(described: Path) -> Callable[[Setup], Loaded]:
    """Loads the device that this process's environment names."""

    def load(setup: Setup) -> Loaded:
        uuid = os.environ["CUDA_VISIBLE_DEVICES"]
        fields = json.loads(described.read_text())[uuid]
        simulation = Simulation(**{**fields, "script": [Event(**event) for event in fields["script"]]})
        if not simulation.loads:
            raise OSError("the device has fallen off the bus")
        if simulation.weights > simulation.total:
            raise MemoryError("simulated device out of memory")
        device = SimulatedDevice(simulation, described.with_name(uuid), seed=int(uuid.removeprefix("GPU-")))
        dtype = "float32" if setup.dtype == "auto" else setup.dtype
        return Loaded(device, dtype, device, best_tokens=0, vector_type=simulation.vector_type)

    return load


if __name__ == "__main__":
    main(sys.argv[2:], loader(Path(sys.argv[1])))
