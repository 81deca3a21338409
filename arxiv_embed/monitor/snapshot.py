"""A snapshot: a run's figures as lines of plain text, once."""

from __future__ import annotations

from rich.text import Text

from arxiv_embed.monitor import device_view, error_view, run_view
from arxiv_embed.monitor.drawing import STRONG
from arxiv_embed.monitor.glyphs import Glyphs
from arxiv_embed.monitor.sources import Sight

ERRORS_SHOWN = 5


def snapshot(sight: Sight, width: int, glyphs: Glyphs) -> list[Text]:
    """None of the lines is wider than `width`."""
    parts = [
        run_view.head(sight, width, glyphs),
        run_view.throughput(sight, width, 2, glyphs),
        device_view.rows(sight, width, glyphs),
        run_view.figures(sight, width, 0, glyphs),
    ]
    if sight.metrics.failures:
        parts.append([Text("Errors, the latest first", STRONG), *error_view.errors(sight, width, glyphs, ERRORS_SHOWN)])
    lines = [line for part in parts for line in (*part, Text())]
    return lines[:-1]
