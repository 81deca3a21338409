"""Interruption: a run that is stopped, or whose processes are killed, keeps what it finished and says how to go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.record import ProgressReader
from arxiv_embed.settings import settings_from_environment
from arxiv_embed_tests.cli.commands import arxiv_embed, start

PATIENCE_SECONDS = 120


def wait_until(met: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not met():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def papers_done(home: Path) -> int:
    records = list(home.glob("runs/*/progress.jsonl"))
    return ProgressReader(records[0]).poll().papers_done if records else 0


def children_of(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()


@pytest.fixture
def run_command(tmp_path: Path, examples: Path) -> tuple[str | Path, ...]:
    """120 papers, with the bundled model: slow enough to be stopped in the middle."""
    folder = tmp_path / "metadata"
    folder.mkdir()
    shutil.copy(examples / "kaggle-2007.jsonl", folder)
    return ("run", "--metadata-dir", folder, "--devices", "cpu:1", "--dtype", "float32")


def test_an_interrupted_run_is_saved_and_goes_on(tmp_path: Path, run_command: tuple[str | Path, ...]) -> None:
    home = tmp_path / "home"
    process = start(home, *run_command)
    wait_until(lambda: papers_done(home) > 20, "some papers were embedded")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, printed
    assert "Interrupted, with everything saved" in printed
    assert "Traceback" not in printed
    assert json.loads(arxiv_embed(home, "status", "--json").stdout)["last_run"]["state"] == "interrupted"

    again = arxiv_embed(home, *run_command)
    assert again.returncode == 0, again.stdout + again.stderr
    embedded = int(again.stdout.split(" papers embedded")[0].splitlines()[-1])
    assert embedded <= 120 - 20
    assert json.loads(arxiv_embed(home, "status", "--json").stdout)["spaces"][0]["papers"] == 120


def test_interrupting_twice_ends_the_run_at_once_and_dagster_is_told(
    tmp_path: Path, run_command: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    process = start(home, *run_command)
    wait_until(lambda: papers_done(home) > 0, "some papers were embedded")
    [worker] = children_of(process.pid)
    os.kill(worker, signal.SIGSTOP)  # it does not stop when it is asked to
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, printed
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(home))
    with open_instance(settings_from_environment()) as instance:
        assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.FAILURE]


def test_a_killed_run_is_reported_and_goes_on(
    tmp_path: Path, run_command: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    process = start(home, *run_command)
    wait_until(lambda: papers_done(home) > 0, "some papers were embedded")
    [worker] = children_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "The run's process was killed by signal 9" in printed
    assert json.loads(arxiv_embed(home, "status", "--json").stdout)["last_run"]["state"] == "killed"
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(home))
    with open_instance(settings_from_environment()) as instance:
        assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.FAILURE]
    assert arxiv_embed(home, *run_command).returncode == 0


def test_a_run_ends_when_the_command_that_started_it_is_killed(
    tmp_path: Path, run_command: tuple[str | Path, ...]
) -> None:
    home = tmp_path / "home"
    process = start(home, *run_command)
    wait_until(lambda: papers_done(home) > 0, "some papers were embedded")
    [worker] = children_of(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(worker), "the run's process ended")
    [record] = home.glob("runs/*/progress.jsonl")
    assert ProgressReader(record).poll().state == "interrupted"
