"""The view of a run as a whole: its head, its speed over time, its figures."""

from __future__ import annotations

from rich.text import Text

from arxiv_embed.metrics import RunMetrics
from arxiv_embed.monitor.drawing import (
    BAD,
    CALM,
    FAINT,
    GOOD,
    SECOND,
    STATE_STYLES,
    STRONG,
    WARN,
    chart,
    cut,
    fact,
    folded,
    joined,
    label,
    percent,
    progress_bar,
    spread,
)
from arxiv_embed.monitor.glyphs import Glyphs
from arxiv_embed.monitor.sources import Sight
from arxiv_embed.wording import count, duration, printable, size

LABEL, AMOUNT, NAME = 9, 30, 22
"""Columns of the bars' labels, of the numbers beside them, and of the figures' names."""
LINES_OF_FIGURES = 14


def head(sight: Sight, width: int, glyphs: Glyphs) -> list[Text]:
    """What runs, how it is, how far it is."""
    run = sight.metrics
    model = joined([Text(printable(run.model) or "no model yet", STRONG), printable(run.dtype)], glyphs)
    state = Text(run.state, f"bold {STATE_STYLES.get(run.state, WARN)}")
    times = [fact("after", duration(run.elapsed_seconds))]
    if run.seconds_left is not None:
        times.append(Text.assemble((duration(run.seconds_left), STRONG), (" left", FAINT)))
    lines = [
        spread(model, joined([state, *times], glyphs), width, glyphs),
        spread(
            Text(f"{printable(run.metadata_dir)} {glyphs.to} {printable(run.store)}", FAINT),
            Text(f"run {printable(run.run_id)[:8]}", FAINT),
            width,
            glyphs,
        ),
        _bar("papers", run.papers_done, run.papers, _failed(run.papers_failed), width, glyphs),
        _bar("shards", run.shards_done, run.shards, _failed(run.shards_failed), width, glyphs),
    ]
    if sight.away:
        lines.append(cut(Text(f"! {printable(sight.away)}; trying again", WARN), width, glyphs))
    if run.error:
        lines.append(cut(Text(f"! {printable(run.error)}", BAD), width, glyphs))
    return lines


def _failed(number: int) -> Text:
    return Text(f"{count(number)} failed", BAD) if number else Text()


def _bar(name: str, done: int, whole: int, beside: Text, width: int, glyphs: Glyphs) -> Text:
    share = done / whole if whole else 0.0
    numbers = joined([f"{count(done)} of {count(whole)}", beside], glyphs)
    room = max(8, width - LABEL - 6 - AMOUNT - 1)
    line = label(name, LABEL) + progress_bar(share, room, glyphs, GOOD if share == 1 else CALM)
    return cut(line + Text(f"{percent(min(share, 1.0)):>6} ", STRONG) + numbers, width, glyphs)


def throughput(sight: Sight, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """Papers/s and tokens/s of all devices together since these were ready: two lines, or two charts where there is
    height for them."""
    run, series, now = sight.metrics, sight.series, _end(sight)
    if height < 6:
        room = max(8, width - LABEL - 9)
        return [
            _line("papers/s", series.papers_per_second(now, room), f"{run.papers_per_second:,.1f}", CALM, room, glyphs),
            _line("tokens/s", series.tokens_per_second(now, room), count(run.tokens_per_second), SECOND, room, glyphs),
        ]
    room, rows = (width - 3) // 2, height - 2
    papers, tokens = series.papers_per_second(now, room), series.tokens_per_second(now, room)
    left = _titled("papers/s", f"{run.papers_per_second:,.1f}", f"{max(papers, default=0):,.1f}", room, glyphs)
    right = _titled("tokens/s", count(run.tokens_per_second), count(max(tokens, default=0)), room, glyphs)
    drawn = zip(chart(papers, room, rows, glyphs), chart(tokens, room, rows, glyphs, SECOND), strict=True)
    axis = spread(Text("0", FAINT), Text(duration(series.span(now)), FAINT), room, glyphs)
    return [left + Text("   ") + right, *(a + Text("   ") + b for a, b in drawn), axis + Text("   ") + axis]


def _end(sight: Sight) -> float:
    """Of the time that is drawn: now, or when the run ended."""
    return sight.now if sight.metrics.state in ("starting", "running") else sight.metrics.updated


def _line(name: str, values: list[float], present: str, style: str, room: int, glyphs: Glyphs) -> Text:
    drawn = chart(values, room, 1, glyphs, style)[0]
    return label(name, LABEL) + drawn + Text(f" {present:>8}", STRONG)


def _titled(name: str, present: str, most: str, room: int, glyphs: Glyphs) -> Text:
    return spread(Text.assemble((present, STRONG), (f" {name}", FAINT)), fact("at most", most), room, glyphs)


def figures(sight: Sight, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """What became of the papers, and how well the devices are used together; a line each where there are lines for
    them."""
    run = sight.metrics
    work = [
        ("rejects", count(run.rejects), ""),
        ("duplicates", count(run.duplicates), ""),
        ("rows", count(run.rows), ""),
        ("waiting", count(run.waiting), ""),
        ("balance", f"{run.balance:.2f}" if run.balance else "", ""),
        ("padding", f"{run.padding:.1%}".replace("%", " %"), ""),
        ("retries", count(run.retries), WARN if run.retries else ""),
        ("out of memory", count(run.out_of_memory), WARN if run.out_of_memory else ""),
        ("process", _process(run), ""),
        ("report", f"{run.report}, {run.report_late:.1f} s late" if run.report else "", ""),
    ]
    if height < LINES_OF_FIGURES:
        reused = ", ".join(f"{count(papers)} {source}" for source, papers in run.reused.items() if papers)
        papers = [
            fact("embedded", count(run.papers_embedded)),
            fact("reused", f"{count(run.papers_reused)}{f' ({reused})' if reused else ''}"),
            fact("failed", count(run.papers_failed), BAD if run.papers_failed else ""),
        ]
        return folded([*papers, *(fact(*told) for told in work)], width, glyphs)
    became = [("embedded", run.papers_embedded, CALM)]
    became += [(f"reused: {source}", papers, GOOD) for source, papers in run.reused.items()]
    became.append(("failed", run.papers_failed, BAD))
    lines = [_share(name, papers, run.papers, style, width, glyphs) for name, papers, style in became]
    return [*lines, Text(), *(fact(name.ljust(NAME - 1), value, style) for name, value, style in work if value)]


def _share(name: str, papers: int, whole: int, style: str, width: int, glyphs: Glyphs) -> Text:
    room = max(4, width - NAME - 12)
    bar = progress_bar(papers / whole if whole else 0.0, room, glyphs, style)
    return cut(label(name, NAME) + bar + Text(f"{count(papers):>12}"), width, glyphs)


def _process(run: RunMetrics) -> str:
    parts = [f"{run.cpu:.1f} cores" if run.cpu is not None else "", size(run.memory) if run.memory else ""]
    return ", ".join(part for part in parts if part)
