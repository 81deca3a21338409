"""Progress: one record a run, readable whatever became of its writer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.checkpoint.lock import is_held
from arxiv_embed.errors import Kind
from arxiv_embed.events import (
    BatchDone,
    DeviceIncident,
    DevicesFound,
    Event,
    PaperFailed,
    PapersRead,
    PoolReady,
    RunFinished,
    RunStarted,
    ShardEmbedded,
    ShardFailed,
    ShardStarted,
    ShardStored,
    TextsWaiting,
)
from arxiv_embed.progress import RATE_SECONDS, RunProgress
from arxiv_embed.record import ProgressReader, ProgressWriter


def started(*shards: str, papers: int = 100, unchanged: int = 1) -> RunStarted:
    return RunStarted(
        run_id="r",
        metadata_dir="/metadata",
        shards=shards,
        papers=papers,
        unchanged=unchanged,
        model="m",
        space="s",
        devices=["cpu:0", "cpu:1"],
        store="/store",
    )


def batch(shard: str, papers: int, device: str = "cpu:0", tokens: int = 100) -> BatchDone:
    return BatchDone(shard, device, papers, tokens, tokens + 5, 0.5, 1 << 20, 1 << 20)


def embedded(shard: str, papers: int, resumed: int = 0) -> ShardEmbedded:
    return ShardEmbedded(
        shard=shard,
        papers=papers,
        resumed=resumed,
        chunks=2 * papers,
        tokens=10 * papers,
        embedded_tokens=10 * (papers - resumed),
        padded_tokens=11 * (papers - resumed),
        long_papers=3,
        cut_papers=1,
        cut_tokens=7,
        seconds=2.0,
    )


RUN: list[Event] = [
    started("a", "b"),
    ShardStarted("a", 60),
    PapersRead("a", papers=50, rejects=3, duplicates=2, withdrawn=1, seconds=0.1),
    DevicesFound([{"name": "cpu:0", "power_limit": None}, {"name": "cpu:1", "power_limit": None}]),
    PoolReady("float32", 3.0),
    batch("a", 20),
    batch("a", 10, "cpu:1", 300),
    embedded("a", 50, resumed=20),
    ShardStored("a", 150, 150, 4, 0.2),
    ShardStarted("b", 40),
    PapersRead("b", papers=45, rejects=0, duplicates=0, withdrawn=0, seconds=0.1),
    batch("b", 45),
    ShardFailed("b", "cpu:0 ended"),
    RunFinished("failed", "", 9.0),
]


def record(path: Path, events: Iterable[Event]) -> Path:
    with ProgressWriter(path) as writer:
        for event in events:
            writer.write(event)
    return path


def read(path: Path) -> RunProgress:
    return ProgressReader(path).poll()


def test_a_runs_events_add_up_to_its_state(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "r" / "progress.jsonl"
    progress = read(record(path, RUN))
    assert (progress.run_id, progress.state, progress.error, progress.dtype) == ("r", "failed", "", "float32")
    assert (progress.shards, progress.shards_done, progress.unchanged) == (2, 1, 1)
    assert progress.papers == 95  # 60 and 40 were estimates
    assert progress.papers_done == 95
    assert progress.papers_reused == 20
    assert (progress.rejects, progress.duplicates, progress.withdrawn, progress.rows) == (3, 2, 1, 150)
    assert (progress.long_papers, progress.cut_papers, progress.cut_tokens) == (3, 1, 7)
    assert progress.failed == {"b": "cpu:0 ended"}
    assert progress.tokens == 500
    assert [facts["name"] for facts in progress.facts] == ["cpu:0", "cpu:1"]
    assert progress.devices["cpu:1"].papers == 10
    assert progress.devices["cpu:0"].padded_tokens == 210
    assert progress.started <= progress.ready <= progress.updated


def test_what_was_read_of_a_shard_that_is_tried_again_counts_once(tmp_path: Path) -> None:
    twice = [*RUN[:3], *RUN[1:3], *RUN[3:]]
    progress = read(record(tmp_path / "progress.jsonl", twice))
    assert (progress.papers, progress.rejects, progress.duplicates, progress.withdrawn) == (95, 3, 2, 1)


def test_following_a_record_gives_what_reading_it_whole_gives(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    follower = ProgressReader(path)
    assert follower.poll() == RunProgress()  # not there yet
    with ProgressWriter(path) as writer:
        for event in RUN:
            writer.write(event)
            follower.poll()
    assert follower.poll() == read(path)


def test_a_line_that_is_cut_off_is_passed_over_until_it_is_whole(tmp_path: Path) -> None:
    path = record(tmp_path / "progress.jsonl", RUN[:3])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        follower = ProgressReader(path)
        follower.poll()
        path.write_bytes(whole)
        assert follower.poll() == read(path)


def test_an_attempt_after_a_kill_goes_on_in_the_same_record(tmp_path: Path) -> None:
    path = record(tmp_path / "progress.jsonl", RUN[:7])
    path.write_bytes(path.read_bytes()[:-9])  # killed in the middle of a line
    assert read(path).state == "running"
    again = [started("b", papers=40, unchanged=2), *RUN[9:12], embedded("b", 45), ShardStored("b", 9, 9, 0, 0.1)]
    record(path, [*again, RunFinished("done", "", 1.0)])
    progress = read(path)
    assert (progress.state, progress.shards, progress.shards_done, progress.unchanged) == ("done", 1, 1, 2)
    assert (progress.papers, progress.papers_done, progress.rejects, progress.rows) == (45, 45, 0, 9)


@given(st.lists(st.integers(0, 200), max_size=len(RUN)))
def test_half_lines_among_whole_ones_do_not_keep_the_record_from_being_read(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    """A disk that was full for a while leaves some."""
    path = record(tmp_path_factory.mktemp("record") / "progress.jsonl", RUN)
    expected = read(path)
    lines = path.read_bytes().splitlines()
    halves = [line[: min(cut, len(line) - 1)] for line, cut in zip(lines, cuts, strict=False)]
    path.write_bytes(b"".join(line + b"\n" for line in [*halves, *lines, *halves]))
    assert read(path) == expected


WRITER = """
import sys
from pathlib import Path
from arxiv_embed.record import ProgressWriter
from arxiv_embed_tests.test_progress import batch, started
with ProgressWriter(Path(sys.argv[1])) as writer:
    writer.write(started("a"))
    for n in range(10**9):
        writer.write(batch("a", 1))
        if n == 50:
            print("going", flush=True)
"""


def test_a_killed_runs_record_is_readable_and_known_to_be_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    assert not is_held(path)
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "going\n"
    assert is_held(path)
    process.kill()
    process.wait()
    assert not is_held(path)
    progress = read(path)
    assert progress.state == "running"
    assert progress.papers_done > 50


def test_the_present_speed_counts_the_last_half_minute_only() -> None:
    progress = RunProgress()
    progress.apply({"time": 1000.0, "event": "run_started", **vars(started("a"))})
    progress.apply({"time": 1000.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0})
    assert progress.seconds_left(1000.5) is None
    for second in range(1, 101):
        papers = 1 if second <= 60 else 5
        progress.apply({"time": 1000.0 + second, "event": "batch", **vars(batch("a", papers, tokens=10 * papers))})
    papers_rate, tokens_rate = progress.devices["cpu:0"].rates(1100.0, progress.ready)
    assert papers_rate == pytest.approx(5, rel=0.05)
    assert tokens_rate == pytest.approx(50, rel=0.05)
    assert len(progress.devices["cpu:0"].recent) <= RATE_SECONDS + 1
    early = RunProgress()
    early.apply({"time": 10.0, "event": "batch", **vars(batch("a", 8))})
    assert early.devices["cpu:0"].rates(12.0, 8.0)[0] == pytest.approx(2)


def test_what_was_reused_is_told_apart_by_where_it_came_from_and_from_what_was_embedded(tmp_path: Path) -> None:
    sources = {"from_checkpoints": 12, "from_store": 5, "same_text": 1}
    done = replace(embedded("a", 50, resumed=20), **sources)
    progress = read(record(tmp_path / "record", [*RUN[:7], done]))
    assert (progress.papers_embedded, progress.papers_reused) == (30, 20)
    assert progress.reused_from_checkpoints == 12
    assert (progress.reused_from_store, progress.reused_same_text) == (5, 1)


def test_the_time_left_follows_from_papers_embedded_not_from_reused_ones() -> None:
    progress = RunProgress()
    progress.apply({"time": 0.0, "event": "run_started", **vars(started("a", "b", papers=300))})
    progress.apply({"time": 10.0, "event": "shard_embedded", **vars(embedded("a", 100, resumed=100))})
    progress.apply({"time": 10.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0})
    progress.apply({"time": 20.0, "event": "batch", **vars(batch("b", 50))})
    assert progress.papers_done == 150
    assert progress.seconds_left(20.0) == pytest.approx(150 * 10 / 50)


def test_the_time_left_follows_from_tokens_as_the_longest_papers_go_first() -> None:
    progress = RunProgress()
    progress.apply({"time": 0.0, "event": "run_started", **vars(started("a", "b", papers=300))})
    progress.apply({"time": 10.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0})
    progress.apply({"time": 10.0, "event": "texts_waiting", **vars(TextsWaiting("a", 100, 20_000))})
    progress.apply({"time": 20.0, "event": "batch", **vars(batch("a", 10, tokens=4_000))})
    assert progress.seconds_left(20.0) == pytest.approx((16_000 + 200 * 200) / 400)
    progress.apply({"time": 60.0, "event": "batch", **vars(batch("a", 90, tokens=16_100))})
    assert progress.seconds_left(60.0) == pytest.approx(200 * 200 / 402)
    progress.apply({"time": 60.0, "event": "shard_embedded", **vars(embedded("a", 100))})
    progress.apply({"time": 60.0, "event": "texts_waiting", **vars(TextsWaiting("b", 200, 30_000))})
    assert progress.seconds_left(60.0) == pytest.approx(30_000 / 402)
    progress.apply({"time": 60.0, "event": "shard_failed", **vars(ShardFailed("b", "It broke."))})
    assert progress.seconds_left(60.0) == pytest.approx(200 * (50_000 / 300) / 402)


def test_a_pool_that_was_started_anew_has_a_speed_of_its_own() -> None:
    progress = RunProgress()
    progress.apply({"time": 0.0, "event": "run_started", **vars(started("a", papers=200))})
    progress.apply({"time": 0.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0})
    progress.apply({"time": 9.0, "event": "batch", **vars(batch("a", 90))})
    progress.apply({"time": 20.0, "event": "pool_ready", "dtype": "float32", "seconds": 1.0})
    progress.apply({"time": 25.0, "event": "batch", **vars(batch("a", 10))})
    assert progress.devices["cpu:0"].rates(25.0, progress.ready)[0] == pytest.approx(2)
    assert progress.seconds_left(25.0) == pytest.approx(100 / 2)


def test_an_event_of_a_later_version_is_passed_over() -> None:
    progress = RunProgress()
    progress.apply({"time": 5.0, "event": "something_new"})
    assert progress.updated == 5.0


def test_where_all_shards_are_read_first_each_counts_once_and_the_one_at_work_is_named() -> None:
    reads = [PapersRead(name, papers=10, rejects=1, duplicates=2, withdrawn=0, seconds=0.1, urgent=3) for name in "ab"]
    events = [started("a", "b", papers=30), ShardStarted("a", 15), reads[0], ShardStarted("b", 15), reads[1]]
    progress = RunProgress()
    for event in [*events, batch("a", 10), embedded("a", 10), batch("b", 10), embedded("b", 10)]:
        progress.apply({"time": 1.0, "event": event.name, **vars(event)})
        if event == batch("a", 10):
            assert progress.shard == "a"
    assert (progress.papers, progress.papers_done, progress.papers_reused) == (20, 20, 0)
    assert (progress.rejects, progress.duplicates, progress.urgent, progress.shard) == (2, 4, 6, "b")


def test_a_record_written_before_there_were_urgent_papers_is_read() -> None:
    line = {"shard": "a", "papers": 1, "rejects": 0, "duplicates": 0, "withdrawn": 0, "seconds": 0.1}
    progress = RunProgress()
    progress.apply({"time": 1.0, "event": "papers_read", **line})
    assert progress.urgent == 0


def test_what_went_wrong_on_a_device_is_counted_and_what_ails_it_now_is_told() -> None:
    progress = RunProgress()
    events = [
        started("a"),
        DeviceIncident("a", "cpu:1", "out of memory", "20 papers of 4000 tokens"),
        DeviceIncident("a", "cpu:1", "lost", "its worker ended with exit code -9"),
    ]
    for event in events:
        progress.apply({"time": 1.0, "event": event.name, **asdict(event)})
    assert progress.devices["cpu:1"].incidents == {"out of memory": 1, "lost": 1}
    assert progress.devices["cpu:1"].trouble == "lost: its worker ended with exit code -9"
    for what in ("back", "retired"):
        progress.apply({"time": 2.0, **asdict(DeviceIncident("a", "cpu:1", what, "x")), "event": "device_incident"})
        assert bool(progress.devices["cpu:1"].trouble) == (what == "retired")


def test_a_device_that_rests_is_in_trouble_until_it_is_cool() -> None:
    progress = RunProgress()

    def happens(what: str, detail: str = "x") -> str:
        event = DeviceIncident("a", "cuda:0", what, detail)
        progress.apply({"time": 1.0, "event": event.name, **asdict(event)})
        return progress.devices["cuda:0"].trouble

    assert happens("paused", "91 °C, of 87 °C at most") == "paused: 91 °C, of 87 °C at most"
    assert happens("shrunk") == "paused: 91 °C, of 87 °C at most"  # it works on, with that
    assert happens("cool again") == ""
    assert happens("restarted", "XID 95") == "restarted: XID 95"
    assert happens("cool again") == "restarted: XID 95"
    assert happens("back") == ""
    assert {(pattern.signature, pattern.kind) for pattern in progress.errors.patterns()} == {
        ("paused: # °C, of # °C at most", Kind.RESOURCE),
        ("shrunk: x", Kind.RESOURCE),
        ("restarted: XID #", Kind.TRANSIENT),
    }


def test_papers_that_failed_are_done_with_and_known_by_their_reason() -> None:
    progress = RunProgress()
    failed = PaperFailed("a", "2401.00001", "it ends the worker that embeds it")
    for event in (started("a", papers=10), batch("a", 9), failed, replace(embedded("a", 9), failed=1)):
        progress.apply({"time": 1.0, "event": event.name, **asdict(event)})
    assert progress.failed_papers == {"2401.00001": "it ends the worker that embeds it"}
    assert progress.papers_done == 10


@pytest.mark.parametrize(
    "line", ['{"time":2.0,"event":"shard_started","shbrd":"a"}', "[1,2]", "null", '{"event":"run_started"}', "[" * 9000]
)
def test_a_damaged_line_is_passed_over(tmp_path: Path, line: str) -> None:
    record = tmp_path / "progress.jsonl"
    with ProgressWriter(record) as writer:
        writer.write(ShardStarted("a.jsonl", 3))
    with record.open("a") as file:
        file.write(line + "\n")
    with ProgressWriter(record) as writer:
        writer.write(RunFinished("done", "", 1.0))
    assert ProgressReader(record).poll().state == "done"
