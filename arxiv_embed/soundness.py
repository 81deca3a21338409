"""Soundness: whether what a line of a record says is what its event's fields hold, before anything is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import orjson

from arxiv_embed import events
from arxiv_embed.errors import Kind
from arxiv_embed.gpu.health import DeviceHealth
from arxiv_embed.gpu.inventory import DeviceFacts
from arxiv_embed.processes import ProcessId

MOST = 2**50
"""No number in a record that is whole is as large."""
LAST_SECOND = 253_402_300_799
"""Of the year 9999: later ones are no dates."""

Fits = Callable[[Any], bool]


def event_of(line: bytes) -> Any:
    """The event that a line of a record tells; raises `ValueError` for a line that was cut, and for what is not sound
    (`require_sound`)."""
    try:
        event = orjson.loads(line)
    except ValueError:
        event = json.loads(line)  # a name on disk that is no UTF-8 is written with lone surrogates
    require_sound(event)
    return event


def require_sound(line: Any) -> None:
    """Raises `ValueError` for what is no event with a time, or has a field of another kind than the event's: a record
    that was damaged, or a later version's; or lacks a field that the event always has. Fields that are not known here
    are none of its business, nor are events that are not known."""
    if not (isinstance(line, dict) and isinstance(line.get("event"), str)):
        raise ValueError("no event")
    if not (_is_number(line.get("time")) and 0 <= line["time"] <= LAST_SECOND):
        raise ValueError("no time")
    if (fits := _EVENTS.get(line["event"])) and not fits(line):
        raise ValueError("a field of another kind, or none")


def _is_count(value: Any) -> bool:
    """What is added up is whole; what a driver tells of a device need not be."""
    return type(value) is int and 0 <= value < MOST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < MOST


def _is_duration(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def _lists(fits: Fits) -> Fits:
    return lambda value: isinstance(value, list) and all(fits(one) for one in value)


def _holds(kind: type, needed: Collection[str] | None = None, special: Mapping[str, Fits] | None = None) -> Fits:
    """An object with the fields of a dataclass, of which it has those that are needed: by default all that have no
    default of their own. Some are `special`: more is asked of them than their type says."""
    hints = get_type_hints(kind)
    known = {field.name: _fit(str(hints[field.name]), hints[field.name]) for field in fields(kind)}
    known |= special or {}
    if needed is None:
        needed = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]

    def fits(value: Any) -> bool:
        if not (isinstance(value, dict) and all(name in value for name in needed)):
            return False
        return all(name not in known or known[name](of) for name, of in value.items())

    return fits


def _fit(written: str, hint: Any) -> Fits:
    if written.startswith("collections.abc.Sequence[str]"):
        return _lists(_is_text)
    if written.startswith("collections.abc.Sequence[int]"):
        return _lists(_is_number)
    if written.startswith(("collections.abc.Sequence", "collections.abc.Mapping")):
        return _or_none(lambda value: isinstance(value, list | dict))
    if hint is bool:
        return lambda value: isinstance(value, bool)
    if isinstance(hint, type) and issubclass(hint, str):
        return _is_text
    if written.endswith("| None"):
        return _or_none(_is_number)
    return _is_count if hint is int else _is_number


def _is_process(value: Any) -> bool:
    """Of a process, or nothing."""
    return not value or bool(_holds(ProcessId)(value))


_SPECIAL: Mapping[str, Mapping[str, Fits]] = {
    events.BatchDone.name: {"seconds": _is_duration},
    events.DevicesFound.name: {"devices": _lists(_holds(DeviceFacts, ("name",)))},
    events.ErrorMet.name: {"kind": lambda value: value in list(Kind)},
    events.HealthReported.name: {"devices": _lists(_holds(DeviceHealth, ("device", "verdict")))},
    events.RunStarted.name: {"process": _is_process},
}
_EVENTS: Mapping[str, Fits] = {
    kind.name: _holds(kind, special=_SPECIAL.get(kind.name)) for kind in events.Event.__subclasses__()
}
