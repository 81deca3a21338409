"""The pool: the devices of one run, each with its own worker process, fed and drained at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Self

from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.gpu.backlog import Backlog, Lengths, Piece, tokenized
from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.crew import Crew
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.faults import NoDeviceLeft
from arxiv_embed.gpu.lane import Lane, Patience, Sent, State
from arxiv_embed.gpu.orders import obey
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident, Outcome, encoded_papers
from arxiv_embed.gpu.planner import FixedPlanner, Planner, TokenPlanner
from arxiv_embed.gpu.process import Worker, WorkerProcess
from arxiv_embed.gpu.protocol import Encoded, Ended, Failed, Looked, OutOfMemory, receive
from arxiv_embed.gpu.watch import Watch
from arxiv_embed.settings import DEFAULT_BATCH_SIZE

TICK_SECONDS = 1.0
"""Whoever takes the papers is called at least this often, so that what is finished can be saved in time."""

HUNGRY_SECONDS = 0.005
"""A finished tokenization wakes nobody: a device that has room looks again this soon."""


class Pool:
    """A context manager: entering starts the workers and loads the model in each, leaving ends them.

    In production mode batches are formed by tokens and memory for whichever device would have them done first; in
    standard mode they are `batch_size` papers each, dealt round robin. `learned` is the folder where what was learned
    of memory is kept; without it nothing is. `lengths` tells about how long texts are, by which they are ordered before
    they are tokenized, in production mode; without it they are taken as they come. `hire` starts a
    worker on a device. `watch` looks after the devices as long as the pool is open. `members` tells which devices there
    are now, where they may come and go.
    """

    def __init__(
        self,
        files: ModelFiles,
        space: Space,
        devices: Sequence[Device],
        *,
        dtype: str = "auto",
        batch_size: int = DEFAULT_BATCH_SIZE,
        production: bool = True,
        learned: Path | None = None,
        lengths: Lengths | None = None,
        hire: Callable[[Device], Worker] = WorkerProcess,
        patience: Patience | None = None,
        watch: Watch | None = None,
        members: Callable[[], Sequence[Device]] | None = None,
    ) -> None:
        self._watch = watch
        self._members = members
        self._alone_since: float | None = None
        self._patience = patience or Patience()
        self._crew = Crew(files, space, devices, dtype, learned, hire, self._patience)
        self._lanes, self._faults = self._crew.lanes, self._crew.faults
        self._batch_size = batch_size
        self._production = production
        self._lengths = lengths
        self._stuck_since: float | None = None
        self._waiting = 0

    @property
    def dtype(self) -> str:
        """The arithmetic's type: what "auto" has become, once the workers are ready."""
        return self._crew.dtype

    @property
    def packed(self) -> bool:
        """Whether all devices compute their batches without padding, once the workers are ready."""
        return all(lane.ready.packed for lane in self._lanes if lane.ready)

    @cached_property
    def _tokenizer(self) -> PaperTokenizer:
        return PaperTokenizer(self._crew.files, self._crew.space)

    def __enter__(self) -> Self:
        if self._watch is not None:
            self._watch.begin(self._lanes, lambda: self._waiting)
        try:
            self._crew.start()
        except BaseException:
            self._end_watch()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_watch()
        self._crew.stop()
        self._crew.save_laws()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.end()

    def change_model(self, files: ModelFiles, space: Space, lengths: Lengths | None = None) -> None:
        """Has the running workers load another model, to embed in a space of that model's; the arithmetic stays.

        No process is started but where one had ended, and the memory of the model before is free before the other is
        loaded. `lengths` are the other model's. To be called between two calls of `encode`. Raises `ArxivEmbedError`
        where the space is another model's, and `WorkerNotStarted` where no device can load the model: another one may
        be tried then.
        """
        self._crew.change_model(files, space)
        self._lengths = lengths
        self.__dict__.pop("_tokenizer", None)

    # -- encoding

    def encode(
        self,
        texts: Sequence[str],
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        urgent: Sequence[bool] | None = None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Iterator[Outcome]:
        """Embeds the text of every paper once; they come back in the order they finish, those first that are `urgent`.

        A paper that no device could embed comes back with the reason. Raises `NoDeviceLeft` where no device is of use
        any more; what was yielded before stands. `on_tick` is called every `TICK_SECONDS` at least.
        Closed before its end, it leaves the pool ready for the next call.
        """
        lengths = self._lengths if self._production else None
        papers = tokenized(self._tokenizer, texts, urgent, lengths)
        return self.encode_tokenized(papers, on_batch, on_incident, on_tick, len(texts))

    def encode_tokenized(
        self,
        tokenized: Iterator[Piece],
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
        on_tick: Callable[[], None] = lambda: None,
        coming: int = 0,
    ) -> Iterator[Outcome]:
        """The same for papers that are tokenized already, or are while this goes on; `coming` is how many there are, as
        far as is known."""
        planner: Planner = TokenPlanner(self._batch_size) if self._production else FixedPlanner(self._batch_size)
        planner.coming = coming
        faults = self._faults
        faults.begin(planner.again)
        try:
            with Backlog(tokenized) as backlog:
                while True:
                    on_tick()
                    while planner.wants() and (piece := backlog.take()) is not None:
                        planner.add(*piece)
                    planner.ended = backlog.finished
                    now = time.monotonic()
                    self._meet(now)
                    self._mend(planner, now)
                    self._dispatch(planner, now)
                    self._waiting = planner.waiting
                    faults.tell(on_incident)
                    while faults.given_up:
                        yield faults.given_up.popleft()
                    under_way = any(lane.batches for lane in self._lanes)
                    if planner.ended and not planner.waiting and not under_way:
                        return
                    for lane in self._wait(planner, now):
                        yield from self._take_answer(lane, planner, on_batch)
        except NoDeviceLeft:
            faults.tell(on_incident)
            raise
        finally:
            for lane in self._lanes:
                lane.forget()

    def _meet(self, now: float) -> None:
        """Goes by who is there now. Raises `NoDeviceLeft` where nobody was for too long."""
        if self._members is None:
            return
        self._crew.meet(self._members())
        if self._lanes:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > self._patience.alone:
            raise NoDeviceLeft(
                f"The cluster has had no device for {self._patience.alone:.0f} s: what was finished is saved, run "
                "again to go on."
            )

    def _mend(self, planner: Planner, now: float) -> None:
        """Does what the watch asks for, starts workers whose pause is over, ends those that are overdue, and looks at
        memory that others hold."""
        for order in self._watch.take(self._lanes, now) if self._watch is not None else ():
            obey(order, self._lanes, self._faults, now)
        for lane in self._lanes:
            if lane.state in (State.PAUSED, State.RETIRED) and now >= lane.until:
                self._crew.restart(lane)
            elif lane.has_spoken:
                continue  # whoever came late may be the pool itself, after a pause of its own
            elif lane.state is State.LOADING and now >= lane.until:
                self._crew.never_started(lane)
            elif lane.state is State.READY and lane.sent and now >= lane.deadline:
                self._faults.lost(lane, "hung", f"it did not answer within {now - lane.begun:.0f} s")
            elif lane.is_idle and planner.waiting:
                lane.look(now)

    def _dispatch(self, planner: Planner, now: float) -> None:
        """Gives every lane what it has room for, batch by batch in turn, the one that is free first going first."""
        given = True
        while given:
            given = False
            for lane in sorted(self._lanes, key=lambda lane: (len(lane.sent), lane.seconds_left(now))):
                if lane.doubt and not lane.rests:
                    self._probe(lane, now)
                elif lane.has_room and (batch := planner.next_batch(lane, self._lanes, now)):
                    lane.send(batch, now, checked=self._production)
                    given = True
        self._try_the_impossible(planner, now)

    def _probe(self, lane: Lane, now: float) -> None:
        """Tries a doubted device with a paper that was embedded before, and with nothing else."""
        if lane.is_idle and self._faults.proven is not None:
            lane.send(Batch([self._faults.proven], probe=True), now, checked=False)

    def _try_the_impossible(self, planner: Planner, now: float) -> None:
        """Where papers wait and no device has room for any: waits a while for memory that others hold, then tries. A
        device that rests may have room when it is cool, and is waited for."""
        idle = [lane for lane in self._lanes if lane.is_idle and not lane.rests]
        choosing = planner.ended or not planner.wants()
        if not idle or not planner.waiting or not choosing or len(idle) < sum(lane.is_usable for lane in self._lanes):
            self._stuck_since = None
            return
        if self._stuck_since is None:
            self._stuck_since = now
            for lane in idle:
                self._faults.report(lane, "waiting", f"for memory: {lane.budget.free:,} bytes are free on it")
        batch = planner.shortest()
        may_come = any(lane.budget.would_fit_alone(batch.shape) for lane in idle)
        if may_come and now - self._stuck_since < self._patience.memory:
            planner.again.appendleft(batch)
            return
        self._stuck_since = None
        lane = max(idle, key=lambda lane: (lane.name not in batch.avoid, lane.budget.free))
        lane.send(batch, now, checked=False)

    def _wait(self, planner: Planner, now: float) -> list[Lane]:
        """The lanes whose workers have said something, or ended; none after as long as it takes for something else to
        be due."""
        due = [lane.until for lane in self._lanes if lane.state is not State.READY]
        due += [lane.deadline for lane in self._lanes if lane.state is State.READY and lane.sent]
        connections = {lane.worker.connection: lane for lane in self._lanes if lane.worker is not None}
        seconds = min(min(due, default=now + self._patience.look) - now, TICK_SECONDS)
        if planner.waiting or not planner.ended:
            seconds = min(seconds, self._patience.look)
        if not planner.ended and any(lane.has_room for lane in self._lanes):
            seconds = min(seconds, HUNGRY_SECONDS)
        if self._members is not None:
            seconds = min(seconds, self._patience.look)
        if not connections:
            time.sleep(max(0.0, seconds))
        said = wait(list(connections), timeout=max(0.0, seconds))
        return [connections[connection] for connection in said]  # type: ignore[index]

    def _take_answer(
        self, lane: Lane, planner: Planner, on_batch: Callable[[BatchReport], None]
    ) -> Iterator[EncodedPaper]:
        """Takes one message from a worker, or its end."""
        assert lane.worker is not None
        if lane.state is State.LOADING:
            self._crew.receive_ready(lane)
            if lane.ready is not None and lane.is_idle:
                self._faults.report(lane, "back", "its worker is ready again")
            return
        try:
            answer = receive(lane.worker.connection)
        except (EOFError, OSError):  # the latter where it was killed in the middle of a message
            self._faults.lost(lane, "lost")
            return
        if isinstance(answer, Looked):
            lane.budget.looked(answer.other_memory)
            return
        if isinstance(answer, Ended):
            self._faults.lost(lane, "lost", answer.why)
            return
        sent = lane.answered(answer.number, time.monotonic())
        if isinstance(answer, Encoded):
            lane.succeeded()
            if sent.batch is not None and sent.batch.probe:
                lane.proved_itself()
            elif sent.batch is not None:
                self._faults.proved(sent.batch)
                yield from _finished(lane, sent, sent.batch, answer, planner.waiting, on_batch)
        elif sent.batch is not None and isinstance(answer, OutOfMemory):
            self._faults.ran_out(lane, sent.batch, answer)
        elif sent.batch is not None and isinstance(answer, Failed):
            self._faults.failed(lane, sent.batch, answer.error)
        if isinstance(answer, Failed) and answer.ends and lane.state is State.READY:
            why = f"its device was of no more use: {answer.error}"
            self._faults.lost(lane, "lost", why, computing=False)


def _finished(
    lane: Lane, sent: Sent, batch: Batch, answer: Encoded, waiting: int, on_batch: Callable[[BatchReport], None]
) -> Iterator[EncodedPaper]:
    """Learns from a batch that was done, tells of it, and gives its papers."""
    assert lane.ready is not None
    assert lane.worker is not None
    vectors = lane.worker.slots[sent.slot].get_vectors(answer.rows, lane.ready.width, lane.ready.vector_type)
    lane.speed.observe(batch.shape, max(answer.seconds, 1e-6))
    lane.budget.done(batch.shape, answer.peak_memory, answer.other_memory)
    lane.done += 1
    on_batch(
        BatchReport(
            device=lane.name,
            papers=len(batch.papers),
            tokens=batch.shape.tokens,
            padded_tokens=answer.computed_tokens,
            seconds=answer.seconds,
            predicted_memory=sent.predicted_peak,
            peak_memory=answer.peak_memory,
            number=lane.done,
            longest=batch.shape.longest,
            waiting=waiting,
        )
    )
    yield from encoded_papers(batch, vectors)
