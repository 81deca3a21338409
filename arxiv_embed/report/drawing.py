"""Drawing: matplotlib's figures as SVG within a page, in the page's colours, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from arxiv_embed.gpu.health import Verdict

WIDTH = 7.6
"""Inches, of 72 points."""

INK, SOFT, LINE, ALARM = "#000101", "#000102", "#000103", "#000104"
SERIES = [f"#0002{number:02x}" for number in range(8)]
VERDICTS = {verdict: f"#0003{number:02x}" for number, verdict in enumerate(Verdict)}
COLOURS: Mapping[str, str] = {
    **{INK: "ink", SOFT: "soft", LINE: "line", ALARM: "accent"},
    **{colour: f"series-{number}" for number, colour in enumerate(SERIES)},
    **{colour: f"verdict-{number}" for number, colour in enumerate(VERDICTS.values())},
}
"""What matplotlib is told, which stands for a colour of the page's style sheet."""

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 9.0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0.0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.1,
    "legend.borderaxespad": 0.0,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.4,
    "lines.solid_joinstyle": "round",
    "path.simplify": True,
}


def colour_of(number: int) -> str:
    """Of the device of that number."""
    return SERIES[number % len(SERIES)]


@contextmanager
def sheet(heights: Sequence[float], name: str, columns: int = 1) -> Iterator[tuple[list[Axes], list[Markup]]]:
    """Axes below each other, of heights in inches (or in columns, row by row), and where the picture is put at the end.
    `name` keeps the ids of one picture apart from another's."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, hspace=0.02, wspace=0.03)
        figure = Figure(figsize=(WIDTH, sum(heights)), layout=layout)
        grid = figure.subplots(
            len(heights), columns, squeeze=False, sharex=columns == 1, gridspec_kw={"height_ratios": list(heights)}
        )
        made: list[Markup] = []
        yield [*grid.flat], made
        made.append(_inline(figure, name))


def _inline(figure: Figure, name: str) -> Markup:
    canvas: Any = FigureCanvasSVG(figure)
    content = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # Text stays text: what matplotlib's own font lacks, whoever looks at the page has.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        canvas.print_svg(content, metadata=nothing)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(
        r'<svg[^>]*?viewBox="([^"]+)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{escape(name)}">',
        svg,
        count=1,
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href=", "href=")
    svg = re.sub(r"#000[123]\w\w", lambda found: f"var(--{COLOURS[found[0]]})", svg)
    return Markup(re.sub(r">\s+<", "><", svg))
