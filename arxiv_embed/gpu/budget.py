"""A budget: how much a batch may take of one device now, from its memory, who else uses it, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass

from arxiv_embed.gpu.memory import MemoryLaw, Shape

TARGET, CRITICAL = 0.75, 0.90
"""Shares of a device's memory: what batches are planned for, and above what it gets none."""

FIRST_SHARE = 0.125
"""What the very first batch may take of the room, by a law that nothing has confirmed."""

SHRINK_OUT_OF_MEMORY, SHRINK_CRITICAL, RECOVERY = 0.7, 0.85, 1.04
LEAST_SCALE = 0.05


@dataclass
class MemoryState:
    """Bytes: what the device has, what the loaded model holds, and what others hold of it now.

    `keeps` is whether its worker gives freed memory back to nobody, so that its peak never sinks (a CPU's process).
    """

    total: int
    base: int
    other: int = 0
    keeps: bool = False


class Budget:
    """One device's; it shrinks when memory runs out or nearly does, and recovers slowly."""

    def __init__(self, law: MemoryLaw, state: MemoryState) -> None:
        self.law = law
        self._state = state
        self._held = state.base
        self.scale = 1.0
        """What is used of the room."""
        self.is_kept_small = False
        """Whether it does not recover at present."""

    @property
    def held(self) -> int:
        """Bytes that the worker held at most at its last batch."""
        return self._held

    @property
    def free(self) -> int:
        """What is neither the model's nor others', in bytes."""
        return max(0, self._state.total - self._state.base - self._state.other)

    @property
    def room(self) -> float:
        """What a batch may take beyond the base so that the device stays within its target."""
        state = self._state
        return max(0.0, TARGET * state.total - state.base - state.other) * self.scale

    @property
    def is_critical(self) -> bool:
        """Whether so much is taken, with no batch running, that nothing new may be sent."""
        return self._state.base + self._state.other > CRITICAL * self._state.total

    def fits(self, shape: Shape) -> bool:
        """Whether a batch of this shape may be sent now. One paper alone cannot be made less: it is measured against
        what is critical, not against the target."""
        if shape.papers == 1:
            return self.law.bound(shape) <= CRITICAL * self._state.total - self._state.base - self._state.other
        if self.law.is_new:
            return self.law.bound(shape) <= FIRST_SHARE * self.room
        return self.law.trusts(shape) and self.law.bound(shape) <= self.room

    def would_fit_alone(self, shape: Shape) -> bool:
        """Whether it could be sent if nobody else used the device."""
        return self.law.bound(shape) <= CRITICAL * self._state.total - self._state.base

    def predicted_peak(self, shape: Shape) -> int:
        """Bytes that the worker will have held at most, its model among them."""
        peak = round(self._state.base + self.law.bound(shape))
        return max(peak, self._held) if self._state.keeps else peak

    def done(self, shape: Shape, peak: int, other: int) -> None:
        """Takes in a batch that was done: its peak, and what others hold now."""
        state = self._state
        state.other = other
        if state.keeps and (peak <= self._held or not self.law.is_largest(shape)):
            # It fitted into what was held before, or ended a little above it, as a heap grows: what it took itself
            # cannot be told.
            self.law.widen(shape)
            self._held = max(self._held, peak)
        elif peak > state.base:
            self.law.observe(shape, peak - state.base)
            self._held = peak
        if peak + other > CRITICAL * state.total:
            self._shrink(SHRINK_CRITICAL)
        elif not self.is_kept_small:
            self.scale = min(1.0, self.scale * RECOVERY)

    def ran_out(self, shape: Shape, other: int) -> None:
        """Takes in a batch that ran out of memory."""
        self._state.other = other
        self.law.observe_more_than(shape, self.free)
        self._shrink(SHRINK_OUT_OF_MEMORY)

    def shrink(self) -> None:
        """Whoever watches over the device found that it is too much; it stays small until `recover` is called."""
        self._shrink(SHRINK_CRITICAL)
        self.is_kept_small = True

    def recover(self) -> None:
        """It may grow again, batch by batch."""
        self.is_kept_small = False

    def killed(self) -> None:
        """Its worker was killed by SIGKILL: it may be that the machine's memory ran out."""
        self._shrink(SHRINK_OUT_OF_MEMORY)

    def begin_again(self, state: MemoryState) -> None:
        """A new worker has loaded the model; what went wrong before is not forgotten."""
        self._state, self._held = state, state.base

    def looked(self, other: int) -> None:
        """Takes in what others hold now."""
        self._state.other = other

    def _shrink(self, factor: float) -> None:
        self.scale = max(LEAST_SCALE, self.scale * factor)
