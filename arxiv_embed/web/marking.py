"""Marking: a text as HTML with one passage of it highlighted, formulas whole on either side of its borders."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby, pairwise

from markupsafe import Markup

from arxiv_embed.web.latex import Leaf, leaves

LONG_TEXT = 900
"""Characters beyond which a text is shown as an excerpt first."""
CONTEXT = 180
"""Characters of an excerpt on either side of its passage."""

_OPEN = {"small-caps": '<span class="small-caps">'}
_CLOSE = {"small-caps": "</span>"}


def rendered(text: str, start: int = 0, end: int = 0, low: int = 0, high: int | None = None) -> Markup:
    """The characters `low` to `high` of a text as HTML, those from `start` to `end` in a `<mark>`.

    Formulas and accented letters are taken whole: one of which a part is within is within.
    """
    while start < end and text[start : start + 1].isspace():
        start += 1
    while start < end and text[end - 1 : end].isspace():
        end -= 1
    pieces = _pieces(text, start, end, low, len(text) if high is None else high)
    return Markup("".join(_runs(pieces)))  # every piece is escaped, or made by `latex`


def excerpt(text: str, start: int, end: int) -> tuple[int, int]:
    """The part of a text that is shown first, its ends between words: the passage and what is around it; of a text that
    is not long, all."""
    if len(text) <= LONG_TEXT:
        return 0, len(text)
    low, high = max(0, start - CONTEXT), min(len(text), max(end, start) + CONTEXT)
    high = min(high, low + LONG_TEXT)
    high = max(high, min(len(text), low + 3 * CONTEXT))
    if low:
        blank = text.find(" ", low, start)
        low = blank + 1 if blank >= 0 else low
    if high < len(text):
        blank = text.rfind(" ", end if end <= high else low, high)
        high = blank if blank > low else high
    return low, high


def _pieces(text: str, start: int, end: int, low: int, high: int) -> Iterator[tuple[bool, tuple[str, ...], str]]:
    """Whether it is marked, its styles, its HTML."""
    for leaf in leaves(text):
        if leaf.end <= low or leaf.start >= high:
            continue
        if leaf.markup is not None:
            yield leaf.start < end and leaf.end > start, leaf.styles, leaf.markup
            continue
        yield from _split(text, leaf, start, end, low, high)


def _split(
    text: str, leaf: Leaf, start: int, end: int, low: int, high: int
) -> Iterator[tuple[bool, tuple[str, ...], str]]:
    first, last = max(leaf.start, low), min(leaf.end, high)
    borders = sorted({first, last, *(border for border in (start, end) if first < border < last)})
    for one, other in pairwise(borders):
        yield start <= one < end, leaf.styles, escape(text[one:other])


def _runs(pieces: Iterator[tuple[bool, tuple[str, ...], str]]) -> Iterator[str]:
    shown = (piece for piece in pieces if piece[2])
    for is_marked, passage in groupby(shown, lambda piece: piece[0]):
        yield "<mark>" if is_marked else ""
        for styles, run in groupby(passage, lambda piece: piece[1]):
            yield from (_OPEN.get(style, f"<{style}>") for style in styles)
            yield from (html for _, _, html in run)
            yield from (_CLOSE.get(style, f"</{style}>") for style in reversed(styles))
        yield "</mark>" if is_marked else ""
