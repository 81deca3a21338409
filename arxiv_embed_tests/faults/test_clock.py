"""The system's clock set back an hour: between runs and within one, nothing is lost and nothing is done twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arxiv_embed_tests.cli.commands import installed, start
from arxiv_embed_tests.faults.clock import SIGN, build_clock
from arxiv_embed_tests.faults.ends import check_succeeded, check_whole, run_arguments
from arxiv_embed_tests.kills.watch import Following, events_of, records_in, wait_until

PATIENCE_SECONDS = 120.0


@pytest.fixture
def sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, the clock of every command is an hour behind."""
    sign = tmp_path / "sign"
    monkeypatch.setenv("LD_PRELOAD", str(build_clock(tmp_path)))
    monkeypatch.setenv(SIGN, str(sign))
    sign.touch()
    now = subprocess.run([sys.executable, "-c", "import time; print(time.time())"], capture_output=True, check=True)
    assert 3590 < time.time() - float(now.stdout) < 3610, "the clock does not go back"
    sign.unlink()
    return sign


@pytest.mark.parametrize("event", [pytest.param("run_started", marks=pytest.mark.slow), "shard_embedded"])
def test_a_clock_set_back_within_a_run_changes_nothing(
    event: str, sign: Path, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = run_arguments(small_folder, tiny_model)
    command, following = start(home, *arguments), Following(home, set())
    wait_until(
        lambda: command.poll() is not None or any(seen["event"] == event for seen in following.poll()),
        f"the run's record had {event}",
        PATIENCE_SECONDS,
    )
    sign.touch()
    printed, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, printed
    [record] = records_in(home)
    times = [seen["time"] for seen in events_of(record)]
    assert min(times[1:]) < times[0] - 3000, "the clock went back too late to be seen by the run"
    check_whole(home)
    check_succeeded(installed(home, "status"))
    assert installed(home, *arguments).stdout.startswith("Nothing to do")


def test_a_clock_set_back_between_runs_changes_nothing(
    sign: Path, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = run_arguments(small_folder, tiny_model)
    late = tmp_path / "late.jsonl"
    (small_folder / "second.jsonl").rename(late)
    check_succeeded(installed(home, *arguments))
    late.rename(small_folder / "second.jsonl")
    sign.touch()
    second = installed(home, *arguments)
    check_succeeded(second)
    assert "5 papers embedded" in second.stdout
    check_whole(home)
    told = json.loads(installed(home, "status", "--json").stdout)["last_run"]
    assert (told["state"], told["papers"]) == ("done", 5), "status tells of the run before, as the clock says"
    assert installed(home, *arguments).stdout.startswith("Nothing to do")
