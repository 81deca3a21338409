"""A metric: one measured value with its unit and, where there is one, the target; or what could not be measured."""

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

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Measured value, unit, target and verdict, as a table shows them."""
        if self.target is None:
            return _figure(self.value), self.unit, "", ""
        sign = "≥" if self.bound == "at least" else "≤"
        return _figure(self.value), self.unit, f"{sign} {_figure(self.target)}", "met" if self.ok else "missed"

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "value": self.value, "unit": self.unit, "target": self.target, "ok": self.ok}


@dataclass(frozen=True)
class LeftOut:
    """A metric that could not be measured, and why."""

    name: str
    reason: str
    ok: None = None

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return "left out", "", "", self.reason

    def to_json(self) -> dict[str, object]:
        return {
            **{"name": self.name, "value": None, "unit": "", "target": None, "ok": None},
            "left_out": self.reason,
        }


def _figure(value: float) -> str:
    """Five digits, but below one six places: cosines are told apart there."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.5g}" if abs(value) >= 1 else f"{value:.6f}".rstrip("0").rstrip(".")
