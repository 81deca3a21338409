"""A full disk, under the whole home or one part of it: one sentence, and with more room the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arxiv_embed_tests.cli.commands import arxiv_embed, start
from arxiv_embed_tests.faults.ends import check_succeeded, check_whole, reason, run_arguments
from arxiv_embed_tests.kills.driven import driven
from arxiv_embed_tests.kills.watch import Following, wait_until
from arxiv_embed_tests.small_disk import grow, small_disk

SHARDS = 4
PAPERS = 120
NEEDED_MEGABYTES = 64
PATIENCE_SECONDS = 120.0
SHORT_WAITS = "arxiv_embed_tests.faults.changes:short_waits"


@pytest.fixture
def arguments(tmp_path: Path, examples: Path, tiny_model: Path) -> tuple[str | Path, ...]:
    """Those of a run over four files of thirty real papers, whose vectors take some megabytes."""
    folder = tmp_path / "metadata"
    folder.mkdir()
    lines = (examples / "kaggle-2007.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == PAPERS
    for number in range(SHARDS):
        (folder / f"{number}.jsonl").write_bytes(b"".join(lines[number::SHARDS]))
    return run_arguments(folder, tiny_model, "--chunker", "fixed:8", "--max-tokens", "512")


def leave(disk: Path, kilobytes: int, megabytes: int) -> None:
    """Fills the disk of so many megabytes up to what is to be left."""
    (disk / "filling").write_bytes(bytes((megabytes << 20) - (kilobytes << 10)))


@pytest.mark.parametrize(
    "kilobytes", [8, pytest.param(800, marks=pytest.mark.slow), 1800, pytest.param(3000, marks=pytest.mark.slow)]
)
def test_a_full_home_is_said_and_with_more_room_the_run_goes_on(
    kilobytes: int, arguments: tuple[str | Path, ...], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        home = disk / "home"
        leave(disk, kilobytes, 4)
        said = reason(driven(home, SHORT_WAITS, *arguments))
        assert "No space is left" in said
        status = arxiv_embed(home, "status")
        assert (status.returncode, status.stderr) == (0, ""), status.stdout + status.stderr
        grow(disk, NEEDED_MEGABYTES)
        check_succeeded(driven(home, SHORT_WAITS, *arguments))
        check_whole(home, papers=PAPERS)


def test_a_run_waits_for_a_full_disk_to_be_given_room(arguments: tuple[str | Path, ...], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4) as disk:
        home = disk / "home"
        leave(disk, 1200, 4)
        command, following = start(home, *arguments), Following(home, set())
        wait_until(
            lambda: command.poll() is not None or pauses(following), "the run met the full disk", PATIENCE_SECONDS
        )
        assert command.poll() is None, command.communicate()[0]
        grow(disk, NEEDED_MEGABYTES)
        printed, _ = command.communicate(timeout=PATIENCE_SECONDS)
        assert command.returncode == 0, printed
        assert "No space is left" in printed
        check_whole(home, papers=PAPERS)


def test_a_full_disk_of_the_store_is_said_and_embeds_nothing_again(
    arguments: tuple[str | Path, ...], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(tmp_path / "disk", 1) as disk:
        home.mkdir()
        (home / "stores").mkdir()
        (home / "stores" / "papers").symlink_to(disk / "papers")
        (disk / "papers").mkdir()
        assert "No space is left" in reason(driven(home, SHORT_WAITS, *arguments))
        held = _embedded(home)
        grow(disk, NEEDED_MEGABYTES)
        check_succeeded(driven(home, SHORT_WAITS, *arguments))
        check_whole(home, papers=PAPERS)
        assert held > 0
        assert _embedded(home) == PAPERS


def test_a_full_disk_of_the_checkpoints_is_said_and_loses_nothing(
    arguments: tuple[str | Path, ...], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(tmp_path / "disk", 1) as disk:
        elsewhere = (*arguments, "--checkpoint-dir", disk / "checkpoints")
        assert "No space is left" in reason(driven(home, SHORT_WAITS, *elsewhere))
        grow(disk, NEEDED_MEGABYTES)
        check_succeeded(driven(home, SHORT_WAITS, *elsewhere))
        check_whole(home, papers=PAPERS)


def pauses(following: Following) -> bool:
    """Whether the run has recorded that it waits for something to be freed."""
    return any(event["event"] == "error" and event["kind"] == "resource" for event in following.poll())


def _embedded(home: Path) -> int:
    """Papers in the batches of all runs."""
    lines = [line for record in home.glob("runs/*/progress.jsonl") for line in record.read_text().splitlines()]
    return sum(event["papers"] for event in map(json.loads, lines) if event["event"] == "batch")
