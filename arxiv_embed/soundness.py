"""Soundness: whether what a line of a record says is what its event's fields hold, before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from arxiv_embed import events
from arxiv_embed.gpu.health import DeviceHealth
from arxiv_embed.gpu.inventory import DeviceFacts
from arxiv_embed.processes import ProcessId

MOST = 2**63
LAST_SECOND = 253_402_300_799
"""Of the year 9999: later ones are no dates."""

Fits = Callable[[Any], bool]


def require_sound(line: Any) -> None:
    """Raises `ValueError` for what is no event with a time, or has a field of another kind than the event's: a record
    that was damaged, or a later version's; or lacks a field that the event always has. Fields that are not known here
    are none of its business, nor are events that are not known."""
    if not (isinstance(line, dict) and isinstance(line.get("event"), str)):
        raise ValueError("no event")
    if not (_is_number(line.get("time")) and 0 <= line["time"] <= LAST_SECOND):
        raise ValueError("no time")
    if (known := _EVENTS.get(line["event"])) and not (_ALWAYS[line["event"]] <= line.keys() and _has(known, line)):
        raise ValueError("a field of another kind, or none")


def _has(known: Mapping[str, Fits], values: Mapping[str, Any]) -> bool:
    return all(name not in known or known[name](value) for name, value in values.items())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < MOST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _lists(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(fits(one) for one in value)


def _holds(kind: type, *needed: str) -> Fits:
    """An object with the fields of a dataclass, of which it has those that are needed."""
    known = _fits_of(kind)
    return lambda value: isinstance(value, dict) and all(name in value for name in needed) and _has(known, value)


def _fits_of(kind: type) -> Mapping[str, Fits]:
    hints = get_type_hints(kind)
    return {field.name: _fit(str(hints[field.name]), hints[field.name]) for field in fields(kind)}


def _fit(written: str, hint: Any) -> Fits:
    if written.startswith("collections.abc.Sequence[str]"):
        return _lists(_is_text)
    if written.startswith("collections.abc.Sequence[int]"):
        return _lists(_is_number)
    if written.startswith(("collections.abc.Sequence", "collections.abc.Mapping")):
        return lambda value: value is None or isinstance(value, list | dict)
    if hint is bool:
        return lambda value: isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, str):
        return _is_text
    if written.endswith("| None"):
        return lambda value: value is None or _is_number(value)
    return _is_number


_EVENTS: dict[str, dict[str, Fits]] = {kind.name: {**_fits_of(kind)} for kind in events.Event.__subclasses__()}
_ALWAYS = {
    kind.name: {field.name for field in fields(kind) if field.default is field.default_factory is MISSING}
    for kind in events.Event.__subclasses__()
}
_EVENTS[events.HealthReported.name]["devices"] = _lists(_holds(DeviceHealth, "device", "verdict"))
_EVENTS[events.DevicesFound.name]["devices"] = _lists(_holds(DeviceFacts, "name"))
_EVENTS[events.RunStarted.name]["process"] = lambda value: value is None or _holds(ProcessId)(value)
