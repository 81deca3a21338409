"""A paper: one arXiv record, as every source of metadata is brought to; a reject: what could not become one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

TEMPLATE = "title\\n\\nabstract"
"""The text template's name in a space: change it whenever `Paper.text` or `fold` changes."""

EXCERPT_CHARACTERS = 120
EXCERPT_BYTES = 4 * EXCERPT_CHARACTERS

_VISIBLE = bytes(range(ord(" "), 0x7F))


@dataclass(frozen=True, slots=True)
class Paper:
    """`id` is canonical and without version; dates are "YYYY-MM-DD", "" where the source has none; `version` is 0
    where the source does not say; `fields` is what else the record says (`fields_text`)."""

    id: str
    version: int
    title: str
    abstract: str
    authors: str
    categories: tuple[str, ...]
    published: str
    updated: str
    withdrawn: bool
    fields: str = ""

    @property
    def text(self) -> str:
        """What is embedded; span offsets count its characters."""
        return f"{self.title}\n\n{self.abstract}"

    @property
    def text_sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def recency(self) -> tuple[str, int]:
        """Of two records of one paper, the newer one's is greater."""
        return self.updated, self.version


@dataclass(frozen=True, slots=True)
class Reject:
    """`file` is relative to the metadata folder; `position` is "line 12" or "record 3"."""

    file: str
    position: str
    reason: str
    excerpt: str


class NotAPaper(ValueError):
    """Why a record cannot be a paper; its message is the reject's reason."""


def fold(text: str) -> str:
    """White space (and NUL, which PostgreSQL refuses) folded to single blanks, LaTeX left alone."""
    text = text.replace("\n", " ").strip(" ")
    if "  " not in text and text.isascii() and not text.encode().translate(None, _VISIBLE):
        return text  # the common case, several times as fast
    return " ".join(text.replace("\0", " ").split())


def excerpt(raw: str | bytes) -> str:
    """The beginning of a record, printable, for a person to recognise it by."""
    if isinstance(raw, bytes):
        raw = raw[:EXCERPT_BYTES].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in raw[:EXCERPT_CHARACTERS]).strip()
