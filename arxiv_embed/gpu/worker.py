"""A worker: the process that owns one device, `python -m arxiv_embed.gpu.worker FD`; batches in, vectors out.

It ends when the pool's end of the socket closes, so that it never outlives a killed run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from arxiv_embed.gpu.protocol import (
    Encoded,
    Failed,
    WorkerReady,
    WorkerSetup,
    encoded_frame,
    failed_frame,
    read_batch,
)
from arxiv_embed.settings import ArxivEmbedError

MALLOC_KEPT = 2**31 - 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def main(descriptor: int) -> None:
    """Serves one pool over the socket `descriptor` until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(descriptor) as connection:
        try:
            serve(connection)
        except (EOFError, ConnectionError):
            return


def serve(connection: Connection) -> None:
    """Loads the model that the first frame names, then answers every batch."""
    started = time.perf_counter()
    setup = WorkerSetup.from_bytes(connection.recv_bytes())
    if setup.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        _keep_memory()
    import torch

    from arxiv_embed.encoding.encoder import choose_dtype, load_encoder
    from arxiv_embed.encoding.model import resolve_model

    torch.set_num_threads(setup.threads)
    try:
        dtype = choose_dtype(setup.dtype, setup.device)
        encoder = load_encoder(resolve_model(setup.model), setup.device, dtype)
    except (ArxivEmbedError, OSError, ValueError, RuntimeError) as error:
        connection.send_bytes(WorkerReady("", 0.0, f"{type(error).__name__}: {error}").to_bytes())
        return
    connection.send_bytes(WorkerReady(dtype, time.perf_counter() - started).to_bytes())
    while True:
        number, batch = read_batch(connection.recv_bytes())
        begun = time.perf_counter()
        try:
            vectors = encoder.encode(batch)
        except (RuntimeError, ValueError, IndexError) as error:
            connection.send_bytes(failed_frame(Failed(number, f"{type(error).__name__}: {error}")))
            continue
        seconds = time.perf_counter() - begun
        connection.send_bytes(encoded_frame(Encoded(number, seconds, encoder.computed_tokens(batch), vectors)))


def _keep_memory() -> None:
    """Tells glibc to keep freed memory: every batch needs the same again, and fresh pages cost time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MALLOC_KEPT)
        mallopt(M_TRIM_THRESHOLD, MALLOC_KEPT)


if __name__ == "__main__":
    main(int(sys.argv[1]))
