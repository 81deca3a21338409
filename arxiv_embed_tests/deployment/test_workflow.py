"""docs/ci/embed.yml: its own commands, as they stand, in a copy of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.cli.commands import environment
from arxiv_embed_tests.conftest import EXAMPLES, REPOSITORY

WORKFLOW: dict[str, Any] = yaml.safe_load((REPOSITORY / "docs" / "ci" / "embed.yml").read_text())
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["embed"]["steps"]
COPIED = ("Makefile", "constraints.txt", "dagster.yaml", "pyproject.toml", "arxiv_embed", "docs/ci")


def checkout(place: Path) -> Path:
    """The files that the commands need. `.venv` is there already, as `make setup` leaves it: its programs are the ones
    that this test runs with."""
    for name in COPIED:
        source, copy = REPOSITORY / name, place / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    sample = place / "examples" / "metadata"
    sample.mkdir(parents=True)
    lines = (EXAMPLES / "kaggle-2007.jsonl").read_bytes().splitlines(keepends=True)
    (sample / "kaggle-2007.jsonl").write_bytes(b"".join(lines[:12]))
    (place / ".venv").mkdir()
    (place / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (place / ".venv" / ".ready").touch()
    return place


def test_the_commands_of_the_workflow_embed_what_is_new_and_leave_the_checkout_as_it_was(
    tmp_path: Path, tiny_model: Path
) -> None:
    place = checkout(tmp_path / "checkout")
    before = {path.name for path in place.iterdir()}
    variables = {name: value.replace("${{ github.workspace }}", str(place)) for name, value in WORKFLOW["env"].items()}
    surroundings = {
        **environment(place / ".arxiv_embed"),
        **variables,
        "PYTHONPATH": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        # In place of the default model, which would take longer.
        "ARXIV_EMBED_MODEL": str(tiny_model),
        "ARXIV_EMBED_DEVICES": "cpu:1",
    }
    make = ["make", "--dry-run", ".venv/.ready"]
    planned = subprocess.run(make, cwd=place, capture_output=True, text=True, check=True)
    assert "is up to date" in planned.stdout, "this test must not install anything"
    commands = [step["run"] for step in STEPS if "run" in step]
    assert len(commands) == 3
    for command in commands:
        done = subprocess.run(
            ["bash", "-e", "-c", command], cwd=place, env=surroundings, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    with open_store(str(place / ".arxiv_embed" / "stores" / "papers")) as store:
        [space] = store.spaces()
        assert store.count(space.fingerprint)[0] == 12
    assert {path.name for path in place.iterdir()} - before == {".arxiv_embed", "status.txt"}
    assert "12" in (place / "status.txt").read_text()


def test_actions_are_pinned_and_what_was_done_is_kept_also_when_a_step_failed() -> None:
    used = {step["uses"]: step for step in STEPS if "uses" in step}
    assert all(name.rpartition("@v")[2].isdigit() for name in used)
    restored, saved = used["actions/cache/restore@v4"], used["actions/cache/save@v4"]
    assert (restored["with"]["path"], restored["with"]["key"]) == (saved["with"]["path"], saved["with"]["key"])
    assert restored["with"]["key"].startswith(restored["with"]["restore-keys"])
    assert saved["if"] == used["actions/upload-artifact@v4"]["if"] == "always()"


def test_what_is_kept_and_handed_out_lies_in_the_home() -> None:
    home = os.path.relpath(WORKFLOW["env"]["ARXIV_EMBED_HOME"], WORKFLOW["env"]["DAGSTER_HOME"])
    used = {step["uses"]: step for step in STEPS if "uses" in step}
    assert used["actions/cache/save@v4"]["with"]["path"] == home
    assert used["actions/upload-artifact@v4"]["with"]["path"].splitlines() == [f"{home}/stores", "status.txt"]


def test_only_what_git_ignores_or_the_workflow_hands_out_is_written() -> None:
    assert WORKFLOW["env"]["DAGSTER_HOME"] == "${{ github.workspace }}", "dagster.yaml lies there"
    assert ".arxiv_embed/" in (REPOSITORY / ".gitignore").read_text().splitlines()
