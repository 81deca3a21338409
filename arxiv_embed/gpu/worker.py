"""A worker: the process that owns one device, `python -m arxiv_embed.gpu.worker FD`; batches in, vectors out.

It ends when the pool's end of the socket closes, so that it never outlives a killed run.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

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
        except (EOFError, OSError):  # the latter where the pool was killed in the middle of a frame
            return


def serve(connection: Connection) -> None:
    """Loads the model that the first frame names, then answers every batch."""
    started = time.perf_counter()
    setup = WorkerSetup.from_bytes(connection.recv_bytes())
    if setup.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        _keep_memory()
    try:
        import torch

        from arxiv_embed.encoding.encoder import choose_dtype, load_encoder

        torch.set_num_threads(1)
        dtype = choose_dtype(setup.dtype, setup.device)
        encoder = load_encoder(setup.files, setup.device, dtype)
    except Exception as error:  # noqa: BLE001 - whatever it is, the pool's process says it to the user
        connection.send_bytes(WorkerReady("", 0.0, _reason(error)).to_bytes())
        return
    connection.send_bytes(WorkerReady(dtype, time.perf_counter() - started).to_bytes())
    while True:
        number, batch = read_batch(connection.recv_bytes())
        begun = time.perf_counter()
        try:
            vectors = encoder.encode(batch)
            if not np.isfinite(vectors).all():
                raise ArxivEmbedError(f"model '{setup.files.name}' gave vectors that are not finite numbers.")
        except Exception as error:  # noqa: BLE001 - as above
            connection.send_bytes(failed_frame(Failed(number, _reason(error))))
            continue
        seconds = time.perf_counter() - begun
        peak = _peak_memory(setup.device)
        connection.send_bytes(encoded_frame(Encoded(number, seconds, peak, encoder.computed_tokens(batch), vectors)))


def _reason(error: Exception) -> str:
    """One line for a person: an error's own first line, and its kind where it is not one of ours."""
    if isinstance(error, ArxivEmbedError):
        return str(error)
    line = next(iter(str(error).strip().splitlines()), "no reason given")
    return f"{line} ({type(error).__name__})"


def _peak_memory(device: str) -> int:
    """The most bytes held so far: of the GPU's memory, or by this process."""
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except OSError:  # not Linux, where this would begin with the parent's
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _keep_memory() -> None:
    """Tells glibc to keep freed memory: every batch needs the same again, and fresh pages cost time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MALLOC_KEPT)
        mallopt(M_TRIM_THRESHOLD, MALLOC_KEPT)


if __name__ == "__main__":
    main(int(sys.argv[1]))
