"""A lane: one device as the pool sees it, with what it is sent, what it has learned and what has gone wrong there."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from arxiv_embed.encoding.batch import pack
from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.budget import Budget, MemoryState
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.memory import MemoryLaw, Shape
from arxiv_embed.gpu.process import DEPTH, STOP_SECONDS, Worker
from arxiv_embed.gpu.protocol import Cancel, Look, Ready, Setup, Work
from arxiv_embed.gpu.slots import bytes_needed
from arxiv_embed.gpu.speed import Speed

FORGIVEN = 0.1
"""A batch that was done makes good so much of a lost worker."""


class State(Enum):
    LOADING = "loading"
    READY = "ready"
    PAUSED = "paused"
    """Its worker ended; another is started after a pause."""
    RETIRED = "retired"
    """It failed again and again; it is tried again much later."""


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds, and how often they may fail, before the pool does something about it."""

    load: float = 600.0
    first_batch: float = 300.0
    hang_floor: float = 30.0
    hang_factor: float = 10.0
    pause: float = 1.0
    longest_pause: float = 60.0
    deaths: float = 4.0
    """Workers lost, those not counted that were made good."""
    failures_in_a_row: int = 12
    """More than the times that one bad paper can make a batch of 256 fail while it is sought."""
    refused_in_a_row: int = 3
    tries_beside_others: int = 5
    """Of a paper that would fit if nobody else used the device."""
    retired: float = 300.0
    look: float = 0.5
    alone: float = 300.0
    """Without any device of a cluster."""
    memory: float = 60.0
    """For memory that others hold to be given back to a paper that needs it."""


@dataclass
class Sent:
    """A batch under way. One that nobody waits for any more has no `batch`: its slot is not free before the worker
    says so."""

    number: int
    slot: int
    batch: Batch | None
    predicted_peak: int


class Lane:
    """`hire` starts a worker on its device; `law_of` gives the memory law that all devices of a type share."""

    def __init__(
        self, device: Device, hire: Callable[[Device], Worker], law_of: Callable[[Ready], MemoryLaw], patience: Patience
    ) -> None:
        self.device = device
        self.name = device.name
        self.state = State.PAUSED
        self.until = 0.0
        """When a pause ends, in seconds of the monotonic clock; while loading, when it has taken too long."""
        self.losses = 0
        """Workers lost in a row; `deaths` are those that no batch is to blame for, and that are not forgiven yet."""
        self.deaths = 0.0
        self.failures = 0
        self.refused = 0
        """Batches in a row that its worker had no memory for, though they should have fitted."""
        self.doubt = ""
        """Why it is to show, by a paper that was embedded before, that it can still do that."""
        self.retirements = 0
        self.rests_since: float | None = None
        """From when on it gets no batch until it is cool; what is under way is finished."""
        self.done = 0
        """Batches, of all its workers."""
        self.exit_code = 0
        """The last worker's that ended."""
        self.sent: deque[Sent] = deque()
        self.begun = 0.0
        """When the worker began what it computes now."""
        self.ready: Ready | None = None
        self.worker: Worker | None = None
        self._hire = hire
        self._law_of = law_of
        self._patience = patience
        self._numbers = 0
        self._unanswered = 0
        """How many models it was told to load and has not."""
        self._looked = 0.0

    # -- the worker's life

    def start(self, setup: Setup, now: float) -> None:
        self.worker = self._hire(self.device)
        self.worker.send(setup)
        self._unanswered = 1
        self.state, self.until = State.LOADING, now + self._patience.load

    def change_model(self, setup: Setup, law_of: Callable[[Ready], MemoryLaw], now: float) -> None:
        """Has the worker load another model, or starts one that does; what was learned, and what failed, is of the one
        before."""
        self._law_of = law_of
        self.ready = None
        self.doubt = ""
        self.losses = self.failures = self.refused = self.retirements = 0
        self.deaths = 0.0
        if self.worker is None:
            self.start(setup, now)
            return
        self.worker.send(setup)
        self._unanswered += 1
        self.state, self.until = State.LOADING, now + self._patience.load

    def became_ready(self, ready: Ready) -> None:
        """The worker has loaded a model: the one that it was told last, or one before it."""
        self._unanswered = max(0, self._unanswered - 1)
        if self._unanswered:
            return
        state = MemoryState(ready.total_memory, ready.base_memory, ready.other_memory, ready.keeps_memory)
        if self.ready is None:
            self.speed = Speed(packed=ready.packed)
            self.budget = Budget(self._law_of(ready), state)
        else:
            self.budget.begin_again(state)
        self.ready = ready
        self.state = State.READY

    @property
    def changes_model(self) -> bool:
        """Whether the worker still owes an answer about a model before the one that it was told last."""
        return self._unanswered > 1

    def stop(self, within: float = STOP_SECONDS) -> None:
        """Ends the worker, which has so many seconds for it, and forgets what it was sent."""
        self.sent.clear()
        if self.worker is not None:
            self.exit_code = self.worker.end(within)
            self.worker = None
            if self.exit_code == -signal.SIGKILL and within and self.ready is not None:
                self.budget.killed()

    def succeeded(self) -> None:
        """A batch was done here: what failed before is forgiven, lost workers little by little."""
        self.losses = self.failures = self.refused = 0
        self.deaths = max(0.0, self.deaths - FORGIVEN)
        if not self.deaths:
            self.retirements = 0

    def proved_itself(self) -> None:
        """It can still embed a paper that was embedded before: it was not to blame for what happened here."""
        self.doubt, self.deaths = "", 0.0

    def pause(self, now: float) -> None:
        """Its worker is gone: a new one is due after a pause that grows with every failure in a row."""
        seconds = min(self._patience.longest_pause, self._patience.pause * 2 ** max(0.0, self.deaths - 1))
        self.state, self.until = State.PAUSED, now + seconds

    def retire(self, now: float) -> None:
        self.state = State.RETIRED
        self.until = now + self._patience.retired * 2**self.retirements
        self.retirements += 1

    @property
    def is_usable(self) -> bool:
        """Whether it computes now or will soon."""
        return self.state is not State.RETIRED

    @property
    def rests(self) -> bool:
        return self.rests_since is not None

    # -- batches

    @property
    def batches(self) -> list[Batch]:
        """Under way and waited for, in order."""
        return [sent.batch for sent in self.sent if sent.batch is not None]

    @property
    def has_room(self) -> bool:
        return self.takes_batches and len(self.sent) < DEPTH

    @property
    def takes_batches(self) -> bool:
        """Whether it computes now, and gets more to compute."""
        return self.state is State.READY and not self.rests

    @property
    def has_spoken(self) -> bool:
        """Whether something of its worker waits to be read."""
        return self.worker is not None and self.worker.connection.poll()

    @property
    def is_idle(self) -> bool:
        return self.state is State.READY and not self.sent

    def send(self, batch: Batch, now: float, *, checked: bool = True) -> None:
        """Sends a batch; `checked` lets the worker refuse it if its device has less memory by then."""
        assert self.worker is not None
        assert self.ready is not None
        tokens = pack(batch.papers)
        slot = self.worker.free_slots.pop()
        shared = self.worker.slots[slot]
        shared.grow(bytes_needed(tokens, self.ready.width, self.ready.vector_type))
        shared.put_batch(tokens)
        needs = round(self.budget.law.expected(batch.shape)) if checked else 0
        sent = Sent(self._numbers, slot, batch, self.budget.predicted_peak(batch.shape))
        if not self.sent:
            self.begun = now
        self.sent.append(sent)
        self._numbers += 1
        sizes = len(tokens.lengths), len(tokens.spans), len(tokens.ids)
        self.worker.send(Work(sent.number, slot, *sizes, needs))

    def answered(self, number: int, now: float) -> Sent:
        """Takes off what an answer is about."""
        assert self.worker is not None
        sent = next(sent for sent in self.sent if sent.number == number)
        self.sent.remove(sent)
        self.worker.free_slots.append(sent.slot)
        self.begun = now
        return sent

    def withdraw(self, batch: Batch) -> None:
        """Takes back a batch that the worker has not begun; should it have, its answer is passed over."""
        assert self.worker is not None
        for sent in self.sent:
            if sent.batch is batch:
                sent.batch = None
                self.worker.send(Cancel(sent.number))

    def forget(self) -> None:
        """Nobody waits any more for what is under way."""
        for batch in self.batches:
            self.withdraw(batch)

    def look(self, now: float) -> None:
        """Asks, not too often, what others hold of the device's memory."""
        if now - self._looked >= self._patience.look and self.worker is not None:
            self._looked = now
            self.worker.send(Look())

    # -- predictions

    def most_papers(self, batch_size: int) -> int:
        """Of a batch here now: fewer where the device is to do less."""
        return max(1, round(batch_size * self.budget.scale)) if self.budget.is_kept_small else batch_size

    def fits(self, shape: Shape) -> bool:
        """Whether a batch of this shape may be sent here now."""
        assert self.ready is not None
        best = self.ready.best_tokens * (self.budget.scale if self.budget.is_kept_small else 1.0)
        if best and shape.papers > 1 and self.speed.computed(shape) > best:
            return False
        return self.budget.fits(shape)

    def seconds_left(self, now: float) -> float:
        """Predicted until what is under way is done."""
        if not self.sent:
            return 0.0
        seconds = [self.speed.seconds(sent.batch.shape) for sent in self.sent if sent.batch is not None]
        return max(0.0, sum(seconds) - (now - self.begun))

    @property
    def deadline(self) -> float:
        """When what the worker computes is overdue, by its own history."""
        batch = self.sent[0].batch
        if batch is None or not self.speed.rate:
            return self.begun + self._patience.first_batch
        seconds = self._patience.hang_factor * self.speed.seconds(batch.shape)
        return self.begun + max(self._patience.hang_floor, seconds)
