"""Segments: durable parts of a shard under way, used only while they are whole and of this very checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed_tests.damage import DAMAGES

KEY = CheckpointKey("embeddings", "cs.jsonl", "0123456789abcdef")


def table(name: str) -> pa.Table:
    return pa.table({"paper_id": [name]})


def held(folder: Path, key: CheckpointKey = KEY) -> list[str]:
    return [name for part in Segments(folder, key).tables() for name in part["paper_id"].to_pylist()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    segments = Segments(tmp_path / "segments", KEY)
    for name in "abc":
        segments.append(table(name))
    return tmp_path / "segments"


def test_a_later_process_finds_what_was_saved_and_goes_on(folder: Path) -> None:
    segments = Segments(folder, KEY)
    assert [part.equals(table(name)) for part, name in zip(segments.tables(), "abc", strict=True)] == [True] * 3
    segments.append(table("d"))
    assert held(folder) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_segment_is_never_used(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(sorted(folder.iterdir())[1])
    assert held(folder) == ["a", "c"]


def test_a_segment_under_another_name_is_never_used(folder: Path) -> None:
    first, second, _ = sorted(folder.iterdir())
    shutil.copy(first, second)
    first.rename(folder / "s.arrow")
    assert held(folder) == ["c"]


@pytest.mark.parametrize(
    "other",
    [CheckpointKey("embeddings", "math.jsonl", KEY.space), CheckpointKey("embeddings", "cs.jsonl", "f" * 16)],
    ids=["shard", "space"],
)
def test_segments_of_another_shard_or_space_are_never_used(folder: Path, other: CheckpointKey) -> None:
    assert held(folder, other) == []


def test_nothing_is_left_when_the_shard_is_committed(folder: Path) -> None:
    Segments(folder, KEY).clear()
    assert not folder.exists()
    assert held(folder) == []
    Segments(folder, KEY).clear()
