"""The command `monitor`: snapshots for scripts, sentences for mistakes, a dashboard on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from arxiv_embed.events import DeviceIncident
from arxiv_embed.record import progress_path
from arxiv_embed.settings import settings_from_environment
from arxiv_embed_tests import records
from arxiv_embed_tests.cli.commands import SCRIPT, TIMEOUT, arxiv_embed, environment, installed
from arxiv_embed_tests.monitor.endpoint import serving

HEAVY = ("torch", "dagster", "lancedb", "transformers", "textual", "pandas", "matplotlib")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one run, whose process is gone."""
    home = tmp_path_factory.mktemp("monitored") / "home"
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    records.write(progress_path(settings, "5f2c9a1e"), records.under_way())
    return home


def test_a_pipe_gets_one_plain_snapshot_in_eighty_columns_and_nothing_heavy_is_loaded_for_it(home: Path) -> None:
    shown = installed(home, "monitor", PYTHONPROFILEIMPORTTIME="1")
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    for told in ("killed · after 20 min", "101,986 of 168,000", "▲ hot", "balance 1.00", "Errors, the latest first"):
        assert told in shown.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert "arxiv_embed" in loaded
    assert not loaded.intersection(HEAVY)


def test_json_is_one_document_with_all_figures(home: Path) -> None:
    shown = arxiv_embed(home, "monitor", "5f2c", "--json")
    figures = json.loads(shown.stdout)
    assert (figures["state"], figures["papers_done"], len(figures["devices"])) == ("killed", 101_986, 4)
    assert figures["devices"][1]["health"]["verdict"] == "hot"


def test_json_has_no_password_and_nothing_that_steers_a_terminal(tmp_path: Path) -> None:
    why = "\x1b[31m \x9b1m\x7f \u202e\udce9 postgresql://arxiv:hunter2@db/papers is away"
    events = [
        (1.0, records.started(["a.jsonl"], 10, ["cpu:0"])),
        (2.0, DeviceIncident("a.jsonl", "cpu:0", "lost", why)),
        (3.0, DeviceIncident("a.jsonl", "cpu:0", why, "")),
    ]
    records.write(tmp_path / "runs" / "5f2c9a1e" / "progress.jsonl", events)
    shown = arxiv_embed(tmp_path, "monitor", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "hunter2" not in shown.stdout
    assert shown.stdout.replace("\n", "").isprintable()
    [device] = json.loads(shown.stdout)["devices"]
    assert device["trouble"].startswith("lost: \x1b[31m \x9b1m\x7f")
    assert [what for what in device["incidents"] if what.endswith("postgresql://arxiv:***@db/papers is away")]


def test_where_there_is_nothing_to_show_one_sentence_says_what_to_do(home: Path, tmp_path: Path) -> None:
    none = arxiv_embed(tmp_path / "empty", "monitor", "--once")
    unknown = arxiv_embed(home, "monitor", "nope")
    with serving() as server:
        address = server.address
    away = arxiv_embed(home, "monitor", "--once", "--attach", address)
    assert [answer.returncode for answer in (none, unknown, away)] == [2, 2, 2]
    assert "There has been no run in" in none.stderr
    assert "start one with `arxiv-embed run --metadata-dir DIR`." in none.stderr
    assert unknown.stderr.startswith("Error: There is no run 'nope' in")
    assert unknown.stderr.endswith("name one of the last, 5f2c9a1e.\n")
    assert away.stderr.startswith(f"Error: http://{address}/metrics does not answer (connection refused):")
    assert all(len(answer.stderr.splitlines()) == 1 for answer in (none, unknown, away))


def test_on_a_terminal_it_is_a_dashboard_until_q_is_pressed(home: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [SCRIPT, "monitor"],
        env={**environment(home), "TERM": "xterm-256color", "LANG": "C.UTF-8"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        shown = _read_until(ours, "memory critical")
        assert "\x1b[?1049h" in shown
        os.write(ours, b"q")
        _read_until(ours, "\x1b[?1049l")
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read_until(terminal: int, said: str) -> str:
    shown, deadline = "", time.monotonic() + TIMEOUT
    while said not in re.sub(r"\x1b\[[\d;]*m", "", shown) and said not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 65_536).decode("utf-8", "replace")
    return shown
