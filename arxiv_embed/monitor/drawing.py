"""Drawing: lines of text, bars and charts of a given width; nothing here is wider than it is asked to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from arxiv_embed.gpu.health import Verdict
from arxiv_embed.monitor.glyphs import Glyphs
from arxiv_embed.wording import printable, size

CALM, GOOD, WARN, BAD = "#88c0d0", "#a3be8c", "#ebcb8b", "#e06c75"
FAINT, STRONG, SECOND = "#7b879b", "bold #eceff4", "#b48ead"
TRACK, MARK = "#434c5e", "bold #ebcb8b"

FOOT_OF_CHARTS = 0.35
"""How bright a chart is at its foot, of its brightness at the top."""

Part = Text | str

VERDICT_STYLES: Mapping[str, str] = {
    Verdict.OK: GOOD,
    Verdict.HOT: WARN,
    Verdict.THROTTLED: WARN,
    Verdict.MEMORY_CRITICAL: BAD,
    Verdict.STALLED: BAD,
    Verdict.FAILING: BAD,
    Verdict.RETIRED: FAINT,
}
STATE_STYLES: Mapping[str, str] = {
    "starting": CALM,
    "running": CALM,
    "done": GOOD,
    "unfinished": WARN,
    "interrupted": WARN,
    "failed": BAD,
    "killed": BAD,
}


def cut(text: Text, width: int, glyphs: Glyphs) -> Text:
    """Not wider than that, and marked where it is cut."""
    if text.cell_len <= width:
        return text
    shorter = text.copy()
    shorter.truncate(max(0, width - len(glyphs.ellipsis)))
    return shorter.append(glyphs.ellipsis[:width])


def spread(left: Text, right: Text, width: int, glyphs: Glyphs) -> Text:
    """One at the left end of a line and one at the right; the left one is cut where there is not room for both."""
    right = cut(right, width, glyphs)
    left = cut(left, max(0, width - right.cell_len - 1), glyphs)
    return left + Text(" " * (width - left.cell_len - right.cell_len)) + right


def padded(text: Text, width: int, glyphs: Glyphs, *, right: bool = False) -> Text:
    """Exactly that wide."""
    text = cut(text, width, glyphs)
    room = Text(" " * (width - text.cell_len))
    return room + text if right else text + room


def joined(parts: Sequence[Part], glyphs: Glyphs) -> Text:
    """With a faint dot between those that are not empty."""
    line = Text()
    for part in (part for part in parts if len(part)):
        if line:
            line.append(f" {glyphs.dot} ", FAINT)
        line.append(part)
    return line


def folded(parts: Sequence[Part], width: int, glyphs: Glyphs) -> list[Text]:
    """As `joined`, in as many lines as they need."""
    lines: list[Text] = []
    for part in (Text(p) if isinstance(p, str) else p for p in parts if len(p)):
        if lines and (longer := joined([lines[-1], part], glyphs)).cell_len <= width:
            lines[-1] = longer
        else:
            lines.append(cut(part, width, glyphs))
    return lines


def progress_bar(share: float, width: int, glyphs: Glyphs, style: str = CALM) -> Text:
    """A share of 1 as a bar that only all of it fills."""
    share = min(1.0, max(0.0, share))
    whole, half = divmod(int(share * width * 2), 2)
    bar = Text(glyphs.full * whole + glyphs.half * half, style)
    return bar.append(glyphs.empty * (width - len(bar)), TRACK)


def memory_bar(
    used: float, own: float, total: float, lines: Sequence[float | None], style: str, width: int, glyphs: Glyphs
) -> Text:
    """`used` of `total`, of which `own` is the run's; `lines` are where target and critical are (or None)."""

    def cell(amount: float) -> int:
        return min(width, round(width * min(1.0, max(0.0, amount / total)))) if total else 0

    marks = {min(width - 1, cell(at)): glyphs.lines[n] for n, at in enumerate(lines) if at is not None and total}
    filled, mine = cell(used), cell(own) if own else cell(used)
    bar = Text()
    for place in range(width):
        if place in marks:
            bar.append(marks[place], MARK)
        elif place >= filled:
            bar.append(glyphs.empty, TRACK)
        else:
            bar.append(*((glyphs.full, style) if place < mine else (glyphs.others, SECOND)))
    return bar


def chart(values: Sequence[float], width: int, height: int, glyphs: Glyphs, style: str = CALM) -> list[Text]:
    """Values over time, one a column, from zero to their largest; what is not nothing shows."""
    values = values[:width]
    largest = max(values, default=0.0)
    steps = len(glyphs.levels) - 1
    heights = [max(1, round(value / largest * steps * height)) if value > 0 else 0 for value in values]
    lines = []
    for row in reversed(range(height)):
        levels = (glyphs.levels[min(steps, max(0, at - row * steps))] for at in heights)
        brightness = min(1.0, FOOT_OF_CHARTS + (1 - FOOT_OF_CHARTS) * (row + 1) / height)
        lines.append(Text("".join(levels).ljust(width), _dimmed(style, brightness)))
    return lines


def _dimmed(color: str, brightness: float) -> str:
    """A color #rrggbb, so much darker."""
    return "#" + "".join(f"{int(int(color[at : at + 2], 16) * brightness):02x}" for at in (1, 3, 5))


def label(text: str, width: int) -> Text:
    """The faint name of what follows it."""
    return Text.assemble((text.ljust(width), FAINT))


def verdict_of(health: Mapping[str, Any], trouble: str, glyphs: Glyphs) -> Text:
    """A device's verdict with its mark; before there is a report, what is known of it."""
    name = str(health.get("verdict", "in trouble" if trouble else ""))
    if not name:
        return Text("no report", FAINT)
    return Text(f"{glyphs.verdicts.get(name, '!')} {printable(name)}", style_of(name))


def style_of(verdict: str) -> str:
    return VERDICT_STYLES.get(verdict, BAD)


def fact(label: str, value: str, style: str = "") -> Text:
    """Faint label, clear value; nothing where there is no value."""
    return Text.assemble((f"{label} ", FAINT), (value, style)) if value else Text()


def difference(measured: float, predicted: float, glyphs: Glyphs) -> str:
    """+3 %, −5 %: what was measured against what was predicted."""
    if not predicted:
        return ""
    share = measured / predicted - 1
    return f"{glyphs.minus if share < 0 else '+'}{abs(share):.1%}".replace("%", " %")


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}".replace("%", " %")


def amount(used: float, total: float) -> str:
    """98 of 143 GB, in the unit of the larger."""
    whole = size(total)
    number, _, unit = whole.partition(" ")
    scale = {"bytes": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    digits = 1 if used / scale < 10 and unit != "bytes" else 0
    return f"{used / scale:.{digits}f} of {number} {unit}"
