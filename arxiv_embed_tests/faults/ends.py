"""How a command may end: in success, or in one clear sentence; and what the store must hold in the end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import lancedb

from arxiv_embed_tests.cli.commands import arxiv_embed
from arxiv_embed_tests.kills.driven import driven

Result = subprocess.CompletedProcess[str]

SMALL_FOLDER_PAPERS = 11
"""What the fixture `small_folder` holds."""


def run_arguments(folder: Path, model: Path, *more: str | Path) -> tuple[str | Path, ...]:
    return ("run", "--metadata-dir", folder, "--model", model, "--devices", "cpu:1", "--dtype", "float32", *more)


def embed(home: Path, *arguments: str | Path) -> Result:
    """The command, with devices that take no time."""
    return driven(home, "arxiv_embed_tests.faults.changes:instant_devices", *arguments)


def reason(result: Result) -> str:
    """The one sentence that a command failed with: its only line of stderr, or one of each shard listed as failed."""
    shown = f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert result.returncode in (1, 2), shown
    assert "Traceback" not in result.stdout + result.stderr, shown
    listed = [line for line in result.stdout.splitlines() if line.startswith("failed: ")]
    said = result.stderr.splitlines()
    assert len(said) == 1 or (not said and listed), shown
    for sentence in said or listed:
        assert sentence.endswith("."), shown
    return "\n".join(said or listed)


def check_succeeded(result: Result) -> None:
    assert (result.returncode, result.stderr) == (0, ""), result.stdout + result.stderr


def check_whole(home: Path, store: Path | None = None, papers: int = SMALL_FOLDER_PAPERS) -> None:
    """Every paper is in the store, no key twice; and `status` says so."""
    database = lancedb.connect(store or home / "stores" / "papers")
    [name] = [name for name in database.list_tables().tables if name.startswith("rows_")]
    keys = database.open_table(name).to_arrow()["key"].to_pylist()
    assert len(keys) == len(set(keys))
    assert len({key.rpartition("#")[0] for key in keys}) == papers
    status = arxiv_embed(home, "status")
    assert (status.returncode, status.stderr) == (0, ""), status.stdout + status.stderr
