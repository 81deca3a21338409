"""A worker: the process that owns one device, `python -m arxiv_embed.gpu.worker SOCKET SLOT…`; batches in, vectors out.

It ends with the process that started it, or when the pool's end of the socket closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.garbage import collect_rarely
from arxiv_embed.gpu.meter import CpuMeter, CudaMeter, Meter
from arxiv_embed.gpu.protocol import (
    Cancel,
    Cancelled,
    Encoded,
    Failed,
    Look,
    Looked,
    NotReady,
    OutOfMemory,
    Ready,
    Setup,
    Work,
    receive,
    send,
)
from arxiv_embed.gpu.slots import Slot

if TYPE_CHECKING:
    from arxiv_embed.encoding.encoder import Encoder

Answer: TypeAlias = Encoded | OutOfMemory | Failed
Vectors: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.uint16]
"""As they travel: float32 [rows, width], or bfloat16 as uint16."""

PR_SET_PDEATHSIG = 1
"""Of Linux, <sys/prctl.h>."""

CPU_TOKENS = {"float32": 1536, "bfloat16": 3072}
"""Tokens of a batch on a CPU: enough to fill its matrix unit, few enough to stay in its cache. A GPU takes as many as
its memory allows."""


FIRST_BATCH = TokenBatch(np.zeros(8, np.int32), np.full(1, 8, np.int32), np.array([[0, 8]], np.int32))
"""What libraries set up once they do at the first batch: it is to count for the model, not for a paper's batch."""


@dataclass(frozen=True)
class Loaded:
    """A model on its device, with the arithmetic's type and the device's meter."""

    encoder: Encoder
    dtype: str
    meter: Meter
    best_tokens: int
    vector_type: str = "float32"


def main(arguments: Sequence[str], load: Callable[[Setup], Loaded]) -> None:
    """Serves one pool over the socket and the slots whose descriptors are given, until the socket closes."""
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_the_pool()
    socket, *slots = map(int, arguments)
    with Connection(socket) as connection:
        try:
            serve(connection, [Slot(descriptor) for descriptor in slots], load)
        except (EOFError, OSError):  # the latter where the pool was killed in the middle of a message
            return


def end_with_the_pool() -> None:
    """Has the kernel kill this process when the thread that started it ends, also while it computes or hangs; where
    the kernel cannot, it ends when it next looks at its socket."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(connection: Connection, slots: Sequence[Slot], load: Callable[[Setup], Loaded]) -> None:
    """Loads the model that a `Setup` names and answers every batch until the next one, which names another."""
    setup: Setup | None = receive(connection)
    while setup is not None:
        setup = _serve_model(connection, slots, load, setup)


def _serve_model(
    connection: Connection, slots: Sequence[Slot], load: Callable[[Setup], Loaded], setup: Setup
) -> Setup | None:
    """Returns what is to be served next, None where the worker is to end; by then this model's memory is free."""
    loaded, answer = load_for(setup, load)
    send(connection, answer)
    if loaded is None:
        return None
    waiting: deque[Work] = deque()
    following: Setup | None = None
    while True:
        while following is None and (not waiting or connection.poll()):
            message = receive(connection)
            if isinstance(message, Work):
                waiting.append(message)
            elif isinstance(message, Setup):
                following = message
            elif isinstance(message, Look):
                send(connection, Looked(loaded.meter.other()))
            elif isinstance(message, Cancel) and any(work.number == message.number for work in waiting):
                waiting = deque(work for work in waiting if work.number != message.number)
                send(connection, Cancelled(message.number))
        if not waiting:
            meter = loaded.meter
            del loaded
            meter.free()
            return following
        work = waiting.popleft()
        slot = slots[work.slot]
        done, vectors = encode_batch(partial(slot.get_batch, work.papers, work.spans, work.tokens), work, loaded)
        if vectors is not None:
            slot.put_vectors(vectors)
        send(connection, done)
        if isinstance(done, Failed) and done.ends:
            return None


def load_for(setup: Setup, load: Callable[[Setup], Loaded]) -> tuple[Loaded | None, Ready | NotReady]:
    """The model that a setup names, None where it cannot be loaded, and what is answered."""
    try:
        loaded = load(setup)
        return loaded, _ready(loaded)
    except Exception as error:  # noqa: BLE001 - as below
        return None, NotReady(_reason(error), out_of_memory=_is_out_of_memory(error))


def _ready(loaded: Loaded) -> Ready:
    meter = loaded.meter
    return Ready(
        dtype=loaded.dtype,
        device_type=meter.device_type,
        total_memory=meter.total(),
        base_memory=meter.held(),
        other_memory=meter.other(),
        law=loaded.encoder.memory_law,
        packed=loaded.encoder.packed,
        keeps_memory=meter.keeps,
        best_tokens=loaded.best_tokens,
        width=loaded.encoder.dimensions,
        vector_type=loaded.vector_type,
    )


def encode_batch(batch: Callable[[], TokenBatch], work: Work, loaded: Loaded) -> tuple[Answer, Vectors | None]:
    """What is answered to a work, and its vectors where it was done; `batch` is asked for only if it is begun."""
    encoder, meter = loaded.encoder, loaded.meter
    if meter.available() < work.needs:
        return OutOfMemory(work.number, meter.other(), tried=False), None
    tokens = batch()
    meter.begin()
    begun = time.perf_counter()
    try:
        vectors = encoder.encode(tokens)
        if not np.isfinite(vectors).all():
            raise ArxivEmbedError("the model gave vectors that are not finite numbers")
        seconds = time.perf_counter() - begun
        encoded = Encoded(
            number=work.number,
            rows=len(vectors),
            seconds=seconds,
            peak_memory=meter.peak(),
            other_memory=meter.other(),
            computed_tokens=encoder.computed_tokens(tokens),
        )
        return encoded, vectors
    except Exception as error:  # noqa: BLE001 - whatever it is, the pool's process says it to the user
        ran_out, reason = meter.is_out_of_memory(error), _reason(error)
    # Only here, behind the block, is the error gone, whose traceback held the batch's memory.
    meter.free()
    if ran_out:
        return OutOfMemory(work.number, meter.other(), tried=True), None
    return Failed(work.number, reason, ends=not meter.is_sound()), None


def load_model(setup: Setup, encoder_of: Callable[[Setup, str], Encoder] | None = None) -> Loaded:
    """The real thing: the model that `setup` names (or that `encoder_of` makes of it in a type), on this device."""
    meter: Meter = CpuMeter(setup.sharers) if setup.device == "cpu" else CudaMeter()
    import torch

    from arxiv_embed.encoding.encoder import choose_dtype, load_encoder

    torch.set_num_threads(1)
    dtype = choose_dtype(setup.dtype, setup.device)
    encoder = encoder_of(setup, dtype) if encoder_of else load_encoder(setup.files, setup.space, setup.device, dtype)
    encoder.encode(FIRST_BATCH)
    return Loaded(encoder, dtype, meter, CPU_TOKENS[dtype] if setup.device == "cpu" else 0)


def _is_out_of_memory(error: Exception) -> bool:
    """Of an error while a model is loaded: torch's own kind is known by its name, as torch may not be loaded yet."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _reason(error: Exception) -> str:
    """One line for a person: an error's own first line, and its kind where it is not one of ours."""
    if isinstance(error, ArxivEmbedError):
        return str(error)
    line = next(iter(str(error).strip().splitlines()), "no reason given")
    return f"{line} ({type(error).__name__})"


if __name__ == "__main__":
    main(sys.argv[1:], load_model)
