"""Errors: what a user can mend, and the kind that decides what is done about each."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Kind(StrEnum):
    """What an error asks for."""

    TRANSIENT = "transient"
    """Wait, and try again."""
    RESOURCE = "resource"
    """Memory or disk: shrink or pause, and say what to free."""
    DATA = "data"
    """Set the paper aside; the others go on."""
    PERMANENT = "permanent"
    """Stop, with one sentence: trying again would meet the same."""


class ArxivEmbedError(Exception):
    """What a user can mend: its message is one sentence that says what is wrong, where, and what to do next."""

    kind: ClassVar[Kind] = Kind.PERMANENT


class FatalError(ArxivEmbedError):
    """Stops a whole run, as its next shard would meet the same."""
