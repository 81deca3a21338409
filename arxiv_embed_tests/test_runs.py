"""Runs of a home: the last one, and those that were killed."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

import arxiv_embed.runs
from arxiv_embed.events import RunFinished, RunStarted
from arxiv_embed.processes import ProcessId
from arxiv_embed.record import ProgressReader, ProgressWriter, progress_path
from arxiv_embed.runs import close_record, hold_run, killed_runs, last_run, note_as_last, release_run
from arxiv_embed.settings import Settings

GONE = ProcessId(socket.gethostname(), 2**22, "1")
STARTED = RunStarted("r", "/data", ["a.jsonl"], 3, 0, "m", "s", ["cpu:0"], "/store", vars(GONE))


def write(settings: Settings, run_id: str, *events: RunStarted | RunFinished) -> None:
    with ProgressWriter(progress_path(settings, run_id)) as writer:
        for event in events:
            writer.write(event)


def killed(settings: Settings) -> list[str]:
    return [run.run_id for run in killed_runs(settings)]


def test_a_run_whose_process_is_gone_without_a_word_was_killed_and_is_noticed_once(settings: Settings) -> None:
    write(settings, "killed", STARTED)
    write(settings, "done", STARTED, RunFinished("done", "", 1.0))
    write(settings, "alive", replace(STARTED, process=vars(ProcessId.of_run())))
    write(settings, "elsewhere", replace(STARTED, process=vars(replace(GONE, host="elsewhere"))))
    assert killed(settings) == ["killed"]
    [run] = killed_runs(settings)
    assert run.progress.papers == 3
    close_record(settings, run)
    assert killed(settings) == []
    assert ProgressReader(progress_path(settings, "killed")).poll().state == "killed"


def test_a_run_of_the_command_line_is_known_by_its_lock(settings: Settings) -> None:
    with hold_run(settings, "command"):
        write(settings, "command", STARTED)
        assert killed(settings) == []  # though the process that its record names is gone
    assert killed(settings) == ["command"]
    [run] = killed_runs(settings)
    close_record(settings, run)
    assert killed(settings) == []
    with hold_run(settings, "orderly"):
        release_run(settings, "orderly")
    assert killed(settings) == []


def test_a_run_that_ends_while_it_is_looked_at_was_not_killed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = arxiv_embed.runs.is_held

    def look_late(path: Path) -> bool:
        release_run(settings, "orderly")
        return look(path)

    with hold_run(settings, "orderly"):
        monkeypatch.setattr(arxiv_embed.runs, "is_held", look_late)
        assert killed(settings) == []


def test_the_last_run_is_the_one_begun_last_whatever_the_clock_says(settings: Settings) -> None:
    write(settings, "a", STARTED, RunFinished("done", "", 1.0))
    write(settings, "b", STARTED, RunFinished("failed", "It broke.", 1.0))
    for run_id, state in (("a", "done"), ("b", "failed")):
        note_as_last(settings, run_id)
        last = last_run(settings)
        assert last is not None
        assert last.state == state


def test_a_record_that_begins_with_something_else_hides_no_other_run(settings: Settings) -> None:
    write(settings, "r", STARTED)
    for number, first in enumerate(("[]", "null", '{"event":"x","time":[]}', '{"event":"x","time":NaN}')):
        path = progress_path(settings, f"odd{number}")
        path.parent.mkdir(parents=True)
        path.write_text(f"{first}\n")
    last = last_run(settings)
    assert last is not None
    assert last.run_id == "r"
    assert killed(settings) == ["r"]
