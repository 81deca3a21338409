"""The display of a run: one calm block on a terminal, plain lines elsewhere, both made from the run's record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from arxiv_embed.cli.terminal import say
from arxiv_embed.cli.wording import papers_done
from arxiv_embed.gpu.inventory import DeviceFacts, describe
from arxiv_embed.progress import RunProgress
from arxiv_embed.wording import count, duration, plural, printable

LINE_SECONDS = 10.0
BAR_WIDTH = 40


class Display(Protocol):
    """A context manager that shows a run's progress as often as it is told."""

    def __enter__(self) -> Display: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, progress: RunProgress) -> None: ...

    def say(self, line: str) -> None: ...


class Verbosity(StrEnum):
    """How much a run says on the terminal."""

    QUIET = "quiet"
    """How it ended, and what went wrong."""
    NORMAL = "normal"
    VERBOSE = "verbose"
    """A line for each shard and each device too."""


def display_on(console: Console, verbosity: Verbosity = Verbosity.NORMAL) -> Display:
    """What suits the console."""
    if verbosity is Verbosity.QUIET:
        return NoDisplay()
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


class LiveDisplay:
    """For a terminal: redrawn in place, gone when the run has ended."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._noticed = 0

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: RunProgress) -> None:
        self._noticed = say_notices(progress, self._noticed, self.say)
        self._live.update(block(progress, time.time()), refresh=True)

    def say(self, line: str) -> None:
        say(self._live.console, line)


class NoDisplay:
    """For whoever asks for how it ended alone."""

    def __enter__(self) -> NoDisplay:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, progress: RunProgress) -> None: ...

    def say(self, line: str) -> None: ...


class PlainDisplay:
    """For pipes and logs: a line for each device, one when a shard is done or fails, and one every `LINE_SECONDS`."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.time) -> None:
        self._console = console
        self._clock = clock
        self._shown = (0, 0, False)
        self._devices_shown = False
        self._noticed = 0
        self._last = clock()

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, progress: RunProgress) -> None:
        if progress.facts and not self._devices_shown:
            for facts in progress.facts:
                self.say(describe(DeviceFacts(**facts)))
            self._devices_shown = True
        self._noticed = say_notices(progress, self._noticed, self.say)
        state = (progress.shards_done, len(progress.failed), progress.ready > 0)
        now = self._clock()
        if state != self._shown or (progress.ready and now - self._last >= LINE_SECONDS):
            self.say(line(progress, now))
            self._shown, self._last = state, now

    def say(self, line: str) -> None:
        say(self._console, line)


def say_notices(progress: RunProgress, said: int, say: Callable[[str], None]) -> int:
    """Says what has come since so many were said; returns how many there are now."""
    for notice in progress.notices[said:]:
        say(printable(notice))
    return len(progress.notices)


def line_of(event: Mapping[str, Any]) -> str:
    """What a verbose run says of a line of its record; "" where that is nothing."""
    match event["event"]:
        case "device_incident":
            return f"{event['device']} {event['what']}: {event['detail']}"
        case "papers_read":
            read = f"{plural(event['papers'], 'paper')} read, {plural(event['rejects'], 'record')} rejected"
            return f"{event['shard']}: {read} in {duration(event['seconds'])}"
        case "shard_embedded":
            embedded = f"{plural(event['papers'], 'paper')} embedded, {count(event['resumed'])} of them reused"
            return f"{event['shard']}: {embedded}, in {duration(event['seconds'])}"
        case "shard_stored":
            rows = f"{count(event['rows_written'])} of {plural(event['rows'], 'row')} written"
            return f"{event['shard']}: {rows} in {duration(event['seconds'])}"
        case "shard_failed" | "error":
            what = event.get("error") or event["message"]
            return f"{event['shard']}: {what}" if event["shard"] else what
    return ""


def line(progress: RunProgress, now: float) -> str:
    """The run's state in one line."""
    if progress.ready and not progress.papers_done and not progress.shards_done:
        return f"{progress.model} in {progress.dtype} on {', '.join(progress.devices)}"
    papers, tokens = total_rates(progress, now)
    left = progress.seconds_left(now)
    parts = [
        f"{progress.shards_done} of {plural(progress.shards, 'shard')}",
        papers_done(progress),
        f"{papers:.1f} papers/s",
        f"{count(tokens)} tokens/s",
        f"{count(progress.rejects)} rejects",
        *([f"{len(progress.failed)} failed"] if progress.failed else []),
        *([f"{duration(left)} left"] if left else []),
    ]
    return ", ".join(parts)


def block(progress: RunProgress, now: float) -> RenderableType:
    """The run's state as a few lines that keep their places."""
    if not progress.started:
        return Text("starting …", style="dim")
    left = progress.seconds_left(now)
    doing = f"{progress.shard}" if progress.ready else "reading, and loading the model …"
    grid = Table.grid(padding=(0, 2))
    grid.add_row("model", progress.dtype, Text(progress.model, style="dim"))
    grid.add_row("shards", f"{progress.shards_done} of {progress.shards}", Text(doing, style="dim"))
    bar = ProgressBar(total=max(progress.papers, 1), completed=progress.papers_done, width=BAR_WIDTH)
    grid.add_row("papers", f"{count(progress.papers_done)} of {count(progress.papers)}", bar)
    if progress.papers_reused:
        grid.add_row("reused", count(progress.papers_reused), Text("papers, their text being known", style="dim"))
    grid.add_row("rejects", count(progress.rejects), Text(f"{duration(left)} left" if left else "", style="dim"))
    for name, device in progress.devices.items():
        papers, tokens = device.rates(now, progress.ready or now)
        rates = f"{count(tokens)} tokens/s" if progress.ready else ""
        grid.add_row(name, f"{papers:.1f} papers/s" if progress.ready else "", printable(device.trouble) or rates)
    failures = [Text(printable(f"failed: {shard}: {error}"), style="red") for shard, error in progress.failed.items()]
    return Group(grid, *failures[-3:])


def total_rates(progress: RunProgress, now: float) -> tuple[float, float]:
    """Papers/s and tokens/s of all devices together, at present."""
    rates = [device.rates(now, progress.ready or now) for device in progress.devices.values()]
    return sum(papers for papers, _ in rates), sum(tokens for _, tokens in rates)
