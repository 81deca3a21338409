"""The batches of all runs: each run's once, whatever became of it, and readable as any Parquet is."""

from __future__ import annotations

import doctest
import json
import os
from pathlib import Path

import pandas as pd
import pytest

import arxiv_embed
from arxiv_embed.batch_history import SCHEMA, keep_batches, kept_batches
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.events import BatchDone, DevicesFound, Event, PoolReady, RunFinished
from arxiv_embed.record import ProgressWriter, progress_path
from arxiv_embed.runs import close_record, killed_runs
from arxiv_embed.settings import Settings
from arxiv_embed_tests.test_progress import started

BEGUN = [
    started("a"),
    DevicesFound([{"name": "cuda:0", "product": "NVIDIA H200"}]),
    PoolReady("bfloat16", 3.0),
]
DONE = RunFinished("done", "", 9.0)


def batch(number: int, device: str = "cuda:0") -> BatchDone:
    return BatchDone("a", device, 20, 4_000, 4_100, 0.25, 3 << 30, 2 << 30, number=number, longest=300, waiting=7)


def write(settings: Settings, run_id: str, *events: Event) -> Path:
    path = progress_path(settings, run_id)
    with ProgressWriter(path) as writer:
        for event in events:
            writer.write(event)
    return path


def test_ten_thousand_batches_come_back_with_what_each_was(settings: Settings) -> None:
    write(settings, "r", *BEGUN, *(batch(number) for number in range(1, 10_001)), DONE)
    keep_batches(settings)
    frame = arxiv_embed.performance(settings.home)
    assert list(frame["number"]) == list(range(1, 10_001))
    assert list(frame.columns) == SCHEMA.names
    row = frame.iloc[-1]
    assert (row["run_id"], row["product"], row["model"], row["dtype"]) == ("r", "NVIDIA H200", "m", "bfloat16")
    assert (row["papers"], row["tokens"], row["padded_tokens"], row["seconds"]) == (20, 4_000, 4_100, 0.25)
    assert (row["longest"], row["waiting"]) == (300, 7)
    assert (row["predicted_memory"], row["peak_memory"]) == (3 << 30, 2 << 30)
    assert str(frame["time"].dt.tz) == "UTC"
    last = json.loads(progress_path(settings, "r").read_text().splitlines()[-2])
    assert row["time"] == pd.Timestamp(last["time"], unit="s", tz="UTC").round("ms")


def test_pandas_reads_the_folder_of_several_runs_itself(settings: Settings) -> None:
    write(settings, "one", *BEGUN, batch(1), batch(2), DONE)
    write(settings, "two", *BEGUN, batch(1, "cpu:0"), DONE)
    write(settings, "none", started("a"), DONE)
    keep_batches(settings)
    frame = pd.read_parquet(settings.performance)
    assert sorted(frame["run_id"]) == ["one", "one", "two"]
    pd.testing.assert_frame_equal(
        frame.sort_values(["run_id", "number"]).reset_index(drop=True),
        arxiv_embed.performance(settings.home).sort_values(["run_id", "number"]).reset_index(drop=True),
    )


def test_the_example_of_its_docstring_runs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write(settings, "r", *BEGUN, batch(1), DONE)
    keep_batches(settings)
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    [found] = doctest.DocTestFinder(recurse=False).find(arxiv_embed.performance, "performance", globs={})
    assert len(found.examples) == 3
    assert doctest.DocTestRunner().run(found).failed == 0


def test_a_run_that_lives_is_not_there_and_one_that_was_killed_is_once_it_was_noticed(settings: Settings) -> None:
    record = write(settings, "r", *BEGUN, batch(1))
    keep_batches(settings)
    assert arxiv_embed.performance(settings.home).empty
    lock = record.with_name("process.lock")
    lock.touch()  # which nobody holds
    [killed] = killed_runs(settings)
    close_record(settings, killed)
    keep_batches(settings)
    assert len(arxiv_embed.performance(settings.home)) == 1


def test_a_run_that_goes_on_in_its_record_has_each_batch_once(settings: Settings) -> None:
    write(settings, "r", *BEGUN, batch(1), RunFinished("failed", "the store is away", 9.0))
    keep_batches(settings)
    write(settings, "r", *BEGUN, batch(1), batch(2), DONE)
    keep_batches(settings)
    keep_batches(settings)
    assert list(arxiv_embed.performance(settings.home)["number"]) == [1, 1, 2]


def test_what_is_kept_is_not_made_again_and_stays_when_the_record_is_gone(settings: Settings) -> None:
    record = write(settings, "r", *BEGUN, batch(1), DONE)
    keep_batches(settings)
    [file] = settings.performance.iterdir()
    file.with_name(".draft-1-r.parquet").write_bytes(file.read_bytes()[:99])  # of a writer that was killed
    before = file.stat().st_ino
    keep_batches(settings)
    assert file.stat().st_ino == before
    record.unlink()
    keep_batches(settings)
    assert kept_batches(settings).num_rows == 1


def test_a_damaged_line_is_passed_over_and_an_older_record_has_nulls(settings: Settings) -> None:
    path = write(settings, "r", *BEGUN, batch(1))
    line = json.loads(path.read_text().splitlines()[-1])
    old = {name: value for name, value in line.items() if name not in ("number", "longest", "waiting")}
    lines = [{**line, "papers": "many"}, {**line, "seconds": None}, {**line, "tokens": -1}, {**line, "time": 1e99}, old]
    with path.open("ab") as file:
        file.write(b'{"event":"batch", "device\n')
        file.writelines(json.dumps(some).encode() + b"\n" for some in lines)
    write(settings, "r", DONE)
    keep_batches(settings)
    frame = arxiv_embed.performance(settings.home)
    assert len(frame) == 2
    assert frame["longest"].isna().sum() == 1
    assert frame["padded_tokens"].sum() == 8_200


def test_a_name_on_disk_that_is_no_utf8_is_written_out(settings: Settings) -> None:
    event = BatchDone(os.fsdecode(b"caf\xe9.jsonl"), "cpu:0", 1, 1, 1, 0.1, 0, 0)
    write(settings, "r", *BEGUN, event, DONE)
    keep_batches(settings)
    assert list(arxiv_embed.performance(settings.home)["shard"]) == [r"caf\udce9.jsonl"]


def test_an_empty_home_has_an_empty_table_of_the_same_columns(tmp_path: Path) -> None:
    frame = arxiv_embed.performance(tmp_path)
    assert frame.empty
    assert list(frame.columns) == SCHEMA.names
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_whole_is_named(settings: Settings) -> None:
    write(settings, "r", *BEGUN, batch(1), DONE)
    keep_batches(settings)
    [file] = settings.performance.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ArxivEmbedError, match=r"r\.parquet cannot be read .* delete it"):
        arxiv_embed.performance(settings.home)
