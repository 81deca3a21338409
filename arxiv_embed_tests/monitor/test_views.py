"""The views as text: all figures there, nothing wider than asked, nothing that steers a terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from arxiv_embed.events import DeviceIncident, ErrorMet, ShardFailed
from arxiv_embed.gpu.health import Action, Verdict
from arxiv_embed.monitor import device_view, error_view, run_view, shard_view
from arxiv_embed.monitor.drawing import amount, chart, difference, memory_bar, progress_bar
from arxiv_embed.monitor.glyphs import ASCII, UNICODE, Glyphs, glyphs_for
from arxiv_embed.monitor.snapshot import snapshot
from arxiv_embed.monitor.sources import HomeSource, Sight
from arxiv_embed.record import progress_path
from arxiv_embed.settings import Settings
from arxiv_embed_tests import records

GB = records.GB


def sight_of(settings: Settings, events: list[records.Timed]) -> Sight:
    records.write(progress_path(settings, "5f2c9a1e"), events)
    return HomeSource(settings, None).look()  # type: ignore[return-value]


@pytest.fixture
def sight(settings: Settings) -> Sight:
    return sight_of(settings, records.under_way())


def all_views(sight: Sight, width: int, glyphs: Glyphs) -> list[str]:
    lines = [
        *run_view.head(sight, width, glyphs),
        *run_view.throughput(sight, width, 2, glyphs),
        *run_view.throughput(sight, width, 12, glyphs),
        *device_view.rows(sight, width, glyphs),
        *run_view.figures(sight, width, 0, glyphs),
        *run_view.figures(sight, width, 30, glyphs),
        *error_view.errors(sight, width, glyphs),
        *error_view.notices(sight, width, glyphs),
        *shard_view.shards(sight, width, glyphs),
    ]
    for device in sight.metrics.devices:
        lines += device_view.card(sight, device, width, 3, glyphs)
    wide = [line.plain for line in lines if line.cell_len > width]
    assert not wide, f"wider than {width}: {wide}"
    return [line.plain for line in lines]


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_no_view_is_wider_than_it_is_asked_to_be(sight: Sight, glyphs: Glyphs) -> None:
    for width in (40, 60, 76, 80, 100, 121, 200):
        assert all_views(sight, width, glyphs)
        assert all(line.cell_len <= width for line in snapshot(sight, width, glyphs))
    away = replace(sight, shards=None, away="http://gpu-7:9400/metrics does not answer: figures of 20 s ago")
    assert "does not answer" in "\n".join(all_views(away, 80, glyphs))


def test_without_unicode_nothing_but_ascii_is_drawn(sight: Sight) -> None:
    drawn = "\n".join(all_views(sight, 80, ASCII)).replace("°", "")  # a reason comes as it was recorded
    assert drawn.isascii()
    assert glyphs_for("utf-8") is glyphs_for("UTF8") is UNICODE
    assert glyphs_for("iso-8859-1") is glyphs_for("ascii") is glyphs_for("nonsense") is ASCII


def test_a_run_with_nothing_yet_has_views_too(settings: Settings) -> None:
    started = records.started([], 0, [])
    shown = "\n".join(all_views(sight_of(settings, [(5.0, started)]), 80, UNICODE))
    assert "The run has no devices yet." in shown
    assert "No errors." in shown


def test_a_password_is_in_no_view(settings: Settings) -> None:
    url = "postgresql://arxiv:hunter2@db/papers"
    events = [*records.under_way(1), (1300.0, DeviceIncident("a", "cuda:0", "lost", f"{url} is away"))]
    events += [(1301.0, ShardFailed(url, f"{url} is away"))]
    sight = sight_of(settings, events)
    shown = "\n".join([*all_views(sight, 200, UNICODE), *(line.plain for line in snapshot(sight, 200, UNICODE))])
    assert "hunter2" not in shown
    assert shown.count("postgresql://arxiv:***@db/papers") > 2


def test_names_and_messages_cannot_steer_the_terminal(settings: Settings) -> None:
    evil = "cut\x1b]0;owned\x07 \udcff\nand\u202e on " + "論" * 60
    events: list[records.Timed] = [
        (1.0, replace(records.started([evil], 9, [evil]), model=evil, metadata_dir=evil)),
        (2.0, records.batch(evil, 9, shard=evil)),
        (3.0, ErrorMet(evil, "transient", evil, "tried again")),
        (3.0, DeviceIncident(evil, evil, "lost", evil)),
    ]
    shown = all_views(sight_of(settings, events), 80, UNICODE)
    assert all(line.isprintable() for line in shown)


def test_a_device_that_is_not_well_says_why_and_what_is_done(sight: Sight) -> None:
    rows = [line.plain for line in device_view.rows(sight, 80, UNICODE)]
    hot = next(number for number, row in enumerate(rows) if row.startswith("cuda:1"))
    assert "▲ hot" in rows[hot]
    assert rows[hot + 1].strip() == "91 °C, above 87 °C → pause"
    assert any("◆ memory critical" in row and "93 %" in row for row in rows)
    ascii_rows = "\n".join(line.plain for line in device_view.rows(sight, 80, ASCII))
    assert "! hot" in ascii_rows
    assert "+ ok" in ascii_rows


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_word_and_its_mark(settings: Settings, verdict: Verdict) -> None:
    told: dict[str, Any] = {"reasons": ["it is so"], "action": Action.RETIRE}
    events = records.under_way(1)[:-1]
    report = records.healthy(1, records.gpu("cuda:0", verdict, **told))
    row = device_view.rows(sight_of(settings, [*events, (events[-1][0], report)]), 80, UNICODE)[1].plain
    assert f"{UNICODE.verdicts[verdict]} {verdict.value} " in row


def test_a_card_tells_memory_batches_work_and_the_state_of_the_device(sight: Sight) -> None:
    card = "\n".join(line.plain for line in device_view.card(sight, sight.metrics.devices[1], 90, 1, UNICODE))
    for told in (
        "92 of 150 GB · own 84 GB · ┊ target 112 GB · ┃ critical 138 GB",
        "9.0 GB predicted, 8.0 GB measured (−11.1 %)",
        "busy 96 % · padding 2.3 % · queue 2",
        "91 °C · 512 of 700 W · 1,410 of 1,980 MHz",
        "throttled by thermal slowdown",
    ):
        assert told in card


def test_without_a_gpu_the_memory_of_the_process_is_shown(settings: Settings) -> None:
    unknown = dict.fromkeys(("memory_used", "memory_total", "memory_allocated", "temperature", "power", "utilization"))
    report = records.gpu("cpu:0", **{**unknown, "process_memory": 700_000_000, "cpu": 0.98, "clock": None})
    events: list[records.Timed] = [
        (1.0, records.started(["a"], 9, ["cpu:0"])),
        (2.0, records.healthy(1, report)),
    ]
    sight = sight_of(settings, events)
    card = "\n".join(line.plain for line in device_view.card(sight, sight.metrics.devices[0], 90, 1, UNICODE))
    assert "700 MB · ┊ target 112 GB" in card
    assert "cpu 98 %" in card
    assert "°C" not in card


def test_before_a_report_the_memory_is_that_of_the_last_batch(settings: Settings) -> None:
    events = [(1.0, records.started(["a"], 9, ["cpu:0"])), (2.0, records.batch("cpu:0", 9, shard="a"))]
    sight = sight_of(settings, [*events])
    card = [line.plain for line in device_view.card(sight, sight.metrics.devices[0], 90, 1, UNICODE)]
    assert card[0] == "memory   3.0 GB"
    assert "no report" in device_view.rows(sight, 80, UNICODE)[1].plain


def test_the_lines_of_target_and_critical_stand_where_they_are_in_the_bar() -> None:
    bar = memory_bar(60, 40, 100, (70, 90), "#88c0d0", 20, UNICODE).plain
    assert bar == "━" * 8 + "╍" * 4 + "──┊───┃─"
    assert memory_bar(95, 95, 100, (70, 90), "#88c0d0", 20, UNICODE).plain == "━" * 14 + "┊━━━┃─"
    assert memory_bar(60, 0, 100, (None, None), "#88c0d0", 5, ASCII).plain == "===.."


def test_only_what_is_done_fills_a_bar_and_whatever_is_not_nothing_shows_in_a_chart() -> None:
    assert progress_bar(0.999, 10, UNICODE).plain == "━" * 9 + "╸"
    assert progress_bar(1.0, 4, ASCII).plain == "===="
    assert [line.plain for line in chart([0, 0.001, 4, 8], 5, 2, UNICODE)] == ["   █ ", " ▁██ "]
    assert chart([], 3, 1, UNICODE)[0].plain == "   "


def test_amounts_and_differences_are_worded_with_their_units() -> None:
    assert amount(98 * GB, 143 * GB) == "98 of 143 GB"
    assert amount(640_000_000, 2 * GB) == "0.6 of 2.0 GB"
    assert difference(95, 100, UNICODE) == "−5.0 %"
    assert difference(103, 100, ASCII) == "+3.0 %"


def test_the_shards_are_shown_one_by_one_with_why_they_are_not_done(sight: Sight) -> None:
    shown = "\n".join(line.plain for line in shard_view.shards(sight, 76, UNICODE))
    assert "done 50 of 84 · failed 1 · to do 33 · rows stored 300,000" in shown
    assert "segments saved 52 with 44,200 papers" in shown
    assert "●●●●●●●✗●" in shown
    assert "✗ failed  month:1908: The store does not answer: connection refused." in shown
    remote = "\n".join(line.plain for line in shard_view.shards(replace(sight, shards=None), 76, UNICODE))
    assert "not which" in remote
