"""The screen of a dashboard as text, read from the picture that it exports."""

from __future__ import annotations

import html
import re

from textual.app import App

_TEXT = re.compile(r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"[^>]*>(.*?)</text>')
CELL = 12.2
"""How wide a cell of the picture is."""


def lines_of(app: App[None]) -> list[str]:
    """Each line of the screen, as wide as what stands in it."""
    lines: dict[float, str] = {}
    for x, y, length, text in _TEXT.findall(app.export_screenshot()):
        line = lines.get(float(y), "")
        column = round(float(x) / CELL)
        content = html.unescape(text).replace("\xa0", " ")
        assert round(float(length) / CELL) == len(content), f"cells that are not one character: {content!r}"
        lines[float(y)] = line.ljust(column) + content
    return [lines[y] for y in sorted(lines)]
