"""A disk that answers with EIO: the shard that it is about fails with a sentence, the others are done, and nothing that
was written while it was ill is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from arxiv_embed_tests.faults.changes import OPERATION, PLACE, TIMES
from arxiv_embed_tests.faults.ends import check_succeeded, check_whole, embed, reason, run_arguments
from arxiv_embed_tests.kills.driven import driven

FAULTY_DISK = "arxiv_embed_tests.faults.changes:faulty_disk"


@pytest.mark.parametrize(
    ("operation", "asset"),
    [
        ("write", "papers"),
        ("fsync", "embeddings"),
        pytest.param("write", "embeddings", marks=pytest.mark.slow),
        pytest.param("fsync", "papers", marks=pytest.mark.slow),
    ],
)
def test_a_shard_whose_checkpoint_cannot_be_written_is_named_and_the_other_done(
    operation: str, asset: str, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = run_arguments(small_folder, tiny_model, "--attempts", "1")
    ill = driven(home, FAULTY_DISK, *arguments, **{OPERATION: operation, PLACE: f"/{asset}/.*/first.jsonl/"})
    said = reason(ill)
    assert "first.jsonl" in said
    assert "Input/output error" in said
    assert "holds 5 papers" in ill.stdout
    well = embed(home, *arguments, "--resume")
    check_succeeded(well)
    check_whole(home)


def test_a_disk_that_is_well_again_is_tried_again_by_the_same_run(
    small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    ill_twice = {OPERATION: "fsync", PLACE: "/embeddings/.*/first.jsonl/", TIMES: "2"}
    check_succeeded(driven(home, FAULTY_DISK, *run_arguments(small_folder, tiny_model), **ill_twice))
    check_whole(home)


@pytest.mark.parametrize(
    "file",
    [
        pytest.param("manifest.json", marks=pytest.mark.slow),
        pytest.param("papers.arrow", marks=pytest.mark.slow),
        "vectors.arrow",
    ],
)
def test_a_checkpoint_that_cannot_be_read_is_named_and_nothing_is_lost(
    file: str, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = run_arguments(small_folder, tiny_model, "--attempts", "1")
    check_succeeded(embed(home, *arguments))
    (home / "stores" / "papers").rename(tmp_path / "moved")
    ill = driven(home, FAULTY_DISK, *arguments, **{OPERATION: "read", PLACE: rf"/first.jsonl/g\d+\.{file}"})
    said = reason(ill)
    assert "first.jsonl" in said
    assert "Input/output error" in said
    check_succeeded(embed(home, *arguments, "--resume"))
    check_whole(home)
