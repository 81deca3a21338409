"""The display: what a run's record looks like to the person who waits for it."""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from arxiv_embed import events
from arxiv_embed.cli.display import LiveDisplay, PlainDisplay, Verbosity, block, display_on, line, line_of, say_notices
from arxiv_embed.cli.run import summary
from arxiv_embed.cli.terminal import PIPED_WIDTH, open_console
from arxiv_embed.gpu.inventory import DeviceFacts, describe
from arxiv_embed.progress import RunProgress
from arxiv_embed.wording import count, duration, plural, size

STARTED: dict[str, Any] = {
    "time": 1000.0,
    "event": "run_started",
    "run_id": "r",
    "metadata_dir": "/data",
    "shards": ["[a].jsonl", "b.jsonl"],
    "papers": 30,
    "unchanged": 0,
    "model": "m",
    "space": "s",
    "devices": ["cpu:0"],
    "store": "/store",
}


def progress_of(*events: dict[str, Any]) -> RunProgress:
    progress = RunProgress()
    for event in events:
        progress.apply(event)
    return progress


def halfway() -> RunProgress:
    return progress_of(
        STARTED,
        {"time": 1001.0, "event": "shard_started", "shard": "[a].jsonl", "records": 20},
        {
            "time": 1001.0,
            "event": "papers_read",
            "shard": "[a].jsonl",
            "papers": 20,
            "rejects": 3,
            "duplicates": 0,
            "withdrawn": 0,
            "seconds": 0.1,
        },
        {"time": 1002.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0},
        {
            "time": 1007.0,
            "event": "batch",
            "shard": "[a].jsonl",
            "device": "cpu:0",
            "papers": 15,
            "tokens": 3000,
            "padded_tokens": 3100,
            "seconds": 5.0,
            "peak_memory": 1000,
        },
    )


def rendered(progress: RunProgress, now: float) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False, markup=False)
    console.print(block(progress, now))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_block_shows_shards_papers_rates_time_left_and_rejects() -> None:
    shown = rendered(halfway(), 1007.0)
    for part in ("0 of 2", "[a].jsonl", "15 of 30", "float32", "3.0 papers/s", "600 tokens/s", "5.0 s left"):
        assert part in shown
    rejects = next(line for line in shown.splitlines() if line.startswith("rejects"))
    assert rejects.split()[1] == "3"


def test_the_block_shows_what_failed() -> None:
    progress = halfway()
    progress.apply({"time": 1008.0, "event": "shard_failed", "shard": "[a].jsonl", "error": "It broke."})
    assert "failed: [a].jsonl: It broke." in rendered(progress, 1008.0)


def test_plain_lines_come_with_changes_and_else_seldom() -> None:
    console = Console(file=io.StringIO(), width=200)
    now = [1000.0]
    display = PlainDisplay(console, clock=lambda: now[0])
    progress = halfway()
    for _ in range(5):
        now[0] += 1
        display.show(progress)
    assert isinstance(console.file, io.StringIO)
    assert len(console.file.getvalue().splitlines()) == 1
    now[0] += 10
    display.show(progress)
    assert console.file.getvalue().splitlines()[1].startswith("0 of 2 shards, 15 of 30 papers, ")


def test_plain_lines_begin_with_one_for_each_device() -> None:
    console = Console(file=io.StringIO(), width=200)
    display = PlainDisplay(console, clock=lambda: 1001.0)
    facts = [DeviceFacts(f"cuda:{number}", "cuda", "NVIDIA H100", power_limit=700.0) for number in range(2)]
    progress = progress_of(STARTED)
    display.show(progress)
    progress.apply({"time": 1001.0, "event": "devices_found", "devices": [asdict(found) for found in facts]})
    for _ in range(3):
        display.show(progress)
    progress.apply({"time": 1002.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0})
    display.show(progress)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines == [*map(describe, facts), "m in float32 on cpu:0"]


@pytest.mark.parametrize(("said", "times"), [({"packed": False}, 1), ({"packed": True}, 0), ({}, 0)])
def test_a_model_that_is_not_packed_is_said_to_be_once_however_often_its_pool_is_started(
    said: dict[str, bool], times: int
) -> None:
    ready = {"time": 1002.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0, **said}
    console = Console(file=io.StringIO(), width=200)
    display = PlainDisplay(console, clock=lambda: 1001.0)
    progress = progress_of(STARTED)
    for _ in range(2):
        progress.apply(ready)
        display.show(progress)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("m: computed padded, or text by text, as this model cannot be packed") == times


def test_a_pipe_gets_plain_lines_of_a_fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    console = open_console()
    assert console.width == PIPED_WIDTH
    assert isinstance(display_on(console), PlainDisplay)


def test_the_summary_leaves_out_what_did_not_happen() -> None:
    lines = summary(progress_of(STARTED)).splitlines()
    assert lines == ["0 papers embedded in 0.0 s", "0 rows of 0 shards stored"]


REUSED = {
    "time": 1009.0,
    "event": "shard_embedded",
    "shard": "[a].jsonl",
    "papers": 30,
    "resumed": 15,
    "from_checkpoints": 10,
    "from_store": 2,
    "same_text": 1,
    "long_papers": 0,
    "cut_papers": 0,
    "cut_tokens": 0,
    "seconds": 5.0,
}


def test_what_was_reused_is_shown_apart_from_what_was_embedded_and_counts_for_no_speed() -> None:
    progress = halfway()
    progress.apply(REUSED)
    lines = summary(progress).splitlines()
    assert lines[0] == "15 papers embedded, 15 reused; embedded in 5.0 s: 3.0 papers/s, 600 tokens/s"
    assert lines[1] == "reused: 2 unchanged, 10 from other checkpoints, 2 from the store, 1 of the same text as another"
    assert line(progress, 1009.0).startswith("0 of 2 shards, 30 of 30 papers, 15 of them reused, ")
    assert [shown.split()[1] for shown in rendered(progress, 1009.0).splitlines() if shown.startswith("reused")] == [
        "15"
    ]


def test_where_all_was_reused_no_time_is_told() -> None:
    progress = progress_of(STARTED)
    progress.apply({**REUSED, "resumed": 30, "from_checkpoints": 30, "from_store": 0, "same_text": 0, "seconds": 0.0})
    assert summary(progress).splitlines()[:2] == ["0 papers embedded, 30 reused", "reused: 30 from other checkpoints"]


def test_a_run_that_came_after_another_says_so() -> None:
    late = progress_of({**STARTED, "shards": [], "papers": 0})
    assert summary(late) == "Nothing was left to do: another run has done it meanwhile"


def test_numbers_read_as_people_write_them() -> None:
    assert count(12345.6) == "12,346"
    assert (plural(1, "shard"), plural(0, "shard")) == ("1 shard", "0 shards")
    assert [duration(seconds) for seconds in (4.25, 59.6, 200, 7500)] == [
        "4.2 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
    assert [size(bytes_) for bytes_ in (12, 1500, 640_000, 1_200_000_000)] == ["12 bytes", "1.5 kB", "640 kB", "1.2 GB"]


def error(time: float, message: str = "no answer from 10.0.0.7") -> dict[str, Any]:
    told = {"kind": "transient", "action": "again in 2 s", "message": message}
    return {"time": time, "event": "error", "shard": "b.jsonl", **told}


LEFT = {"time": 1001.0, "event": "shard_left", "shard": "b.jsonl", "holder": "process 7 on host"}
GIVEN_UP = {"time": 1001.0, "event": "shard_given_up", "shard": "b.jsonl", "attempts": 3, "error": "It broke."}
DAMAGE = {
    "time": 1001.0,
    "event": "damage",
    "checkpoint": "papers of b.jsonl",
    "file": "g000001.papers.arrow",
    "reason": "its sha256 does not fit",
    "remedy": "it is done again",
    "place": "/q/1",
}


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_what_goes_wrong_is_shown_once_as_it_happens(kind: type[PlainDisplay] | type[LiveDisplay]) -> None:
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    progress = progress_of(STARTED, error(1001.0), LEFT, DAMAGE)
    with kind(console) as display:
        for _ in range(3):
            display.show(progress)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for notice in (
        "b.jsonl: no answer from 10.0.0.7 (transient: again in 2 s)",
        "b.jsonl is worked on by process 7 on host: others first",
        "damaged: papers of b.jsonl: g000001.papers.arrow: its sha256 does not fit; it is done again",
    ):
        assert shown.count(notice) == 1


def test_an_error_that_repeats_is_noticed_now_and_then() -> None:
    progress = progress_of(STARTED, *(error(1001.0 + n, f"no answer from 10.0.0.{n}") for n in range(12)))
    single = [notice for notice in progress.notices if notice.startswith("b.jsonl: ")]
    folded = [notice.split(" times")[0] for notice in progress.notices if " times: " in notice]
    assert (len(single), folded) == (2, ["3", "10"])


def test_a_step_that_is_tried_again_repeats_no_notice() -> None:
    progress = progress_of(STARTED, LEFT)
    before = list(progress.notices)
    progress.apply(STARTED)
    assert progress.notices == before


def test_the_summary_lists_what_was_not_done_and_what_was_damaged() -> None:
    lines = summary(progress_of(STARTED, GIVEN_UP, {**LEFT, "shard": "[a].jsonl"}, DAMAGE)).splitlines()
    assert "not tried again: b.jsonl: It broke. (tried 3 times): --resume tries it" in lines
    assert "left to process 7 on host: [a].jsonl; run again when that has ended" in lines
    assert lines[-1].startswith("damaged: papers of b.jsonl: ")


def test_a_quiet_run_shows_nothing_until_it_has_ended() -> None:
    console = open_console()
    with console.capture() as said, display_on(console, Verbosity.QUIET) as display:
        display.show(progress_of(STARTED))
        display.say("Stopping")
    assert said.get() == ""


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (events.PapersRead("a", 30, 1, 0, 0, 0.1), "a: 30 papers read, 1 record rejected in 0.1 s"),
        (
            events.ShardEmbedded("a", 30, 3, 90, 9_000, 9_000, 9_100, 0, 0, 0, 12.0),
            "a: 30 papers embedded, 3 of them reused, in 12 s",
        ),
        (events.ShardStored("a", 120, 90, 0, 0.2), "a: 90 of 120 rows written in 0.2 s"),
        (events.ShardFailed("a", "It is broken."), "a: It is broken."),
        (events.ErrorMet("", "transient", "It is away.", "again in 4 s"), "It is away."),
        (events.DeviceIncident("a", "cpu:0", "lost", "its worker ended"), "cpu:0 lost: its worker ended"),
        (events.SegmentSaved("a", 20), ""),
    ],
)
def test_a_verbose_run_has_a_line_for_what_happens_to_each_shard(event: events.Event, said: str) -> None:
    assert line_of({"event": event.name, **asdict(event)}) == said


def test_what_the_run_prints_has_no_password_and_nothing_that_steers_a_terminal() -> None:
    why = "\x1b[31mpostgresql://arxiv:hunter2@db/papers is away"
    progress = RunProgress(started=1.0, notices=[why], failed={"a.jsonl": why})
    said: list[str] = []
    say_notices(progress, 0, said.append)
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(block(progress, 10.0))
    for shown in (said[0], console.export_text()):
        assert "is away" in shown
        assert "hunter2" not in shown
        assert "\x1b" not in shown
