"""A metric: one measured value with its unit and, where there is one, the target it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """`bound` says on which side of `target` a good value lies; a metric without a target is information."""

    name: str
    value: float
    unit: str
    target: float | None = None
    bound: Literal["at least", "at most"] = "at least"

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target
