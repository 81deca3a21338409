"""The dashboard: a source looked at every second by a thread of its own, and four views of what it showed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen, Screen
from textual.theme import Theme
from textual.widgets import ContentSwitcher, Static

from arxiv_embed.errors import ArxivEmbedError, sentence
from arxiv_embed.gpu.health import Verdict
from arxiv_embed.monitor import device_view, error_view, run_view, shard_view
from arxiv_embed.monitor.drawing import FAINT, STRONG, WARN, joined, verdict_of
from arxiv_embed.monitor.glyphs import ASCII, UNICODE, Glyphs
from arxiv_embed.monitor.sources import Sight, Source
from arxiv_embed.wording import printable

LOOK_SECONDS = 1.0
WIDE, TALL = 120, 36
"""Columns from which on panels lie beside each other, lines from which on speed is drawn as charts."""
VIEWS = ("overview", "devices", "errors", "shards")

THEME = Theme(
    name="calm",
    primary="#88c0d0",
    secondary="#b48ead",
    accent="#ebcb8b",
    foreground="#d8dee9",
    background="#1c2129",
    surface="#1c2129",
    panel="#242a34",
    success="#a3be8c",
    warning="#ebcb8b",
    error="#e06c75",
    dark=True,
)

FEW_ERRORS, FEW_DEVICES, CHART_ROWS = 3, 4, 4

Draw = Callable[[Sight, int, int, Glyphs], list[Text]]


def of_width(draw: Callable[[Sight, int, Glyphs], list[Text]]) -> Draw:
    """For what is as high as it comes."""
    return lambda sight, width, _, glyphs: draw(sight, width, glyphs)


class Panel(Static):
    """A part of a view, drawn anew for every sight and every width."""

    def __init__(self, draw: Draw, title: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self._draw = draw
        self._drawn = Text()
        self.border_title = title

    def show(self, sight: Sight, glyphs: Glyphs) -> None:
        width, height = self.content_size
        drawn = Text("\n").join(self._draw(sight, width, height, glyphs)) if width > 0 else self._drawn
        if drawn != self._drawn or drawn.spans != self._drawn.spans:
            self._drawn = drawn
            self.update(drawn)


class DeviceCard(Panel):
    """All that is known of the device at that place among the run's."""

    def __init__(self, place: int) -> None:
        super().__init__(self._card)
        self._place = place

    def _card(self, sight: Sight, width: int, _: int, glyphs: Glyphs) -> list[Text]:
        devices = sight.metrics.devices
        rows = CHART_ROWS if self.screen.has_class("-tall") and len(devices) <= FEW_DEVICES else 1
        return device_view.card(sight, devices[self._place], width, rows, glyphs)

    def show(self, sight: Sight, glyphs: Glyphs) -> None:
        device = sight.metrics.devices[self._place]
        names = [Text(printable(name), STRONG) for name in (device.device, device.product)]
        title = joined([*names, verdict_of(device.health, device.trouble, glyphs)], glyphs)
        self.border_title = Content.from_rich_text(title)
        super().show(sight, glyphs)


class Tab(Static):
    """A view's name in the last line; the one that is shown is marked, not only coloured."""

    def __init__(self, view: str) -> None:
        super().__init__(id=f"tab-{view}", markup=False)
        self.view = view

    def show(self, is_shown: bool, number: int, glyphs: Glyphs) -> None:
        mark = glyphs.here if is_shown else " "
        beside = f" {number:,}" if number else ""
        self.update(Text(f"{mark}{VIEWS.index(self.view) + 1} {self.view}{beside} ", STRONG if is_shown else FAINT))

    async def on_click(self) -> None:
        await self.run_action(f"screen.view('{self.view}')")


class Looked(Message):
    """A source was looked at: what it showed, or why it showed nothing."""

    def __init__(self, sight: Sight | None, trouble: str) -> None:
        super().__init__()
        self.sight = sight
        self.trouble = trouble


class Help(ModalScreen[None]):
    """What the keys do, and what the marks mean."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "app.pop_screen", "close")]

    def __init__(self, glyphs: Glyphs) -> None:
        super().__init__()
        self._glyphs = glyphs

    def compose(self) -> ComposeResult:
        glyphs = self._glyphs
        keys = [
            ("1", "overview: the run, its speed, each device in a row"),
            ("2", "devices: all that is known of each"),
            ("3", "errors: what went wrong, by pattern"),
            ("4", "shards: what is done, under way and left"),
            ("p", "pause, to read in peace; again to go on"),
            ("q", "quit; the run goes on without its monitor"),
            ("?", "this page; Escape closes it"),
        ]
        text = Text()
        for key, what in keys:
            text.append(f" {key}  ", STRONG).append(f"{what}\n")
        text.append("\nMemory  ", FAINT).append(
            f"{glyphs.full} the run's  {glyphs.others} others'  {glyphs.lines[0]} target: batches are planned for it\n"
            f"        {glyphs.lines[1]} critical: above it a device gets no batch\n"
        )
        text.append("busy    ", FAINT).append("share of the time spent computing\n")
        text.append("pad     ", FAINT).append("share of the computed tokens that is padding\n")
        text.append("balance ", FAINT).append("busiest device over the mean: 1 is all alike\n")
        marks = [f"{glyphs.verdicts[verdict]} {verdict}" for verdict in Verdict]
        text.append("health  ", FAINT).append(f"{'  '.join(marks[:4])}\n        {'  '.join(marks[4:])}")
        panel = Static(text, id="help")
        panel.border_title = "help"
        yield panel


class Dashboard(Screen[None]):
    """The views of one source, looked at every `look_seconds`."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 as Textual declares it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (TALL, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"view('{name}')", name) for number, name in enumerate(VIEWS, 1)),
        Binding("p", "pause", "pause"),
        Binding("question_mark", "help", "help"),
        Binding("q", "app.quit", "quit"),
    ]

    def __init__(self, source: Source, glyphs: Glyphs, look_seconds: float) -> None:
        super().__init__()
        self._source = source
        self._glyphs = glyphs
        self._look_seconds = look_seconds
        self._sight: Sight | None = None
        self._trouble = ""
        self._view = VIEWS[0]
        self._is_paused = False
        self._is_looking = False
        self._carded: tuple[str, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        with ContentSwitcher(initial="overview", id="views"):
            with VerticalScroll(id="overview"):
                yield Panel(run_view.throughput, "throughput", "throughput")
                yield Panel(of_width(device_view.rows), "devices")
                with Container(id="below"):
                    yield Panel(run_view.figures, "papers and work")
                    yield Panel(of_width(shard_view.shards), "checkpoints", "safe")
                    yield Panel(_latest, "latest errors", "latest")
            with VerticalScroll(id="devices"):
                yield Container(id="cards")
            with VerticalScroll(id="errors"):
                yield Panel(of_width(error_view.errors), "by pattern")
                yield Panel(of_width(error_view.notices), "notices")
            with VerticalScroll(id="shards"):
                yield Panel(of_width(shard_view.shards), "checkpoints")
        with Horizontal(id="foot"):
            yield from (Tab(name) for name in VIEWS)
            yield Static("p pause  ? help  q quit", id="keys", markup=False)

    def on_mount(self) -> None:
        self.set_class(self._glyphs is ASCII, "ascii")
        self.action_view(VIEWS[0])
        self._look()
        self.set_interval(self._look_seconds, self._look)

    def _look(self) -> None:
        if not (self._is_paused or self._is_looking):
            self._is_looking = True
            self.run_worker(self._look_once, thread=True)

    def _look_once(self) -> None:
        try:
            sight = self._source.look()
        except (OSError, ArxivEmbedError) as error:  # a record that is removed meanwhile
            self.post_message(Looked(None, sentence(error)))
        else:
            self.post_message(Looked(sight, self._source.trouble))

    async def on_looked(self, looked: Looked) -> None:
        self._is_looking = False
        self._sight = looked.sight or self._sight
        self._trouble = looked.trouble if looked.sight is None else ""
        await self._place_cards()
        self._draw()

    async def _place_cards(self) -> None:
        """One for each device that the run has."""
        names = tuple(device.device for device in self._sight.metrics.devices) if self._sight else ()
        if names != self._carded:
            self._carded = names
            cards = self.query_one("#cards")
            await cards.remove_children()
            await cards.mount_all(DeviceCard(place) for place in range(len(names)))

    def on_resize(self, _: events.Resize) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        head = self.query_one("#head", Static)
        if self._sight is None:
            said = f"! {printable(self._trouble)}; trying again" if self._trouble else "reading"
            head.update(Text(f"{said} {self._glyphs.ellipsis}", WARN if self._trouble else FAINT))
            return
        lines = run_view.head(self._sight, max(20, head.content_size.width), self._glyphs)
        if self._trouble:
            lines.append(Text(f"! {printable(self._trouble)}", WARN))
        if self._is_paused:
            lines.append(Text("paused: p goes on", WARN))
        head.update(Text("\n", no_wrap=True).join(lines))
        for panel in self.query(f"#{self._view} Panel").results(Panel):
            panel.show(self._sight, self._glyphs)
        self._name_tabs()

    def _name_tabs(self) -> None:
        met = sum(failure.count for failure in self._sight.metrics.failures) if self._sight else 0
        for tab in self.query(Tab):
            tab.show(tab.view == self._view, met if tab.view == "errors" else 0, self._glyphs)

    def action_view(self, name: str) -> None:
        self._view = self.query_one(ContentSwitcher).current = name
        self.query_one(f"#{name}").focus()
        self._name_tabs()
        self.call_after_refresh(self._draw)

    def action_pause(self) -> None:
        self._is_paused = not self._is_paused
        self._draw()
        self._look()

    def action_help(self) -> None:
        self.app.push_screen(Help(self._glyphs))


def _latest(sight: Sight, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    return error_view.errors(sight, width, glyphs, max(FEW_ERRORS, height))


class Monitor(App[None]):
    """A dashboard of a source; `glyphs` are what the terminal can show."""

    TITLE = "arxiv-embed monitor"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "app.tcss"

    def __init__(self, source: Source, glyphs: Glyphs = UNICODE, look_seconds: float = LOOK_SECONDS) -> None:
        super().__init__()
        self._dashboard = Dashboard(source, glyphs, look_seconds)

    def on_mount(self) -> None:
        self.register_theme(THEME)
        self.theme = THEME.name

    def get_default_screen(self) -> Dashboard:
        return self._dashboard
