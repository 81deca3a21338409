"""Segments: durable parts of a shard under way, used only while they are whole and of this very checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.quarantine import Damage, Quarantine
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed_tests.damage import DAMAGES, flip

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


def test_a_damaged_segment_is_set_aside_and_reported(folder: Path) -> None:
    flip(sorted(folder.iterdir())[1])
    found: list[Damage] = []
    for _ in range(2):
        segments = Segments(folder, KEY, "c", Quarantine(folder.parent / "quarantine", found.append))
        assert len(segments.tables()) == 2
    [damage] = found
    assert damage.file.startswith("s000001.")
    assert (damage.reason, damage.remedy) == ("its sha256 is not that of its name", "its papers are embedded again")
    assert (Path(damage.place) / damage.file).exists()
    segments.append(table("d"))
    assert held(folder) == ["a", "c", "d"]


def test_segments_of_another_content_of_the_shard_are_told_apart(folder: Path) -> None:
    segments = Segments(folder, KEY, "new content")
    assert len(segments.tables()) == 3
    assert segments.from_other_sources == 3
    segments.append(table("d"))
    assert len(segments.tables()) == 4
    assert segments.from_other_sources == 3
    again = Segments(folder, KEY)
    again.tables()
    assert again.from_other_sources == 1


def test_what_others_put_beside_the_segments_is_left_alone(folder: Path) -> None:
    (folder / "note.txt").write_text("not ours")
    (folder / ".draft-1-s000003.arrow").write_bytes(b"of a killed process")
    Segments(folder, KEY).clear()
    assert [path.name for path in folder.iterdir()] == ["note.txt"]


def test_nothing_is_left_when_the_shard_is_committed(folder: Path) -> None:
    Segments(folder, KEY).clear()
    assert not folder.exists()
    assert held(folder) == []
    Segments(folder, KEY).clear()
