"""A folder that cannot be written: one sentence that names it, and nothing is lost; metadata need not be writable."""

from __future__ import annotations

import shutil
from pathlib import Path

from arxiv_embed_tests.cli.commands import arxiv_embed
from arxiv_embed_tests.faults.ends import check_succeeded, check_whole, embed, reason, run_arguments
from arxiv_embed_tests.faults.read_only import read_only


def test_a_read_only_metadata_folder_is_all_that_a_run_needs(
    small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with read_only(small_folder):
        check_succeeded(embed(home, *run_arguments(small_folder, tiny_model)))
    check_whole(home)


def test_a_read_only_home_is_said_and_what_it_holds_stays(small_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    arguments = run_arguments(small_folder, tiny_model)
    with read_only(home):
        said = reason(embed(home, *arguments))
        assert str(home) in said
        assert "Read-only file system" in said
        status = arxiv_embed(home, "status")
        assert (status.returncode, status.stderr) == (0, "")
    check_succeeded(embed(home, *arguments))
    with read_only(home):
        assert embed(home, *arguments).stdout.startswith("Nothing to do")
        found = arxiv_embed(home, "search", "graph")
        assert (found.returncode, found.stderr) == (0, "")
        check_whole(home)


def test_a_read_only_checkpoint_folder_is_said(small_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    home, checkpoints = tmp_path / "home", tmp_path / "checkpoints"
    checkpoints.mkdir()
    arguments = run_arguments(small_folder, tiny_model, "--checkpoint-dir", checkpoints)
    with read_only(checkpoints):
        said = reason(embed(home, *arguments))
        assert str(checkpoints) in said
        assert "Read-only file system" in said
    check_succeeded(embed(home, *arguments))
    check_whole(home)


def test_a_read_only_store_is_said_and_embeds_nothing_again(
    small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    store = home / "stores" / "papers"
    arguments = run_arguments(small_folder, tiny_model)
    late = tmp_path / "late.jsonl"
    (small_folder / "second.jsonl").rename(late)
    check_succeeded(embed(home, *arguments))
    shutil.move(late, small_folder / "second.jsonl")
    with read_only(store):
        said = reason(embed(home, *arguments))
        assert str(store) in said
        assert "Read-only file system" in said
        assert arxiv_embed(home, "search", "graph").returncode == 0
    again = embed(home, *arguments)
    check_succeeded(again)
    assert "0 papers embedded" in again.stdout
    check_whole(home)
