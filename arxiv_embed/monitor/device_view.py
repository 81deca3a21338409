"""The view of the devices: a row of each, and a card with all that is known of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from arxiv_embed.metrics import DeviceMetrics
from arxiv_embed.monitor.drawing import (
    CALM,
    FAINT,
    SECOND,
    STRONG,
    WARN,
    Part,
    amount,
    chart,
    cut,
    difference,
    fact,
    folded,
    label,
    memory_bar,
    padded,
    percent,
    style_of,
    verdict_of,
)
from arxiv_embed.monitor.glyphs import Glyphs
from arxiv_embed.monitor.sources import Sight
from arxiv_embed.wording import count, plural, printable, size

LABEL, VERDICT, BAR, MOST_BAR, BESIDE_BAR, LEAST_TREND = 9, 17, 8, 32, 7, 16
"""Columns."""
GAP = Text("  ")


class Memory:
    """A device's memory, as far as it is known: of the whole device, or of the worker's process where there is no
    more."""

    def __init__(self, device: DeviceMetrics) -> None:
        health = device.health
        self.target, self.critical = health.get("memory_target"), health.get("memory_critical")
        used, own = health.get("memory_used"), health.get("memory_allocated") or health.get("process_memory")
        self.used = used if used is not None else own or device.measured_memory
        self.own = own if used is not None and own else 0
        self.is_of_device = bool(health.get("memory_total"))
        self.total = health.get("memory_total") or max(self.critical or 0, self.target or 0)
        """Without the device's own, what the worker may take at most, so that the bar has a scale."""

    @property
    def share(self) -> float | None:
        return self.used / self.total if self.total and self.is_of_device else None

    def bar(self, width: int, style: str, glyphs: Glyphs) -> Text:
        if not self.total:
            return Text(" " * width)
        return memory_bar(self.used, self.own, self.total, (self.target, self.critical), style, width, glyphs)


def rows(sight: Sight, width: int, glyphs: Glyphs) -> list[Text]:
    """A row of each device under a row of titles; why one is not well follows it. What there is no room for is left
    out, from the right."""
    devices = sight.metrics.devices
    if not devices:
        return [Text("The run has no devices yet.", FAINT)]
    name = min(14, max(6, *(len(device.device) for device in devices)))
    others = [("papers/s", 8), ("tokens/s", 8), ("busy", 5), ("pad", 5), ("queue", 5), ("temp", 5), ("power", 5)]
    others += [("retry", 5), ("oom", 3)]
    spare, shown = width - name - VERDICT - BAR - BESIDE_BAR - 4, list[tuple[str, int]]()
    for title, room in others:
        if spare < 2 + room:
            break
        shown.append((title, room))
        spare -= 2 + room
    bar = BAR + max(0, min(MOST_BAR - BAR, spare if spare < LEAST_TREND else spare // 2))
    trend = spare - (bar - BAR) - 2
    trend = trend if trend >= LEAST_TREND else 0
    titles = [Text("device".ljust(name)), Text("health".ljust(VERDICT)), Text("memory".ljust(bar + BESIDE_BAR))]
    titles += [Text(title.rjust(room)) for title, room in shown]
    titles += [Text("tokens/s since the beginning".ljust(trend)[:trend])] if trend else []
    lines = [cut(Text(GAP.join(titles).plain, FAINT), width, glyphs)]
    for device in devices:
        memory, style = Memory(device), style_of(str(device.health.get("verdict", "ok")))
        cells = [
            padded(Text(printable(device.device), STRONG), name, glyphs),
            padded(verdict_of(device.health, device.trouble, glyphs), VERDICT, glyphs),
            memory.bar(bar, CALM if style_of("ok") == style else style, glyphs)
            + padded(Text(percent(memory.share) or size(memory.used)), BESIDE_BAR, glyphs, right=True),
            *(padded(Text(_cell(device, title, glyphs)), room, glyphs, right=True) for title, room in shown),
        ]
        if trend:
            cells.append(chart(_rates(sight, device.device, trend), trend, 1, glyphs, SECOND)[0])
        lines.append(cut(GAP.join(cells), width, glyphs))
        if why := reasons(device, glyphs):
            lines.append(cut(Text(f"  {why}", style), width, glyphs))
    return lines


def reasons(device: DeviceMetrics, glyphs: Glyphs) -> str:
    """Why a device is not well, and what is done about it."""
    why = ", ".join([*device.health.get("reasons", ()), *([device.trouble] if device.trouble else [])])
    action = str(device.health.get("action", ""))
    return printable(f"{why}{f' {glyphs.to} {action}' if action else ''}".strip())


def _cell(device: DeviceMetrics, title: str, glyphs: Glyphs) -> str:
    health = device.health
    temperature, power = health.get("temperature"), health.get("power")
    return {
        "papers/s": f"{device.papers_per_second:,.1f}",
        "tokens/s": count(device.tokens_per_second),
        "busy": percent(device.computing),
        "pad": percent(device.padding),
        "queue": str(health.get("queue", "")),
        "temp": "" if temperature is None else f"{temperature:.0f} {glyphs.degrees}",
        "power": "" if power is None else f"{power:.0f} W",
        "retry": count(device.retries),
        "oom": count(device.out_of_memory),
    }[title]


def _rates(sight: Sight, device: str, points: int, *, papers: bool = False) -> Sequence[float]:
    now = sight.now if sight.metrics.state in ("starting", "running") else sight.metrics.updated
    rates = sight.series.papers_per_second if papers else sight.series.tokens_per_second
    return rates(now, points, device)


def card(sight: Sight, device: DeviceMetrics, width: int, rows: int, glyphs: Glyphs) -> list[Text]:
    """All that is known of one device, its speed drawn so many rows high."""
    memory = Memory(device)
    style, why = style_of(str(device.health.get("verdict", "ok"))), reasons(device, glyphs)
    room = max(8, width - LABEL - 9)
    held = amount(memory.used, memory.total) if memory.is_of_device else size(memory.used)
    lines = [cut(Text(why, style), width, glyphs)] if why else []
    if memory.total:
        bar = memory.bar(room, CALM if style == style_of("ok") else style, glyphs)
        lines.append(label("memory", LABEL) + bar + Text(f"{percent(memory.share):>9}", STRONG))
    known: list[Part] = [held, fact("own", size(memory.own) if memory.own else "")]
    known += [
        fact(f"{glyphs.lines[place]} {line}", size(at) if at is not None else "")
        for place, (line, at) in enumerate((("target", memory.target), ("critical", memory.critical)))
    ]
    lines += _labelled("" if memory.total else "memory", known, width, glyphs)
    for name, values, present, color in (
        ("papers/s", _rates(sight, device.device, room, papers=True), f"{device.papers_per_second:,.1f}", CALM),
        ("tokens/s", _rates(sight, device.device, room), count(device.tokens_per_second), SECOND),
    ):
        first, *others = chart(values, room, rows, glyphs, color)
        lines.append(label(name, LABEL) + first + Text(f"{present:>9}", STRONG))
        lines += [Text(" " * LABEL) + other for other in others]
    off = difference(device.measured_memory, device.predicted_memory, glyphs)
    batch: list[Part] = [
        f"{size(device.predicted_memory)} predicted, {size(device.measured_memory)} measured ({off})",
        fact("peak", size(device.peak_memory)),
        fact("took", f"{device.batch_seconds:.2f} s, the longest {device.longest_batch_seconds:.2f} s"),
    ]
    lines += _labelled("batch", batch if device.batches else ["none yet"], width, glyphs)
    work: list[Part] = [
        fact("busy", percent(device.computing)),
        fact("padding", f"{device.padding:.1%}".replace("%", " %")),
        fact("queue", str(device.health.get("queue", ""))),
        f"{plural(device.papers, 'paper')} in {count(device.batches)} batches",
        fact("retries", count(device.retries) if device.retries else "", WARN),
        fact("out of memory", count(device.out_of_memory) if device.out_of_memory else "", WARN),
    ]
    lines += _labelled("work", work, width, glyphs)
    return lines + _labelled("state", _state(device, glyphs), width, glyphs)


def _state(device: DeviceMetrics, glyphs: Glyphs) -> list[Part]:
    """What its driver, or the system, tells of it."""
    health = device.health

    def told(name: str, unit: str, limit: str = "") -> str:
        value, most = health.get(name), health.get(limit)
        return "" if value is None else f"{value:,.0f}{f' of {most:,.0f}' if most else ''} {unit}"

    present = f"{health.get('computing', 0):.1f} s of {health.get('expected', 0):.1f} s expected"
    return [
        fact("utilization", percent(health.get("utilization"))),
        told("temperature", glyphs.degrees),
        told("power", "W", "power_limit"),
        told("clock", "MHz", "clock_limit"),
        fact("throttled by", printable(", ".join(health.get("throttled_by", ()))), WARN),
        fact("ECC", told("ecc_uncorrected", "uncorrected") if health.get("ecc_uncorrected") else "", WARN),
        fact("XID", ", ".join(map(str, health.get("xid", ()))), WARN),
        fact("NVLinks", told("links_down", "down") if health.get("links_down") else "", WARN),
        fact("cpu", percent(health.get("cpu"))),
        fact("process", size(health["process_memory"]) if health.get("process_memory") else ""),
        fact("present batch", present if health.get("computing") else ""),
    ]


def _labelled(name: str, parts: Sequence[Part], width: int, glyphs: Glyphs) -> list[Text]:
    lines = folded(parts, width - LABEL, glyphs)
    return [label(name if not n else "", LABEL) + line for n, line in enumerate(lines)]
