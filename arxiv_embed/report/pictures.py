"""The pictures of a report: throughput, memory, lengths and padding, health, balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from arxiv_embed.gpu.health import Verdict
from arxiv_embed.report.drawing import ALARM, INK, SOFT, VERDICTS, colour_of, sheet
from arxiv_embed.report.series import (
    Floats,
    highest,
    rates,
    shares,
    shows_batches,
    shows_health,
    some,
    stretches,
)
from arxiv_embed.report.timeline import Timeline
from arxiv_embed.wording import printable

BINS = 160
MOST_DOTS = 240
"""Batches drawn of each device."""

DASHED = (0, (2, 1.5))
MOST_DEVICES = 16
MOST_IN_LEGEND = 8


@dataclass(frozen=True)
class Picture:
    title: str
    caption: str
    svg: Markup


def pictures(timeline: Timeline) -> list[Picture]:
    """Those that there is something to see on."""
    drawn: list[Picture] = []
    if shows_batches(timeline):
        drawn += [_throughput(timeline), _memory(timeline), _lengths(timeline)]
    if shows_health(timeline):
        drawn.append(_health(timeline))
    if shows_batches(timeline) and len(timeline.devices) > 1:
        drawn.append(_balance(timeline))
    return drawn


class _Clock:
    """The time since a run began, in the unit that its length asks for."""

    def __init__(self, timeline: Timeline, bins: int) -> None:
        self._begun = timeline.progress.started
        last = max([timeline.end, *(batch.time for batch in timeline.batches[-1:])])
        self.edges = np.linspace(self._begun, max(last, self._begun + 1.0), bins + 1)
        seconds = self.edges[-1] - self._begun
        self.unit, self._each = ("h", 3600.0) if seconds > 3 * 3600 else ("min", 60.0) if seconds > 180 else ("s", 1.0)

    def at(self, times: Floats | Sequence[float]) -> Floats:
        return (np.asarray(times, float) - self._begun) / self._each

    def label(self, axes: Axes, *, wide: bool = True) -> None:
        axes.set_xlim(0, float(self.at([self.edges[-1]])[0]))
        axes.xaxis.set_major_locator(MaxNLocator(9 if wide else 5))
        axes.set_xlabel(f"time since the run began, {self.unit}")


def _legend(axes: Axes, count: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.02), ncols=min(count, MOST_IN_LEGEND))


def _shown(timeline: Timeline) -> list[str]:
    return timeline.devices[:MOST_DEVICES]


def _throughput(timeline: Timeline) -> Picture:
    clock = _Clock(timeline, min(BINS, max(20, 2 * len(timeline.batches))))
    devices = timeline.devices
    below = np.zeros(len(clock.edges) - 1)
    with sheet([2.2], "throughput over time") as ([axes], made):
        for number, device in enumerate(devices):
            above = below + rates(timeline.of(device), clock.edges)
            label = printable(device) if number < MOST_IN_LEGEND else None
            x = clock.at(clock.edges)
            axes.stairs(above, x, baseline=below, fill=True, color=colour_of(number), label=label, linewidth=0)
            below = above
        axes.set_ylim(0, max(1.0, float(below.max()) * 1.05))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_title("tokens/s")
        clock.label(axes)
        _legend(axes, len(devices))
    return Picture(
        "Throughput",
        "Real tokens a second, the devices above each other: the height is what they do together.",
        made[0],
    )


def _memory(timeline: Timeline) -> Picture:
    clock = _Clock(timeline, BINS)
    devices = [device for device in _shown(timeline) if timeline.of(device)]
    columns = 1 if len(devices) == 1 else 2
    rows = -(-len(devices) // columns)
    with sheet([1.7] * rows, "memory predicted and measured", columns) as (places, made):
        drawn, left_over = places[: len(devices)], places[len(devices) :]
        for axes, device in zip(drawn, devices, strict=True):
            _memory_of(device, timeline, axes, clock)
            clock.label(axes, wide=columns == 1)
        top = 1.08 * max(axes.get_ylim()[1] for axes in drawn)
        for axes in drawn:
            axes.set_ylim(0, top)
            axes.yaxis.set_major_locator(MaxNLocator(4))
        for axes in left_over:
            axes.set_visible(False)
        for axes in drawn[:-columns]:
            axes.set_xlabel("")
        _legend(places[columns - 1], 2)
    return Picture(
        "Memory",
        "The most that a batch took of its device, its model included, as predicted before (dashed) and as measured.",
        made[0],
    )


def _memory_of(device: str, timeline: Timeline, axes: Axes, clock: _Clock) -> None:
    batches = timeline.of(device)
    times = np.array([batch.time for batch in batches])
    measured = highest(times, np.array([batch.peak_memory for batch in batches]) / 1e9, clock.edges)
    predicted = highest(times, np.array([batch.predicted_memory for batch in batches]) / 1e9, clock.edges)
    colour = colour_of(timeline.devices.index(device))
    axes.plot(clock.at(measured[0]), measured[1], color=colour, linewidth=1.8, label="measured")
    axes.plot(clock.at(predicted[0]), predicted[1], color=INK, linestyle=DASHED, linewidth=1.0, label="predicted")
    told = timeline.health_of(device)
    for name, colour in (("target", SOFT), ("critical", ALARM)):
        limit = told[-1][1].get(f"memory_{name}") if told else None
        if limit is not None:
            place = (1.0, limit / 1e9)
            axes.axhline(limit / 1e9, color=colour, linewidth=0.9)
            axes.annotate(
                name, place, (0, 2), ("axes fraction", "data"), "offset points", ha="right", color=colour, fontsize=8
            )
    axes.set_title(f"{printable(device)}, GB")


def _lengths(timeline: Timeline) -> Picture:
    clock = _Clock(timeline, BINS)
    with sheet([1.7, 1.1], "lengths and padding by batch") as ([lengths, padding], made):
        for number, device in enumerate(timeline.devices):
            batches = some(timeline.of(device), MOST_DOTS)
            x = clock.at([batch.time for batch in batches])
            label = printable(device) if number < MOST_IN_LEGEND else None
            style = {"linestyle": "none", "color": colour_of(number), "markersize": 3.2, "markeredgewidth": 0}
            lengths.plot(x, [batch.longest for batch in batches], marker="o", label=label, **style)  # type: ignore[arg-type]
        times = np.array([batch.time for batch in timeline.batches])
        computed = np.array([batch.padded_tokens for batch in timeline.batches], float)
        real = np.array([batch.tokens for batch in timeline.batches], float)
        at, share = shares(times, computed - real, computed, clock.edges)
        padding.fill_between(clock.at(at), share, color=SOFT, alpha=0.35, linewidth=0)
        padding.plot(clock.at(at), share, color=INK, linewidth=1.0)
        padding.set_ylim(0, max(0.1, float(share.max()) * 1.15 if len(share) else 0.1))
        padding.yaxis.set_major_locator(MaxNLocator(3))
        padding.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        lengths.set_ylim(0, None)
        lengths.set_title("tokens of the longest paper of a batch")
        padding.set_title("padding, of the tokens computed")
        clock.label(padding)
        _legend(lengths, len(timeline.devices))
    return Picture(
        "Lengths and padding", "A dot is a batch. Papers of one length belong together: then little is padded.", made[0]
    )


HEALTH = {
    "temperature": "temperature, °C",
    "power": "power, W",
    "utilization": "utilization",
    "cpu": "CPU of the worker, cores",
}


def _health(timeline: Timeline) -> Picture:
    clock = _Clock(timeline, BINS)
    devices = [device for device in _shown(timeline) if timeline.health_of(device)]
    told = [name for name in HEALTH if any(f.get(name) is not None for d in devices for _, f in timeline.health_of(d))]
    band = 0.35 + 0.17 * len(devices)
    with sheet([*([1.2] * len(told)), band], "health over time") as ([*plots, verdicts], made):
        for axes, name in zip(plots, told, strict=True):
            for device in devices:
                points = [(time, f[name]) for time, f in timeline.health_of(device) if f.get(name) is not None]
                times, values = np.array(points, float).reshape(-1, 2).T
                at, most = highest(times, values, clock.edges)
                number = timeline.devices.index(device)
                label = printable(device) if number < MOST_IN_LEGEND else None
                axes.plot(clock.at(at), most, color=colour_of(number), label=label)
            axes.set_title(HEALTH[name])
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.margins(y=0.15)
            if name == "utilization":
                axes.set_ylim(0, 1.05)
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        met = _verdicts(timeline, devices, verdicts, clock)
        clock.label(verdicts)
        if plots:
            _legend(plots[0], len(devices))
        handles = [Patch(color=VERDICTS[verdict], label=str(verdict)) for verdict in Verdict if verdict in met]
        verdicts.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1, 1.0), ncols=len(handles), handlelength=0.9
        )
    return Picture("Health", "As the reports told it; the band says which verdict each device had.", made[0])


def _verdicts(timeline: Timeline, devices: Sequence[str], axes: Axes, clock: _Clock) -> set[Verdict]:
    met: set[Verdict] = set()
    for row, device in enumerate(devices):
        health = timeline.health_of(device)
        said = [Verdict(fields["verdict"]) for _, fields in health]
        for begun, ended, verdict in stretches([time for time, _ in health], said, timeline.end):
            left, right = clock.at([begun, ended])
            axes.barh(row, right - left, left=left, height=0.72, color=VERDICTS[verdict], linewidth=0)
            met.add(verdict)
    axes.set_yticks(range(len(devices)), [printable(device) for device in devices])
    axes.set_ylim(len(devices) - 0.4, -0.6)
    axes.grid(visible=False)
    axes.set_title("verdict")
    return met


def _balance(timeline: Timeline) -> Picture:
    devices = timeline.metrics.devices[:MOST_DEVICES]
    with sheet([0.55 + 0.24 * len(devices)], "share of the time that each device computed") as ([axes], made):
        for row, device in enumerate(devices):
            axes.barh(row, device.computing, height=0.62, color=colour_of(row), linewidth=0)
            axes.annotate(
                f"{device.computing:.0%}", (1, row), xycoords=("axes fraction", "data"), ha="right", va="center"
            )
        mean = sum(device.computing for device in devices) / len(devices)
        axes.axvline(mean, color=INK, linewidth=0.9, linestyle=DASHED)
        axes.set_yticks(range(len(devices)), [printable(device.device) for device in devices])
        axes.set_ylim(len(devices) - 0.4, -0.6)
        axes.set_xlim(0, max(1.0, *(device.computing for device in devices)) * 1.08)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False)
        axes.set_xlabel("of the time since the devices were ready")
    balance = timeline.metrics.balance
    said = f" The busiest computed {balance:.2f} times as long as the mean (dashed)." if balance else ""
    return Picture("Balance", f"How much of the time each device computed.{said}", made[0])
