"""A worker's side: what it refuses, what it frees, and when it ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import weakref
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import space_of
from arxiv_embed.gpu.protocol import (
    Cancel,
    Cancelled,
    Encoded,
    Failed,
    Look,
    Looked,
    OutOfMemory,
    Ready,
    Setup,
    Work,
    receive,
    send,
)
from arxiv_embed.gpu.slots import Slot, bytes_needed
from arxiv_embed.gpu.worker import Loaded, serve
from arxiv_embed_tests.gpu.simulated import WIDTH, paper, vectors_of

BATCH = pack([paper(0, 30), paper(1, 20)])


class Device:
    """An encoder and its meter in one; `fails` is what it raises."""

    packed, dimensions, memory_law, keeps, device_type = True, WIDTH, (1.0, 0.0, 0.0), False, "test"

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.sound = True
        self.room = 1000
        self.held_when_freed: bool | None = None
        self._scratch: weakref.ref[np.ndarray] | None = None
        self.go_on = threading.Event()
        self.go_on.set()

    def encode(self, batch: TokenBatch) -> np.ndarray:
        self.go_on.wait()
        scratch = np.zeros(1000)
        self._scratch = weakref.ref(scratch)
        if self.fails:
            raise self.fails
        return vectors_of(batch.ids, batch.spans)

    def computed_tokens(self, batch: TokenBatch) -> int:
        return len(batch.ids)

    def total(self) -> int:
        return 2000

    held = total

    def other(self) -> int:
        return 77

    def available(self) -> int:
        return self.room

    def begin(self) -> None: ...

    def peak(self) -> int:
        return 1234

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)

    def free(self) -> None:
        assert self._scratch is not None
        self.held_when_freed = self._scratch() is not None

    def is_sound(self) -> bool:
        return self.sound


class Served:
    """A worker's loop in a thread, and the pool's side of it."""

    def __init__(self, device: Device) -> None:
        self.connection, theirs = Pipe()
        self.slot = Slot.create()
        self.slot.grow(bytes_needed(BATCH, WIDTH, "float32"))
        self.thread = threading.Thread(target=self._run, args=(theirs, device), daemon=True)
        self.thread.start()
        files = ModelFiles("m", Path("/m"), "1", "a", WIDTH, 8, 8, "mean")
        send(self.connection, Setup(files, space_of(files, "whole"), "cpu", "float32"))
        assert isinstance(receive(self.connection), Ready)

    def _run(self, theirs: Connection, device: Device) -> None:
        with theirs:
            try:
                serve(theirs, [self.slot], lambda setup: Loaded(device, "float32", device, 0))  # type: ignore[arg-type]
            except EOFError:
                return

    def work(self, number: int, needs: int = 0) -> None:
        self.slot.put_batch(BATCH)
        send(self.connection, Work(number, 0, len(BATCH.lengths), len(BATCH.spans), len(BATCH.ids), needs))

    def answer(self) -> object:
        assert self.connection.poll(30)
        return receive(self.connection)


def test_a_batch_is_answered_with_its_vectors_in_the_slot() -> None:
    served = Served(Device())
    served.work(5)
    answer = served.answer()
    assert isinstance(answer, Encoded)
    assert (answer.number, answer.rows, answer.peak_memory, answer.other_memory) == (5, 4, 1234, 77)
    assert np.array_equal(served.slot.get_vectors(4, WIDTH, "float32"), vectors_of(BATCH.ids, BATCH.spans))
    send(served.connection, Look())
    assert served.answer() == Looked(77)


def test_a_batch_that_needs_more_than_there_is_now_is_refused_untried() -> None:
    served = Served(Device())
    served.work(1, needs=1001)
    assert served.answer() == OutOfMemory(1, 77, tried=False)
    served.work(2, needs=1000)
    assert isinstance(served.answer(), Encoded)


def test_memory_is_freed_when_the_error_that_held_it_is_gone() -> None:
    device = Device()
    device.fails = MemoryError("full")
    served = Served(device)
    served.work(1)
    assert served.answer() == OutOfMemory(1, 77, tried=True)
    device.fails = None  # the test's own hold on the error
    assert device.held_when_freed is not None
    served.work(2)
    assert isinstance(served.answer(), Encoded)


def test_a_worker_whose_device_is_of_no_more_use_says_so_and_ends() -> None:
    device = Device()
    device.fails, device.sound = RuntimeError("CUDA error: an illegal memory access"), False
    served = Served(device)
    served.work(1)
    answer = served.answer()
    assert isinstance(answer, Failed)
    assert (answer.ends, answer.error) == (True, "CUDA error: an illegal memory access (RuntimeError)")
    served.thread.join(30)
    assert not served.thread.is_alive()


def test_a_batch_that_was_not_begun_is_taken_back() -> None:
    device = Device()
    served = Served(device)
    device.go_on.clear()
    served.work(1)
    served.work(2)
    send(served.connection, Cancel(2))
    send(served.connection, Cancel(9))
    device.go_on.set()
    answers = {type(answer): answer for answer in (served.answer(), served.answer())}
    assert answers.keys() == {Encoded, Cancelled}
    assert answers[Cancelled] == Cancelled(2)
    served.work(3)
    answer = served.answer()
    assert isinstance(answer, Encoded)
    assert answer.number == 3


HANGS = """
import sys, time
from arxiv_embed.gpu.worker import main

def load(setup):
    print("hanging", flush=True)
    time.sleep(60)

main(sys.argv[1:], load)
"""
STARTS = """
import sys, time
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.process import WorkerProcess
from arxiv_embed.gpu.protocol import Setup

worker = WorkerProcess(parse_devices("cpu:1")[0], [sys.executable, "-c", sys.argv[1]])
files = resolve_model("all-MiniLM-L6-v2")
worker.send(Setup(files, space_of(files, "whole"), "cpu", "float32", 1))
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_a_worker_ends_with_the_process_that_started_it_though_it_hangs() -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTS, HANGS], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout as printed:
        assert "hanging" in {printed.readline().strip(), printed.readline().strip()}
        starter.kill()
        starter.wait()
        assert printed.read() == ""  # the worker has the same output: it is closed when both have ended
