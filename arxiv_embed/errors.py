"""Errors: what a user can mend, and the kind that decides what is done about each."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import ClassVar

LONGEST_MESSAGE = 2_000

_SECRET = re.compile(
    r"""(://[^\s:/@]*:)\S+@
    | ((?i:\b\w*(?:password|passwd|pwd|secret|api_?key)(?:['"]?\s*[=:]\s*(?=['"])|\s*=\s*|\s+(?='))))
      (?:\*{3}(?!\w)|'(?:\\.|[^'\\])*'?\w*|"(?:\\.|[^"\\])*"?\w*|\S+)""",
    re.X,
)


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


def sentence(error: BaseException) -> str:
    """What an error says to whoever meets it, without secrets."""
    message = str(error)
    if not isinstance(error, ArxivEmbedError):
        first_line = next(iter(message.strip().splitlines()), "")  # drivers of databases go on with the statement
        message = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    return masked(message)[:LONGEST_MESSAGE]


def masked(text: str) -> str:
    """The text without the passwords of its URLs and connection strings; rather too much is masked than too little."""
    return _SECRET.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)
