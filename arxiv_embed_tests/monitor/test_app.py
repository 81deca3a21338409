"""The dashboard driven by its keys, at 80×24 and at 200×50; `make screenshots` keeps its pictures in docs/."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from arxiv_embed.exposition import openmetrics_of
from arxiv_embed.metrics import metrics_of
from arxiv_embed.monitor.app import VIEWS, Monitor
from arxiv_embed.monitor.glyphs import ASCII, UNICODE, Glyphs
from arxiv_embed.monitor.sources import EndpointSource, HomeSource, Source
from arxiv_embed.record import ProgressReader, ProgressWriter, progress_path
from arxiv_embed.settings import Settings
from arxiv_embed_tests import records
from arxiv_embed_tests.monitor.endpoint import serving
from arxiv_embed_tests.monitor.screen import lines_of

SIZES = [(80, 24), (200, 50)]
LOOKS = 400
"""A dashboard is looked at so often, every few milliseconds, until it shows what is waited for."""

Steps = Callable[[Monitor, Pilot[None]], Awaitable[None]]


def drive(source: Source, size: tuple[int, int], steps: Steps, glyphs: Glyphs = UNICODE) -> None:
    async def driven() -> None:
        app = Monitor(source, glyphs, look_seconds=0.05)
        async with app.run_test(size=size) as pilot:
            await steps(app, pilot)

    asyncio.run(driven())


async def until(app: Monitor, pilot: Pilot[None], said: str) -> list[str]:
    """The lines of the screen once it says that."""
    for _ in range(LOOKS):
        await pilot.pause(0.02)
        lines = lines_of(app)
        if said in "\n".join(lines):
            return lines
    raise AssertionError(f"{said!r} is not shown:\n" + "\n".join(lines_of(app)))


def going_on(settings: Settings, devices: int = 4) -> HomeSource:
    """A source whose record ends two seconds ago; the test holds the record as a run does."""
    events = records.under_way(devices)
    records.write(progress_path(settings, "5f2c9a1e"), events)
    return HomeSource(settings, None, clock=lambda: records.BEGUN + events[-1][0] + 2)


@pytest.mark.parametrize("size", SIZES)
def test_the_keys_switch_between_four_views_that_hold_the_figures(settings: Settings, size: tuple[int, int]) -> None:
    source = going_on(settings)

    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        overview = "\n".join(await until(app, pilot, "out of memory"))
        for told in (
            "bge-small-en-v1.5 · bfloat16",
            "running",
            "18 min 54 s left",
            "61 %",
            "101,986 of 168,000 · 7 failed",
            "51.5",
        ):
            assert told in overview
        for told in ("◆ memory critical", "140 of 150 GB in use, above 138 GB → shrink", "balance", "embedded"):
            assert told in overview
        if folder := os.environ.get("ARXIV_EMBED_SCREENSHOTS"):
            name = f"monitor-{size[0]}x{size[1]}.svg"
            (Path(folder) / name).write_text(app.export_screenshot(title="arxiv-embed monitor"))
        await pilot.press("2")
        cards = "\n".join(await until(app, pilot, "▸2 devices"))
        assert "cuda:0 · NVIDIA H200 · ● ok" in cards
        assert "9.0 GB predicted, 8.0 GB measured (−11.1 %)" in cards
        await pilot.press("3")
        assert "    7 x data" in "\n".join(await until(app, pilot, "▸3 errors 10"))
        await pilot.press("4")
        assert "done 50 of 84 · failed 1" in "\n".join(await until(app, pilot, "▸4 shards"))
        await pilot.press("1")
        await until(app, pilot, "▸1 overview")
        assert max(map(len, lines_of(app))) <= size[0]
        assert len(lines_of(app)) <= size[1]

    with ProgressWriter(progress_path(settings, "5f2c9a1e")):
        drive(source, size, steps)


def test_the_devices_below_are_reached_by_scrolling(settings: Settings) -> None:
    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        await until(app, pilot, "cuda:0")
        await pilot.press("2", "end")
        await until(app, pilot, "cuda:7 · NVIDIA H200")

    drive(going_on(settings, devices=8), (80, 24), steps)


def test_a_record_that_grows_is_followed_and_pausing_holds_the_picture(settings: Settings) -> None:
    with ProgressWriter(progress_path(settings, "r")) as writer:
        writer.write(records.started(["a"], 100, ["cpu:0"]))

        async def steps(app: Monitor, pilot: Pilot[None]) -> None:
            await until(app, pilot, "0 of 100")
            writer.write(records.batch("cpu:0", 40, shard="a"))
            await until(app, pilot, "40 of 100")
            await pilot.press("p")
            await until(app, pilot, "paused: p goes on")
            writer.write(records.batch("cpu:0", 30, shard="a"))
            await pilot.pause(0.1)
            await until(app, pilot, "40 of 100")
            await pilot.press("p")
            assert "paused" not in "\n".join(await until(app, pilot, "70 of 100"))

        drive(HomeSource(settings, None), (80, 24), steps)


def test_a_run_that_was_killed_says_so_and_keeps_its_figures(settings: Settings) -> None:
    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        head = "\n".join((await until(app, pilot, "killed"))[:5])
        assert "101,986 of 168,000" in head
        assert " left" not in head

    drive(going_on(settings), (80, 24), steps)


def test_help_names_the_keys_and_the_views_do_not_switch_behind_it(settings: Settings) -> None:
    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        await until(app, pilot, "cuda:0")
        await pilot.press("question_mark")
        helped = "\n".join(await until(app, pilot, "the run goes on without its monitor"))
        assert all(view in helped for view in VIEWS)
        await pilot.press("3", "escape")
        await until(app, pilot, "▸1 overview")
        await pilot.press("q")

    drive(going_on(settings), (80, 24), steps)


def test_a_tab_is_chosen_by_the_mouse_too(settings: Settings) -> None:
    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        await until(app, pilot, "cuda:0")
        await pilot.click("#tab-shards")
        await until(app, pilot, "▸4 shards")

    drive(going_on(settings), (80, 24), steps)


def test_without_unicode_the_screen_is_ascii(settings: Settings) -> None:
    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        for key in "1234":
            await pilot.press(key)
            drawn = "\n".join(await until(app, pilot, f">{key} "))
            assert drawn.replace("°", "").isascii()  # a reason comes as it was recorded

    drive(going_on(settings), (80, 24), steps, ASCII)


@pytest.mark.parametrize("size", [(40, 12), (120, 36), (250, 70)])
def test_other_sizes_of_terminals_are_no_trouble(settings: Settings, size: tuple[int, int]) -> None:
    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        await until(app, pilot, "papers")
        for key in "1234":
            await pilot.press(key)
        await pilot.resize_terminal(80, 24)
        await until(app, pilot, "▸4 shards")

    drive(going_on(settings), size, steps)


def test_an_endpoint_that_is_away_is_a_sentence_and_is_tried_again(settings: Settings) -> None:
    events = records.under_way()
    progress = ProgressReader(records.write(progress_path(settings, "r"), events)).poll()
    text = openmetrics_of(metrics_of(progress, records.BEGUN + events[-1][0]))
    with serving(text) as server:
        port = server.server_port
    source = EndpointSource(f"127.0.0.1:{port}")

    async def steps(app: Monitor, pilot: Pilot[None]) -> None:
        await until(app, pilot, "does not answer (connection refused); trying again")
        with serving(text, port):
            assert "connection refused)" not in "\n".join((await until(app, pilot, "101,986 of 168,000"))[:5])
        await until(app, pilot, "ago; trying again")

    drive(source, (110, 24), steps)
