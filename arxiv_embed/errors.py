"""Errors: what a user can mend, and the kind that decides what is done about each."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar
from urllib.parse import unquote

LONGEST_MESSAGE = 2_000
MASK = "***"

_NAMES = r"""(?:password|passwd|pwd|secret(?:_?access)?(?:_?key)?|(?:api|account)_?key
    |(?:access|session|security|auth|hub|hf)[_-]?token|x-amz-(?:signature|credential))"""
"""Of what is secret, in connection strings, variables, URLs and JSON."""
_NAME = re.compile(_NAMES, re.I | re.X)
_SECRET = re.compile(
    rf"""(://[^\s:/@]*:)\S+@
    | ((?i:\b(?:https?|s3|gs|az|ftp)://))[^\s/?\#]+@
    | ((?i:\b\w*{_NAMES}(?:['"]?\s*[=:]\s*(?=['"])|\s*=\s*|\s+(?='))))
      (?:\*{{3}}(?!\w)|'(?:\\.|[^'\\])*'?\w*|"(?:\\.|[^"\\])*"?\w*|\S+)
    | (hf_)[A-Za-z0-9]{{16,}}
    | ((?i:bearer\s+|[?&]sig=))[\w.~+/%=-]{{8,}}""",
    re.X,
)
_ENCODED = re.compile(r"([?&]([\w.+-]{0,200}%[\w.%+-]{0,200})=)[^\s&]*")
"""A parameter of a URL whose name is partly percent-encoded, as servers and libraries take it all the same."""


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


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without the passwords, keys and tokens of its URLs, connection strings and variables, and without the
    `secrets` known by their value; rather too much is masked than too little."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return _SECRET.sub(_masked_secret, _ENCODED.sub(_masked_parameter, text))


def _masked_secret(found: re.Match[str]) -> str:
    if found[1] or found[2]:  # after a name a password, or alone what may be a token
        return f"{found[1] or found[2]}{MASK}@"
    return f"{found[3] or found[4] or found[5]}{MASK}"


def _masked_parameter(found: re.Match[str]) -> str:
    return f"{found[1]}{MASK}" if _NAME.search(unquote(found[2])) else found[0]
