"""Faults: what is done about batches and devices in trouble.

A batch that ran out of memory, or that the model failed on, is cut in two; one whose worker ended is tried on another
device, and cut in two if that ends too. So the paper that does it stands alone in the end, and is given up with the
reason. A device whose worker ended gets a new one after a pause; one that fails again and again is retired for longer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.lane import Lane, Patience
from arxiv_embed.gpu.outcomes import FailedPaper, Incident
from arxiv_embed.gpu.protocol import OutOfMemory
from arxiv_embed.settings import FatalError


class NoDeviceLeft(FatalError):
    """Every device has failed again and again."""


class Faults:
    """`again` is what is to be tried again, first of all; `given_up` the papers that no device could embed."""

    def __init__(self, lanes: Sequence[Lane], patience: Patience) -> None:
        self.again: deque[Batch] = deque()
        self.given_up: deque[FailedPaper] = deque()
        self.incidents: deque[Incident] = deque()
        self._lanes = lanes
        self._patience = patience

    def begin(self, again: deque[Batch]) -> None:
        """A call begins, with a planner that takes batches from `again`."""
        self.again = again
        self.given_up.clear()

    def tell(self, on_incident: Callable[[Incident], None]) -> None:
        """Hands on what has happened since."""
        while self.incidents:
            on_incident(self.incidents.popleft())

    def report(self, lane: Lane, what: str, detail: str) -> None:
        """Notes what is to be told."""
        self.incidents.append(Incident(lane.name, what, detail))

    def ran_out(self, lane: Lane, batch: Batch, answer: OutOfMemory) -> None:
        """The device's memory was not enough for the batch, or would not have been."""
        if not answer.tried:
            lane.budget.looked(answer.other_memory)
            self.again.append(batch)
            return
        lane.budget.ran_out(batch.shape, answer.other_memory)
        self.report(lane, "out of memory", f"{len(batch.papers)} papers of {batch.shape.tokens} tokens")
        self._refused(lane, batch, f"its {batch.shape.tokens} tokens need more memory than there is on {lane.name}")

    def failed(self, lane: Lane, batch: Batch, error: str) -> None:
        """The model failed on the batch; the device is retired if it has failed on too many in a row."""
        self.report(lane, "failed", f"{len(batch.papers)} papers: {error}")
        self._refused(lane, batch, f"it could not be encoded: {error}")
        lane.failures += 1
        if lane.failures >= self._patience.failures_in_a_row:
            self._retire(lane, f"{lane.failures} batches in a row failed, the last with: {error}")

    def _refused(self, lane: Lane, batch: Batch, reason: str) -> None:
        batch.avoid = lane.name
        batch.refusals += 1
        if len(batch.papers) > 1:
            self.again.extend(batch.halves())
        elif batch.refusals < 2:
            self.again.append(batch)
        else:
            self._give_up(batch, reason)

    def lost(self, lane: Lane, what: str, why: str = "") -> None:
        """A worker is gone ("lost") or silent for too long ("hung"): what it computed is suspect, what waited behind
        goes elsewhere."""
        suspect = lane.sent[0].batch if lane.sent else None
        self.again.extendleft(batch for batch in reversed(lane.batches) if batch is not suspect)
        is_to_blame = suspect is None or not suspect.kills
        lane.stop(at_once=what == "hung")
        why = why or f"its worker ended with exit code {lane.exit_code}"
        if suspect is not None:
            self._killed(lane, suspect, f"the worker that embeds it is {what} ({why})")
        lane.losses += 1
        lane.deaths += is_to_blame
        lane.pause(time.monotonic())
        self.report(lane, what, why)
        if lane.deaths >= self._patience.deaths_in_a_row or lane.losses >= self._patience.failures_in_a_row:
            self._retire(lane, f"{lane.losses} workers in a row were lost, the last because {why}")

    def _killed(self, lane: Lane, batch: Batch, reason: str) -> None:
        batch.kills += 1
        batch.avoid = lane.name
        if batch.kills < 2:
            self.again.append(batch)
        elif len(batch.papers) > 1:
            self.again.extend(batch.halves())
        else:
            self._give_up(batch, reason)

    def _give_up(self, batch: Batch, reason: str) -> None:
        self.given_up.extend(FailedPaper(paper.index, reason) for paper in batch.papers)

    def _retire(self, lane: Lane, why: str) -> None:
        self.again.extendleft(reversed(lane.batches))
        lane.stop()
        lane.retire(time.monotonic())
        self.report(lane, "retired", why)
        if not any(other.is_usable for other in self._lanes):
            raise NoDeviceLeft(
                f"No device is left ({lane.name} was the last: {why}): what was finished is saved, run again to go on."
            )
