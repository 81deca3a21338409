"""The view of what went wrong: errors by what they have in common, and what whoever watches should read."""

from __future__ import annotations

import time
from datetime import datetime

from rich.cells import chop_cells
from rich.text import Text

from arxiv_embed.monitor.drawing import FAINT, GOOD, STRONG, WARN, cut
from arxiv_embed.monitor.glyphs import Glyphs
from arxiv_embed.monitor.sources import Sight
from arxiv_embed.wording import count, printable


def errors(sight: Sight, width: int, glyphs: Glyphs, most: int | None = None) -> list[Text]:
    """Patterns of errors: all of them by how often they were met, or so many that were met last."""
    found = list(sight.metrics.failures)
    if most is not None:
        found = sorted(found, key=lambda failure: failure.last, reverse=True)[:most]
    if not found:
        return [Text("No errors.", GOOD)]
    lines = []
    for failure in found:
        front = Text.assemble(
            (f"{count(failure.count):>5} x ", STRONG),
            (f"{failure.kind:<10} ", WARN),
            (f"{_clock(failure.last)}  ", FAINT),
        )
        lines.append(cut(front + Text(printable(failure.pattern)), width, glyphs))
        if most is None and failure.example != failure.pattern:
            lines.extend(_wrapped(f"e.g. {failure.example}", width, 8))
    return lines


def notices(sight: Sight, width: int, glyphs: Glyphs) -> list[Text]:
    """What whoever watches should read, the newest first."""
    if not sight.metrics.notices:
        return [Text("Nothing to note.", FAINT)]
    return [line for notice in reversed(sight.metrics.notices) for line in _wrapped(notice, width, 2, f"{glyphs.dot} ")]


def _wrapped(message: str, width: int, indent: int, first: str = "") -> list[Text]:
    lines = chop_cells(printable(message), max(10, width - indent))
    return [Text(f"{first if not n else '':<{indent}}{line}", FAINT) for n, line in enumerate(lines)]


def _clock(iso: str) -> str:
    """The local time of day of a time in UTC, ISO 8601."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(datetime.fromisoformat(iso).timestamp()))
    except ValueError:
        return "        "
