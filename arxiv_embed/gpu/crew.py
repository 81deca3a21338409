"""A crew: the workers of a pool, one on each device, that are told which model to load and end together."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError, FatalError
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.faults import Faults
from arxiv_embed.gpu.lane import Lane, Patience, State
from arxiv_embed.gpu.learned import LearnedLaws
from arxiv_embed.gpu.process import STOP_SECONDS, Worker
from arxiv_embed.gpu.protocol import Ended, Looked, NotReady, Ready, Setup, receive


class WorkerNotStarted(FatalError):
    """No device's worker could load the model."""


class Crew:
    """`lanes` are the workers as the pool sees them, `faults` what is done about those in trouble; `learned` is the
    folder where what was learned of memory is kept."""

    def __init__(
        self,
        files: ModelFiles,
        space: Space,
        devices: Sequence[Device],
        dtype: str,
        learned: Path | None,
        hire: Callable[[Device], Worker],
        patience: Patience,
    ) -> None:
        refuse_another_model(files, space)
        self.files = files
        self.space = space
        self.dtype = dtype
        """What "auto" has become, once the workers are ready."""
        self.laws = LearnedLaws(learned, space.fingerprint)
        self._patience = patience
        self._hire = hire
        self.lanes = [self._lane_of(device) for device in devices]
        self.faults = Faults(self.lanes, patience)
        self._learned = learned

    def _lane_of(self, device: Device) -> Lane:
        return Lane(device, self._hire, self.laws.of, self._patience)

    def start(self) -> None:
        """Starts a worker on every device and waits until they have loaded the model, all for the same arithmetic.

        Raises `WorkerNotStarted` where none can; no process is left then.
        """
        try:
            self._start_all()
            while len(chosen := {lane.ready.dtype for lane in self.lanes if lane.ready}) > 1:
                # Each has tried for itself what is faster here, and it is nearly a tie.
                self.stop()
                self.dtype = "float32"
                self._start_all()
        except BaseException:
            self.stop()
            raise
        [self.dtype] = chosen

    def stop(self) -> None:
        """Ends all workers."""
        for lane in self.lanes:
            if lane.worker is not None:
                lane.worker.hang_up()
        deadline = time.monotonic() + STOP_SECONDS
        for lane in self.lanes:
            lane.stop(max(0.0, deadline - time.monotonic()))

    def save_laws(self) -> None:
        """Keeps what was learned of memory. Where it cannot be written it is learned again, and hides nothing that
        went wrong."""
        with contextlib.suppress(ArxivEmbedError, OSError):
            self.laws.save()

    def change_model(self, files: ModelFiles, space: Space) -> None:
        """Has the running workers load another model; see `Pool.change_model`."""
        refuse_another_model(files, space)
        self.save_laws()
        self.files, self.space = files, space
        self.laws = LearnedLaws(self._learned, space.fingerprint)
        self.faults.forget()
        for lane in self.lanes:
            lane.change_model(self.setup(lane), self.laws.of, time.monotonic())
        self._wait_until_loaded()

    def restart(self, lane: Lane) -> None:
        """Starts a worker for a lane that has none."""
        lane.start(self.setup(lane), time.monotonic())

    def meet(self, devices: Sequence[Device]) -> None:
        """Takes in which devices there are now: one that has joined gets a worker, and what one that has left was sent
        goes to the others. A machine that has joined anew is another one."""
        for lane in [lane for lane in self.lanes if lane.device not in devices]:
            self.faults.left(lane)
            self.lanes.remove(lane)
        known = {lane.device for lane in self.lanes}
        for device in devices:
            if device not in known:
                lane = self._lane_of(device)
                self.lanes.append(lane)
                self.faults.report(lane, "joined", "it is a device of the cluster now")
                self.restart(lane)

    def setup(self, lane: Lane) -> Setup:
        """What its worker is told to load."""
        place = lane.device.kind, lane.device.node
        sharers = sum((other.device.kind, other.device.node) == place for other in self.lanes)
        return Setup(self.files, self.space, lane.device.torch_name, self.dtype, sharers)

    def receive_ready(self, lane: Lane) -> str:
        """Takes a loading worker's answer; returns why it cannot load the model, "" where it can."""
        assert lane.worker is not None
        try:
            answer = receive(lane.worker.connection)
        except (EOFError, OSError):
            answer = None
        if lane.changes_model and (answer is None or isinstance(answer, NotReady)):
            lane.stop()  # it was the model before that could not be loaded
            self.restart(lane)
            return ""
        if answer is None:
            self.faults.lost(lane, "lost")
            if lane.exit_code == -signal.SIGKILL:
                return (
                    f"The worker of {lane.name} was killed while it loaded model '{self.files.name}', probably as the "
                    f"machine's memory ran out: {self._remedy()}."
                )
            return f"The worker of {lane.name} ended with exit code {lane.exit_code} while it loaded the model."
        if isinstance(answer, NotReady):
            why = self._why_not(lane, answer)
            self.faults.lost(lane, "lost", why)
            return why
        if isinstance(answer, Ended):
            self.faults.lost(lane, "lost", answer.why)
            return f"The worker of {lane.name} ended while it loaded the model ({answer.why.rstrip('.')})."
        if isinstance(answer, Ready):
            lane.became_ready(answer)
        elif not isinstance(answer, Looked):  # it is of a batch that nobody waits for any more
            lane.answered(answer.number, time.monotonic())
        return ""

    def never_started(self, lane: Lane) -> str:
        """Gives a worker up that loads for too long; returns why."""
        why = f"The worker of {lane.name} did not start within {self._patience.load:.0f} s."
        self.faults.lost(lane, "hung", why)
        return why

    def _start_all(self) -> None:
        for lane in self.lanes:
            lane.ready = None
            self.restart(lane)
        self._wait_until_loaded()

    def _wait_until_loaded(self) -> None:
        why = ""
        while loading := [lane for lane in self.lanes if lane.state is State.LOADING]:
            connections = {lane.worker.connection: lane for lane in loading if lane.worker}
            soonest = max(0.0, min(lane.until for lane in loading) - time.monotonic())
            for connection in wait(list(connections), timeout=soonest):
                lane = connections[connection]  # type: ignore[index]
                why = self.receive_ready(lane) or why
            for lane in loading:
                if lane.state is State.LOADING and time.monotonic() >= lane.until:
                    why = self.never_started(lane)
        if not any(lane.state is State.READY for lane in self.lanes):
            raise WorkerNotStarted(why)

    def _why_not(self, lane: Lane, answer: NotReady) -> str:
        reason = answer.error.rstrip(".")
        if not answer.out_of_memory:
            return f"The worker of {lane.name} could not start ({reason}): check --model, --devices and --dtype."
        return f"{lane.name} has too little memory for model '{self.files.name}' ({reason}): {self._remedy()}."

    def _remedy(self) -> str:
        smaller = self.files.fallback
        if smaller is None:
            return "choose a smaller model"
        return f"its fallback makes another space beside this one, with --model {smaller}"


def refuse_another_model(files: ModelFiles, space: Space) -> None:
    """Raises `ArxivEmbedError` for a model that did not make the space: vectors of two models never mix."""
    if (files.name, files.revision) != (space.model, space.revision):
        raise ArxivEmbedError(
            f"Model '{files.name}' cannot embed in a space of model '{space.model}', as their vectors would mix: it "
            "makes a space of its own beside, in a run with --model."
        )
