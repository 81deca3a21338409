"""The pool: the devices of one run, each with its own worker process, fed and drained at the same time."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Self

from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import FloatArray, IntArray, PaperTokenizer, TokenizedPaper
from arxiv_embed.gpu.batching import Batch, pieces
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.lane import Lane, Patience, State
from arxiv_embed.gpu.learned import LearnedLaws
from arxiv_embed.gpu.planner import FixedPlanner, Planner, TokenPlanner
from arxiv_embed.gpu.process import WORKER
from arxiv_embed.gpu.protocol import Cancelled, Encoded, Failed, Looked, NotReady, OutOfMemory, Ready, Setup, receive
from arxiv_embed.settings import ArxivEmbedError, FatalError

HUNGRY_SECONDS = 0.005
PIECES_AHEAD = 4

Piece = tuple[Sequence[TokenizedPaper], Sequence[bool] | None]
"""Papers tokenized together, and which of them are urgent."""


class WorkerNotStarted(FatalError):
    """No device's worker could load the model."""


class NoDeviceLeft(FatalError):
    """Every device has failed again and again."""


@dataclass(frozen=True)
class BatchReport:
    """One batch as it was done: real tokens, tokens computed (padding included), seconds on the device; the bytes that
    the device's worker held at most, as predicted and as measured, its model included."""

    device: str
    papers: int
    tokens: int
    padded_tokens: int
    seconds: float
    predicted_memory: int
    peak_memory: int


@dataclass(frozen=True)
class Incident:
    """Something that went wrong on a device, or came right again; `what` is "out of memory", "failed", "lost",
    "hung", "retired" or "back"."""

    device: str
    what: str
    detail: str


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


@dataclass(frozen=True)
class FailedPaper:
    """A paper that no device could embed, and why."""

    index: int
    reason: str


Outcome = EncodedPaper | FailedPaper


class Pool:
    """A context manager: entering starts the workers and loads the model in each, leaving ends them.

    In production mode batches are formed by tokens and memory for whichever device would have them done first; in
    standard mode they are `batch_size` papers each, dealt round robin. `learned` is the folder where what was learned
    of memory is kept; without it nothing is.
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
        learned: Path | None = None,
        command: Sequence[str] = WORKER,
        patience: Patience | None = None,
    ) -> None:
        self.dtype = dtype
        """What "auto" has become, once the workers are ready."""
        self._files = files
        self._space = space
        self._batch_size = batch_size
        self._production = production
        self._patience = patience or Patience()
        self._laws = LearnedLaws(learned, space.fingerprint)
        self._lanes = [Lane(device, command, self._laws.of, self._patience) for device in devices]
        self._incidents: deque[Incident] = deque()
        self._failed: deque[FailedPaper] = deque()
        self._stuck_since: float | None = None

    # -- the workers

    def __enter__(self) -> Self:
        try:
            self._start_all()
            while len(chosen := {lane.ready.dtype for lane in self._lanes if lane.ready}) > 1:
                # Each has tried for itself what is faster here, and it is nearly a tie.
                self._stop_all()
                self.dtype = "float32"
                self._start_all()
        except BaseException:
            self._stop_all()
            raise
        [self.dtype] = chosen
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_all()
        with contextlib.suppress(ArxivEmbedError):  # it would be learned again, and hides nothing that went wrong
            self._laws.save()

    def _start_all(self) -> None:
        """Waits until every worker has loaded the model or failed to; raises `WorkerNotStarted` if all have."""
        why = ""
        for lane in self._lanes:
            lane.ready = None
            self._start(lane)
        while loading := [lane for lane in self._lanes if lane.state is State.LOADING]:
            connections = {lane.worker.connection: lane for lane in loading if lane.worker}
            for connection in wait(list(connections), timeout=self._patience.load):
                lane = connections[connection]  # type: ignore[index]
                why = self._receive_ready(lane) or why
            for lane in loading:
                if lane.state is State.LOADING and time.monotonic() >= lane.until:
                    why = f"The worker of {lane.name} did not start within {self._patience.load:.0f} s."
                    self._lose(lane, "hung", why)
        if not any(lane.state is State.READY for lane in self._lanes):
            raise WorkerNotStarted(why)

    def _start(self, lane: Lane) -> None:
        sharers = sum(other.device.kind == lane.device.kind for other in self._lanes)
        lane.start(Setup(self._files, lane.device.torch_name, self.dtype, sharers), time.monotonic())

    def _receive_ready(self, lane: Lane) -> str:
        """Takes a starting worker's first answer; returns why it cannot start, "" where it can."""
        assert lane.worker is not None
        try:
            answer = receive(lane.worker.connection)
        except (EOFError, OSError):
            self._lose(lane, "lost")
            return f"The worker of {lane.name} ended with exit code {lane.exit_code} while it loaded the model."
        if isinstance(answer, NotReady):
            reason = answer.error.rstrip(".")
            why = f"The worker of {lane.name} could not start ({reason}): check --model, --devices and --dtype."
            self._lose(lane, "failed", why)
            return why
        assert isinstance(answer, Ready)
        lane.became_ready(answer)
        return ""

    def _stop_all(self) -> None:
        for lane in self._lanes:
            if lane.worker is not None:
                lane.worker.hang_up()
        for lane in self._lanes:
            lane.stop()

    # -- encoding

    def encode(
        self,
        texts: Sequence[str],
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        urgent: Sequence[bool] | None = None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
    ) -> Iterator[Outcome]:
        """Embeds the text of every paper once; they come back in the order they finish, those first that are `urgent`.

        A paper that no device could embed comes back with the reason. Raises `NoDeviceLeft` where no device is of use
        any more; what was yielded before stands. Closed before its end, it leaves the pool ready for the next call.
        """
        tokenizer = PaperTokenizer(self._files, self._space)

        def tokenized() -> Iterator[Piece]:
            order = urgent_first(urgent) if urgent is not None and any(urgent) else range(len(texts))
            for piece in pieces(len(order)):
                places = order[piece.start : piece.stop]
                papers = tokenizer.tokenize([texts[place] for place in places], places)
                yield papers, None if urgent is None else [urgent[place] for place in places]

        return self.encode_tokenized(tokenized(), on_batch, on_incident)

    def encode_tokenized(
        self,
        tokenized: Iterator[Piece],
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
    ) -> Iterator[Outcome]:
        """The same for papers that are tokenized already, or are while this goes on."""
        self._failed.clear()
        planner: Planner = TokenPlanner(self._batch_size) if self._production else FixedPlanner(self._batch_size)
        try:
            with _Backlog(tokenized) as backlog:
                while True:
                    while planner.wants() and (piece := backlog.take()) is not None:
                        planner.add(*piece)
                    planner.ended = backlog.finished
                    now = time.monotonic()
                    self._mend(planner, now)
                    self._dispatch(planner, now)
                    while self._incidents:
                        on_incident(self._incidents.popleft())
                    while self._failed:
                        yield self._failed.popleft()
                    under_way = any(lane.batches for lane in self._lanes)
                    if planner.ended and not planner.waiting and not under_way:
                        return
                    for lane in self._wait(planner, now):
                        yield from self._take_answer(lane, planner, on_batch)
        finally:
            for lane in self._lanes:
                lane.forget()

    def _dispatch(self, planner: Planner, now: float) -> None:
        """Gives every lane what it has room for, the one that is free first going first."""
        given = True
        while given:
            given = False
            for lane in sorted(self._lanes, key=lambda lane: (len(lane.sent), lane.seconds_left(now))):
                if lane.has_room and (batch := planner.next_batch(lane, self._lanes, now)):
                    lane.send(batch, now, checked=self._production)
                    given = True
                    break
        self._try_the_impossible(planner, now)

    def _try_the_impossible(self, planner: Planner, now: float) -> None:
        """Where papers wait and no device has room for any: waits a while for memory that others hold, then tries."""
        idle = [lane for lane in self._lanes if lane.is_idle]
        choosing = planner.ended or not planner.wants()
        if not planner.waiting or not choosing or len(idle) < sum(lane.is_usable for lane in self._lanes):
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        batch = planner.shortest()
        may_come = any(lane.budget.would_fit_alone(batch.shape) for lane in idle)
        if may_come and now - self._stuck_since < self._patience.memory:
            planner.again.appendleft(batch)
            return
        self._stuck_since = None
        lane = max(idle, key=lambda lane: (lane.name != batch.avoid, lane.budget.free))
        lane.send(batch, now, checked=False)

    def _wait(self, planner: Planner, now: float) -> list[Lane]:
        """The lanes whose workers have said something, or ended; none after as long as it takes for something else to
        be due."""
        due = [lane.until for lane in self._lanes if lane.state is not State.READY]
        due += [lane.deadline for lane in self._lanes if lane.state is State.READY and lane.sent]
        connections = {lane.worker.connection: lane for lane in self._lanes if lane.worker is not None}
        seconds = min(due, default=now + self._patience.look) - now
        if planner.waiting or not planner.ended:
            seconds = min(seconds, self._patience.look)
        if not planner.ended and any(lane.has_room for lane in self._lanes):
            seconds = min(seconds, HUNGRY_SECONDS)  # a finished tokenization wakes nobody
        said = wait(list(connections), timeout=max(0.0, seconds))
        return [connections[connection] for connection in said]  # type: ignore[index]

    def _take_answer(
        self, lane: Lane, planner: Planner, on_batch: Callable[[BatchReport], None]
    ) -> Iterator[EncodedPaper]:
        assert lane.worker is not None
        if lane.state is State.LOADING:
            if not self._receive_ready(lane):
                self._report(lane, "back", "its worker is ready again")
            return
        now = time.monotonic()
        try:
            answer = receive(lane.worker.connection)
        except (EOFError, OSError):  # the latter where it was killed in the middle of a message
            self._lost_with_work(lane, planner, "lost")
            return
        if isinstance(answer, Looked):
            lane.budget.looked(answer.other_memory)
            return
        sent = lane.answered(answer.number, now)
        batch = sent.batch
        if isinstance(answer, Encoded):
            lane.succeeded()
            if batch is None:
                return
            lane.speed.observe(batch.shape, max(answer.seconds, 1e-6))
            lane.budget.done(batch.shape, answer.peak_memory, answer.other_memory)
            assert lane.ready is not None
            vectors = lane.worker.slots[sent.slot].get_vectors(answer.rows, lane.ready.width, lane.ready.vector_type)
            on_batch(
                BatchReport(
                    device=lane.name,
                    papers=len(batch.papers),
                    tokens=batch.shape.tokens,
                    padded_tokens=answer.computed_tokens,
                    seconds=answer.seconds,
                    predicted_memory=sent.predicted_peak,
                    peak_memory=answer.peak_memory,
                )
            )
            yield from _split(batch, vectors)
        elif batch is not None and isinstance(answer, OutOfMemory):
            self._ran_out(lane, batch, answer, planner)
        elif batch is not None and isinstance(answer, Failed):
            self._failed_on(lane, batch, answer.error, planner)
        if isinstance(answer, Failed) and answer.ends:
            self._lost_with_work(lane, planner, "lost", f"its device was of no more use: {answer.error}")
        assert not isinstance(answer, Cancelled) or batch is None

    # -- what goes wrong

    def _ran_out(self, lane: Lane, batch: Batch, answer: OutOfMemory, planner: Planner) -> None:
        batch.avoid = lane.name
        if not answer.tried:
            lane.budget.looked(answer.other_memory)
            planner.again.append(batch)
            return
        lane.budget.ran_out(batch.shape, answer.other_memory)
        self._report(lane, "out of memory", f"{len(batch.papers)} papers of {batch.shape.tokens} tokens")
        batch.refusals += 1
        if len(batch.papers) > 1:
            planner.again.extend(batch.halves())
        elif batch.refusals < 2:
            planner.again.append(batch)
        else:
            length = batch.shape.tokens
            self._give_up(batch, f"its {length} tokens need more memory than {lane.name} has, twice tried")

    def _failed_on(self, lane: Lane, batch: Batch, error: str, planner: Planner) -> None:
        lane.failures += 1
        batch.avoid = lane.name
        batch.refusals += 1
        self._report(lane, "failed", f"{len(batch.papers)} papers: {error}")
        if len(batch.papers) > 1:
            planner.again.extend(batch.halves())
        elif batch.refusals < 2:
            planner.again.append(batch)
        else:
            self._give_up(batch, f"it could not be encoded: {error}")
        if lane.failures >= self._patience.failures_in_a_row:
            planner.again.extendleft(reversed(lane.batches))
            self._retire(lane, f"{lane.failures} batches in a row failed, the last with: {error}")

    def _lost_with_work(self, lane: Lane, planner: Planner, what: str, why: str = "") -> None:
        """A worker is gone: what it computed is suspect, what waited behind goes elsewhere."""
        suspect = lane.sent[0].batch if lane.sent else None
        behind = [batch for batch in lane.batches if batch is not suspect]
        planner.again.extendleft(reversed(behind))
        self._lose(lane, what, why, is_to_blame=suspect is None or not suspect.kills)
        if suspect is None:
            return
        suspect.kills += 1
        suspect.avoid = lane.name
        if suspect.kills < 2:
            planner.again.append(suspect)
        elif len(suspect.papers) > 1:
            planner.again.extend(suspect.halves())
        else:
            self._give_up(suspect, f"the worker that embeds it is {what} ({why or lane.end})")

    def _lose(self, lane: Lane, what: str, why: str = "", *, is_to_blame: bool = True) -> None:
        """Ends a lane's worker, and lets another be started after a pause; retires the device if it is to blame for
        too many in a row."""
        lane.stop(at_once=what == "hung")
        lane.losses += 1
        lane.deaths += is_to_blame
        lane.pause(time.monotonic())
        self._report(lane, what, why or lane.end)
        if lane.deaths >= self._patience.deaths_in_a_row or lane.losses >= self._patience.failures_in_a_row:
            self._retire(lane, f"{lane.losses} workers in a row were lost, the last because {why or lane.end}")

    def _retire(self, lane: Lane, why: str) -> None:
        lane.stop()
        lane.retire(time.monotonic())
        self._report(lane, "retired", why)
        if not any(other.is_usable for other in self._lanes):
            raise NoDeviceLeft(
                f"No device is left ({lane.name} was the last: {why}): what was finished is saved, run again to go on."
            )

    def _give_up(self, batch: Batch, reason: str) -> None:
        self._failed.extend(FailedPaper(paper.index, reason) for paper in batch.papers)

    def _mend(self, planner: Planner, now: float) -> None:
        """Starts workers whose pause is over, ends those that are overdue, and looks at memory that others hold."""
        for lane in self._lanes:
            if lane.state in (State.PAUSED, State.RETIRED) and now >= lane.until:
                self._start(lane)
            elif lane.state is State.LOADING and now >= lane.until:
                self._lose(lane, "hung", f"it did not start within {self._patience.load:.0f} s")
            elif lane.state is State.READY and lane.sent and now >= lane.deadline:
                seconds = now - lane.begun
                self._lost_with_work(lane, planner, "hung", f"it did not answer within {seconds:.0f} s")
            elif lane.is_idle and planner.waiting:
                lane.look(now)

    def _report(self, lane: Lane, what: str, detail: str) -> None:
        self._incidents.append(Incident(lane.name, what, detail))


def urgent_first(urgent: Sequence[bool]) -> list[int]:
    """The order in which papers are tokenized: urgent ones first, every fourth place for one that is not."""
    first = [place for place, is_urgent in enumerate(urgent) if is_urgent]
    rest = deque(place for place, is_urgent in enumerate(urgent) if not is_urgent)
    order = []
    for count, place in enumerate(first, 1):
        order.append(place)
        if count % 3 == 0 and rest:
            order.append(rest.popleft())
    return [*order, *rest]


def _split(batch: Batch, vectors: FloatArray) -> Iterator[EncodedPaper]:
    row = 0
    for paper in batch.papers:
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
    """Papers that a thread tokenizes ahead of the devices, a bounded number of pieces."""

    def __init__(self, tokenized: Iterator[Piece]) -> None:
        self._tokenized = tokenized
        self._queue: queue.Queue[Piece | BaseException | None] = queue.Queue(PIECES_AHEAD)
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

    def take(self) -> Piece | None:
        """The next piece; None where there is none yet, or none any more."""
        if self.finished:
            return None
        try:
            item = self._queue.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        self.finished = item is None
        return item

    def _fill(self) -> None:
        try:
            for piece in self._tokenized:
                self._queue.put(piece)
                if self._abandoned.is_set():
                    return
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001 - carried to the thread that takes them
            self._queue.put(error)
