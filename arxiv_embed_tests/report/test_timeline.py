"""A timeline: what happened when, as the record says it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.events import PapersRead, RunFinished, ShardFailed, ShardGivenUp, ShardLeft
from arxiv_embed.gpu.health import DeviceHealth
from arxiv_embed.report.timeline import read_timeline
from arxiv_embed_tests.records import BEGUN, batch, healthy, plain_run, started, write


def test_a_shard_is_where_its_last_event_left_it(tmp_path: Path) -> None:
    events = [
        *plain_run()[:-1],
        (90.0, PapersRead("b.jsonl", 7, 2, 0, 0, 0.5)),
        (91.0, ShardFailed("c.jsonl", "no")),
        (92.0, ShardLeft("d.jsonl", "process 7")),
        (93.0, ShardGivenUp("e.jsonl", 3, "never")),
    ]
    timeline = read_timeline(write(tmp_path / "record", events))
    assert {key: shard.state for key, shard in timeline.shards.items()} == {
        "a.jsonl": "stored",
        "b.jsonl": "read",
        "c.jsonl": "failed",
        "d.jsonl": "left",
        "e.jsonl": "given up",
    }
    assert timeline.shards["b.jsonl"].rejects == 2


def test_of_a_step_that_was_tried_again_the_last_attempt_counts(tmp_path: Path) -> None:
    first = [(0.0, started(["a.jsonl", "b.jsonl"])), (5.0, batch()), (6.0, batch())]
    second = [(60.0, started(["b.jsonl"])), (65.0, batch()), (70.0, RunFinished("done", "", 10.0))]
    timeline = read_timeline(write(tmp_path / "record", [*first, *second]))
    assert (timeline.attempts, len(timeline.batches), list(timeline.shards)) == (2, 1, ["b.jsonl"])
    assert timeline.seconds == 10


def test_a_run_whose_process_is_gone_without_a_word_was_killed_and_ended_with_its_last_event(tmp_path: Path) -> None:
    record = write(tmp_path / "record", plain_run()[:-1])
    timeline = read_timeline(record)
    assert (timeline.progress.state, timeline.end) == ("killed", BEGUN + 101)
    with record.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert read_timeline(record).progress.state == "running"


def test_a_record_that_says_nothing_yet_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ArxivEmbedError, match="had not begun"):
        read_timeline(write(tmp_path / "runs" / "a-run" / "record", []))


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    record = write(tmp_path / "record", plain_run())
    whole = read_timeline(record)
    record.write_bytes(record.read_bytes() + b'{"event":"batch","time":1}\n{"event":"health"\n\xff\n')
    assert len(read_timeline(record).batches) == len(whole.batches)


def test_health_is_found_by_device(tmp_path: Path) -> None:
    reports = [(time, healthy(int(time), DeviceHealth("cuda:1", temperature=time))) for time in (10.0, 20.0)]
    timeline = read_timeline(write(tmp_path / "record", [*plain_run()[:4], *reports]))
    assert [fields["temperature"] for _, fields in timeline.health_of("cuda:1")] == [10.0, 20.0]
    assert timeline.health_of("cuda:0") == []
