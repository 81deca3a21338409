"""`arxiv-embed doctor`: a line each, and an exit code that scripts can use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from arxiv_embed.cli import doctor as command
from arxiv_embed.cli.app import app
from arxiv_embed.doctor.check import Check, fine, skipped, warn, wrong
from arxiv_embed_tests.cli.commands import arxiv_embed

CHECKS = [fine("Python", "3.11"), warn("clocks", "nothing synchronizes it", "set it"), skipped("store", "none yet")]
BROKEN = wrong("home", "nothing can be written", "chown it")


def test_a_sound_home_is_examined_and_nothing_is_made_in_it(
    tmp_path: Path, tiny_model: Path, small_folder: Path
) -> None:
    home = tmp_path / "home"
    arguments = ("--metadata-dir", small_folder, "--model", tiny_model)
    examined = arxiv_embed(home, "doctor", *arguments, "--json")
    found = json.loads(examined.stdout)
    assert (examined.returncode, examined.stderr) == (0 if found["ok"] else 1, "")
    of = {check["name"]: check for check in found["checks"]}
    for name in ("Python", "packages", "torch", "CPU", "home", "checkpoints", "metadata", "shared memory", "model"):
        assert of[name]["state"] == "fine", of[name]
    assert {"clocks", "memory", "open files", "devices", "last run", "quarantine", "store"} <= set(of)
    assert not home.exists()


@pytest.mark.parametrize(("checks", "code"), [(CHECKS, 0), ([*CHECKS, BROKEN], 1)])
def test_the_exit_code_says_whether_anything_is_wrong(
    monkeypatch: pytest.MonkeyPatch, checks: list[Check], code: int
) -> None:
    monkeypatch.setattr(command, "examine", lambda subject: iter(checks))
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == code
    lines = told.stdout.splitlines()
    assert len(lines) == len(checks) + 1
    assert lines[1] == f"! {'clocks':20} nothing synchronizes it: set it"
    assert lines[-1] == ("1 thing to mend" if code else "Nothing is wrong, 1 to know of")
    as_json = CliRunner().invoke(app, ["doctor", "--json"])
    assert as_json.exit_code == code
    assert json.loads(as_json.stdout)["ok"] is (code == 0)
