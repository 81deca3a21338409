"""The pool: the devices of one run, each with its own worker process, fed and drained at the same time."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

from arxiv_embed.encoding.batch import pack
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import FloatArray, IntArray, PaperTokenizer, TokenizedPaper
from arxiv_embed.gpu.batching import TOKEN_BUDGET, batches_by_count, batches_by_tokens, windows
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.protocol import Encoded, WorkerReady, WorkerSetup, batch_frame, read_answer
from arxiv_embed.settings import ArxivEmbedError, FatalError

WORKER_MODULE = "arxiv_embed.gpu.worker"
READY_SECONDS = 600
STOP_SECONDS = 5
HUNGRY_SECONDS = 0.005
BACKLOG_BATCHES = 512


class WorkerNotStarted(FatalError):
    """A device's worker could not load the model."""


class WorkerLost(ArxivEmbedError):
    """A worker process ended, or could not encode a batch."""


@dataclass(frozen=True)
class BatchReport:
    """One batch as it was done: real tokens, tokens computed (padding included), seconds on the device, and the most
    bytes that the device's worker has held so far (on a GPU, of the GPU's memory)."""

    device: str
    papers: int
    tokens: int
    padded_tokens: int
    seconds: float
    peak_memory: int


@dataclass(frozen=True)
class EncodedPaper:
    """One paper's vectors.

    `index` is its place in the sequence given; `spans` int32 [chunks, 2], characters of the paper's text;
    `chunk_tokens` int32 [chunks]; `vectors` float32 [1 + chunks, dimensions] of unit length, row 0 the whole paper;
    `tokens` embedded and `cut_tokens` beyond the limit.
    """

    index: int
    spans: IntArray
    chunk_tokens: IntArray
    vectors: FloatArray
    tokens: int
    cut_tokens: int


class Pool:
    """A context manager: entering starts the workers and loads the model in each, leaving ends them.

    In production mode batches are made by tokens and pulled by whichever device has room; in standard mode they are
    `batch_size` papers each, dealt round robin.
    """

    def __init__(
        self,
        files: ModelFiles,
        space: Space,
        devices: Sequence[Device],
        *,
        dtype: str = "auto",
        batch_size: int = 200,
        production: bool = True,
    ) -> None:
        self.dtype = dtype
        """What "auto" has become, once the workers are ready."""
        self._files = files
        self._devices = list(devices)
        self._batch_size = batch_size
        self._production = production
        self._tokenizer = PaperTokenizer(files, space)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        try:
            for device in self._devices:
                self._workers.append(_Worker(device, self._files, self.dtype))
            chosen = {worker.ready().dtype for worker in self._workers}
        except BaseException:
            self._stop()
            raise
        if len(chosen) > 1:  # each has tried for itself what is faster here, and it is nearly a tie
            self._stop()
            self.dtype = "float32"
            return self.__enter__()
        [self.dtype] = chosen
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.join()
        self._workers = []

    def encode(
        self, texts: Sequence[str], on_batch: Callable[[BatchReport], None] = lambda report: None
    ) -> Iterator[EncodedPaper]:
        """Embeds the text of every paper once; they come back in the order they finish.

        Raises `WorkerLost` where a worker ends or fails, and ends the others; what was yielded before stands. Closed
        before its end, it leaves the pool ready for the next call.
        """
        try:
            yield from self._encode(texts, on_batch)
        except WorkerLost:
            self._stop()
            raise
        finally:
            for worker in self._workers:
                worker.forget()

    def _encode(self, texts: Sequence[str], on_batch: Callable[[BatchReport], None]) -> Iterator[EncodedPaper]:
        turn = 0
        with _Backlog(self._batches(texts)) as backlog:
            while True:
                while worker := self._worker_with_room(turn, backlog.waiting()):
                    batch = backlog.take(block=not any(w.in_flight for w in self._workers))
                    if batch is None:
                        break
                    worker.send(batch)
                    turn += 1
                busy = {w.connection: w for w in self._workers if w.in_flight}
                if not busy:
                    return
                # A finished tokenization wakes nobody: look again soon while a worker could take more.
                hungry = not backlog.finished and self._worker_with_room(turn, backlog.waiting()) is not None
                for connection in wait(busy, timeout=HUNGRY_SECONDS if hungry else None):
                    worker = busy[connection]  # type: ignore[index]
                    received = worker.receive()
                    if received is None:
                        continue
                    batch, answer = received
                    tokens = sum(len(paper.ids) for paper in batch)
                    measured = (answer.computed_tokens, answer.seconds, answer.peak_memory)
                    on_batch(BatchReport(worker.name, len(batch), tokens, *measured))
                    yield from _split(batch, answer.vectors)

    def _batches(self, texts: Sequence[str]) -> Iterator[list[TokenizedPaper]]:
        budget = TOKEN_BUDGET[self._devices[0].kind]
        for window in windows(len(texts)):
            tokenized = self._tokenizer.tokenize(texts[window.start : window.stop], window.start)
            if self._production:
                yield from batches_by_tokens(tokenized, budget, self._batch_size)
            else:
                yield from batches_by_count(tokenized, self._batch_size)

    def _worker_with_room(self, turn: int, waiting: int) -> _Worker | None:
        """The worker that the next batch goes to, or None while it has enough.

        A batch queued behind another hides the way to the worker and back; when few batches wait, none is queued, so
        that the last ones are spread evenly.
        """
        if not self._production:
            worker = self._workers[turn % len(self._workers)]
            return worker if len(worker.in_flight) < 2 else None
        least = min(self._workers, key=lambda w: len(w.in_flight))
        return least if len(least.in_flight) < (2 if waiting >= len(self._workers) else 1) else None


def _split(batch: Sequence[TokenizedPaper], vectors: FloatArray) -> Iterator[EncodedPaper]:
    row = 0
    for paper in batch:
        count = len(paper.spans)
        yield EncodedPaper(
            index=paper.index,
            spans=paper.chars,
            chunk_tokens=paper.spans[1:, 1] - paper.spans[1:, 0],
            vectors=vectors[row : row + count],
            tokens=len(paper.ids),
            cut_tokens=paper.cut_tokens,
        )
        row += count


class _Backlog:
    """Batches that a thread makes ahead of the devices, a bounded number of them."""

    def __init__(self, batches: Iterator[list[TokenizedPaper]]) -> None:
        self._batches = batches
        self._queue: queue.Queue[list[TokenizedPaper] | BaseException | None] = queue.Queue(BACKLOG_BATCHES)
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="tokenizer", daemon=True)
        self.finished = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.01)

    def waiting(self) -> int:
        return self._queue.qsize()

    def take(self, *, block: bool) -> list[TokenizedPaper] | None:
        """The next batch; None where there is none yet (or, blocking, none any more)."""
        if self.finished:
            return None
        try:
            item = self._queue.get(block=block)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        self.finished = item is None
        return item

    def _fill(self) -> None:
        try:
            for batch in self._batches:
                self._queue.put(batch)
                if self._abandoned.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 - carried to the thread that takes batches
            self._queue.put(error)


class _Worker:
    """One worker process seen from the pool: its socket, and what it was sent and has not answered."""

    def __init__(self, device: Device, files: ModelFiles, dtype: str) -> None:
        self.name = device.name
        self.in_flight: deque[tuple[int, list[TokenizedPaper]]] = deque()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER_MODULE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        self.connection = Connection(self._socket.dup().detach())
        self._numbers = 0
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outbox.put(WorkerSetup(files, device.torch_name, dtype).to_bytes())
        self._sender = threading.Thread(target=self._send_all, name=f"to {device.name}", daemon=True)
        self._sender.start()

    def ready(self) -> WorkerReady:
        """Waits for the model to be loaded."""
        if not self.connection.poll(READY_SECONDS):
            raise WorkerNotStarted(f"The worker of {self.name} did not start within {READY_SECONDS} s.")
        try:
            ready = WorkerReady.from_bytes(self.connection.recv_bytes())
        except (EOFError, OSError):
            raise WorkerNotStarted(
                f"The worker of {self.name} ended with exit code {self._exit_code()} while it loaded the model."
            ) from None
        if ready.error:
            reason = ready.error.rstrip(".")
            raise WorkerNotStarted(
                f"The worker of {self.name} could not start ({reason}): check --model, --devices and --dtype."
            )
        return ready

    def send(self, batch: list[TokenizedPaper]) -> None:
        self._outbox.put(batch_frame(self._numbers, pack(batch)))
        self.in_flight.append((self._numbers, batch))
        self._numbers += 1

    def receive(self) -> tuple[list[TokenizedPaper], Encoded] | None:
        """The oldest batch under way with its answer, as a worker answers in order; None for a forgotten batch's."""
        try:
            answer = read_answer(self.connection.recv_bytes())
        except (EOFError, OSError):  # the latter where it was killed in the middle of a frame
            raise WorkerLost(
                f"The worker of {self.name} ended with exit code {self._exit_code()}: "
                "run again to go on from what was saved."
            ) from None
        number, batch = self.in_flight[0]
        if answer.number < number:
            return None
        if not isinstance(answer, Encoded):
            raise WorkerLost(f"The worker of {self.name} could not encode a batch: {answer.error}")
        self.in_flight.popleft()
        return batch, answer

    def forget(self) -> None:
        """Nobody waits any more for what is under way: its answers are passed over when they come."""
        self.in_flight.clear()

    def close(self) -> None:
        """Ends the conversation, also for a sender in the middle of a frame; the worker ends when it notices."""
        self._outbox.put(None)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self._sender.join()
        self._exit_code()
        self.connection.close()
        self._socket.close()

    def _exit_code(self) -> int:
        """Waits for the process to end; one that does not is killed, as it has nothing to lose."""
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _send_all(self) -> None:
        """Sends from a thread of its own: a full socket must not keep the pool from reading answers."""
        while (frame := self._outbox.get()) is not None:
            try:
                self.connection.send_bytes(frame)
            except OSError:
                return
