"""Faults: what is done about batches and devices in trouble.

A batch that ran out of memory, or that the model failed on, is cut in two; one whose worker ended is tried on another
device, and cut in two if that ends too. So the paper that does it stands alone in the end, and is given up with the
reason. A device whose worker ended gets a new one after a pause; one that fails again and again is retired for longer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.errors import FatalError
from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.lane import Lane, Patience, State
from arxiv_embed.gpu.outcomes import FailedPaper, Incident
from arxiv_embed.gpu.process import STOP_SECONDS
from arxiv_embed.gpu.protocol import OutOfMemory


class NoDeviceLeft(FatalError):
    """Every device has failed again and again."""


class Faults:
    """`again` is what is to be tried again, first of all; `given_up` the papers that no device could embed."""

    def __init__(self, lanes: Sequence[Lane], patience: Patience) -> None:
        self.again: deque[Batch] = deque()
        self.given_up: deque[FailedPaper] = deque()
        self.incidents: deque[Incident] = deque()
        self.proven: TokenizedPaper | None = None
        """A short paper that was embedded: what a doubted device is tried with."""
        self._lanes = lanes
        self._patience = patience

    def begin(self, again: deque[Batch]) -> None:
        """A call begins, with a planner that takes batches from `again`. Raises `NoDeviceLeft` where none is."""
        self.again = again
        self.given_up.clear()
        if self._lanes and not any(lane.is_usable for lane in self._lanes):
            raise NoDeviceLeft("No device is left: all have failed again and again.")

    def forget(self) -> None:
        """Another model follows: only what was not told yet stays."""
        self.again = deque()
        self.given_up.clear()
        self.proven = None

    def proved(self, batch: Batch) -> None:
        """A batch was done."""
        shortest = min(batch.papers, key=lambda paper: len(paper.ids))
        if self.proven is None or len(shortest.ids) < len(self.proven.ids):
            self.proven = shortest

    def tell(self, on_incident: Callable[[Incident], None]) -> None:
        """Hands on what has happened since."""
        while self.incidents:
            on_incident(self.incidents.popleft())

    def report(self, lane: Lane, what: str, detail: str) -> None:
        """Notes what is to be told."""
        self.incidents.append(Incident(lane.name, what, detail))

    def ran_out(self, lane: Lane, batch: Batch, answer: OutOfMemory) -> None:
        """The device's memory was not enough for the batch, or would not have been."""
        if batch.probe:
            self._retire(lane, f"its memory is not enough for a single paper any more, after {lane.doubt}")
            return
        if not answer.tried:
            lane.budget.looked(answer.other_memory)
            self.again.append(batch)
            lane.refused += 1
            if lane.refused >= self._patience.refused_in_a_row:
                self.lost(lane, "lost", "its worker holds memory that it does not give back", computing=False)
            return
        lane.budget.ran_out(batch.shape, answer.other_memory)
        self.report(lane, "out of memory", f"{len(batch.papers)} papers of {batch.shape.tokens} tokens")
        times = self._patience.tries_beside_others if lane.budget.would_fit_alone(batch.shape) else 2
        self._refused(lane, batch, f"its {batch.shape.tokens} tokens need more memory than {lane.name} has", times)

    def failed(self, lane: Lane, batch: Batch, error: str) -> None:
        """The model failed on the batch; the device is retired if it has failed on too many in a row."""
        self.report(lane, "failed", f"{len(batch.papers)} papers: {error}")
        if batch.probe:
            self._retire(lane, f"{lane.doubt}, and then on a paper that was embedded before")
            return
        self._refused(lane, batch, f"it could not be encoded: {error}")
        lane.failures += 1
        if lane.failures >= self._patience.failures_in_a_row:
            self._doubt(lane, f"{lane.failures} batches in a row failed, the last with: {error}")

    def _refused(self, lane: Lane, batch: Batch, reason: str, times: int = 2) -> None:
        batch.avoid.add(lane.name)
        batch.refusals += 1
        ready = {other.name for other in self._lanes if other.state is State.READY}
        if len(batch.papers) > 1:
            self.again.extend(batch.halves())
        elif batch.refusals < times or ready - batch.avoid:
            self.again.append(batch)
        else:
            self._give_up(batch, reason)

    def lost(self, lane: Lane, what: str, why: str = "", *, computing: bool = True) -> None:
        """A worker is gone ("lost"), silent for too long ("hung") or to be exchanged ("restarted"): what it was
        `computing` is suspect, what waited behind goes elsewhere. The device is to blame, unless the batch has done it
        before."""
        suspect = lane.sent[0].batch if lane.sent and computing else None
        probed = any(batch.probe for batch in lane.batches)
        self.again.extendleft(batch for batch in reversed(lane.batches) if batch is not suspect and not batch.probe)
        blames_device = suspect is None or not suspect.kills
        lane.stop(STOP_SECONDS if what == "lost" else 0.0)
        why = why or f"its worker ended with exit code {lane.exit_code}"
        if suspect is not None and not suspect.probe:
            self._killed(lane, suspect, f"the worker that embeds it is {what} ({why})")
        lane.losses += 1
        lane.deaths += blames_device
        lane.pause(time.monotonic())
        self.report(lane, what, why)
        if probed:
            self._retire(lane, f"{lane.doubt}, and then on a paper that was embedded before")
        elif lane.deaths >= self._patience.deaths or lane.losses >= self._patience.failures_in_a_row:
            self._doubt(lane, f"{lane.losses} workers were lost, the last because {why}")

    def left(self, lane: Lane) -> None:
        """The device's machine is gone, and nothing is to blame: what it was sent is tried elsewhere."""
        self.again.extendleft(batch for batch in reversed(lane.batches) if not batch.probe)
        lane.stop(0.0)
        self.report(lane, "left", "its machine is not in the cluster any more")

    def retire(self, lane: Lane, why: str) -> None:
        """The device is gone: its worker is ended at once, which nothing can be awaited from, and blamed for nothing.
        Raises `NoDeviceLeft` where it was the last."""
        self._retire(lane, why, within=0.0)

    def _killed(self, lane: Lane, batch: Batch, reason: str) -> None:
        batch.kills += 1
        batch.avoid.add(lane.name)
        if batch.kills < 2:
            self.again.append(batch)
        elif len(batch.papers) > 1:
            self.again.extend(batch.halves())
        else:
            self._give_up(batch, reason)

    def _give_up(self, batch: Batch, reason: str) -> None:
        self.given_up.extend(FailedPaper(paper.index, reason) for paper in batch.papers)

    def _doubt(self, lane: Lane, why: str) -> None:
        """Device or papers may be to blame: it is tried with a paper that is known to be good, if there is one."""
        if self.proven is None:
            self._retire(lane, why)
        lane.doubt = why

    def _retire(self, lane: Lane, why: str, within: float = STOP_SECONDS) -> None:
        self.again.extendleft(batch for batch in reversed(lane.batches) if not batch.probe)
        lane.stop(within)
        lane.retire(time.monotonic())
        self.report(lane, "retired", why)
        if not any(other.is_usable for other in self._lanes):
            raise NoDeviceLeft(
                f"No device is left ({lane.name} was the last: {why}): what was finished is saved, run again to go on."
            )
