"""Pictures: a shard's lengths and the speed it was embedded at, drawn as SVG for whoever looks at it in Dagster."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, log10
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 640, 210
PLOT_WIDTH, PLOT_HEIGHT, TOP = 250, 150, 15
LENGTHS_AT, SPEED_AT = 50, 380
"""Where the two plots begin, from the left."""
LEGEND_AFTER, LEGEND_EACH, MOST_IN_LEGEND = 60, 60, 3
LENGTH_BINS, TIME_BINS, TICKS = 40, 30, 4
COLOURS = ("#4f43dd", "#e07b39", "#2a9d8f", "#b5179e", "#8d99ae", "#e9c46a", "#264653", "#d62828")
STYLE = "font: 11px sans-serif; background: white"

Edges = npt.NDArray[np.float64]


def shard_picture(lengths: npt.NDArray[np.int32], done: Mapping[str, Sequence[tuple[float, int]]]) -> str:
    """Markdown with an image in it: on the left how many papers have how many tokens (`lengths`, [papers]), on the
    right each device's tokens/s over time, from when (seconds since the start) it had `done` how many tokens."""
    papers, length_edges = np.histogram(lengths, LENGTH_BINS)
    end = max((second for batches in done.values() for second, _ in batches), default=0.0)
    time_edges = np.linspace(0.0, end or 1.0, TIME_BINS + 1)
    rates = {}
    for device, batches in sorted(done.items()):
        seconds, tokens = np.array(batches).T
        rates[device] = np.histogram(seconds, time_edges, weights=tokens)[0] / np.diff(time_edges)
    drawing = [
        *_plot(LENGTHS_AT, {"papers": papers}, length_edges, "tokens of a paper", "papers"),
        *_plot(SPEED_AT, rates, time_edges, "seconds", "tokens/s"),
        *_legend(list(rates)),
    ]
    image = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" style="{STYLE}">'
        f"{''.join(drawing)}</svg>"
    )
    encoded = base64.b64encode(image.encode()).decode()
    return f"![lengths of the papers, and tokens/s over time](data:image/svg+xml;base64,{encoded})"


def _plot(left: int, curves: Mapping[str, Edges], edges: Edges, across: str, up: str) -> Iterator[str]:
    """Steps over bins: `curves` have a value for each bin between `edges`."""
    bottom, right = TOP + PLOT_HEIGHT, left + PLOT_WIDTH
    first, last = float(edges[0]), float(edges[-1])
    highest = max((float(values.max()) for values in curves.values()), default=0.0) or 1.0
    yield f'<path d="M{left} {TOP}V{bottom}H{right}" fill="none" stroke="#888"/>'
    for value in _round_values(first, last):
        x = left + PLOT_WIDTH * (value - first) / (last - first)
        yield _text(x, bottom + 14, f"{value:g}", "middle")
    for value in _round_values(0.0, highest):
        yield _text(left - 5, bottom - PLOT_HEIGHT * value / highest + 4, f"{value:,g}", "end")
    yield _text(left + PLOT_WIDTH / 2, bottom + 32, across, "middle")
    yield _text(left + 4, TOP - 4, up, "start")
    places = left + PLOT_WIDTH * (edges - first) / (last - first)
    for values, colour in zip(curves.values(), COLOURS * len(curves), strict=False):
        heights = bottom - PLOT_HEIGHT * values / highest
        steps = "".join(f"V{y:.1f}H{x:.1f}" for y, x in zip(heights, places[1:], strict=True))
        yield f'<path d="M{left} {bottom}{steps}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    for number, name in enumerate(names[:MOST_IN_LEGEND]):
        x = SPEED_AT + LEGEND_AFTER + LEGEND_EACH * number
        yield f'<rect x="{x}" y="{TOP - 12}" width="8" height="8" fill="{COLOURS[number]}"/>'
        yield _text(x + 12, TOP - 4, name, "start")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="#444">{escape(text)}</text>'


def _round_values(first: float, last: float) -> list[float]:
    """A few round numbers between the two."""
    least = (last - first) / TICKS or 1.0
    power = 10.0 ** np.floor(log10(least))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= least)
    return [step * number for number in range(ceil(first / step), int(last / step) + 1)]
