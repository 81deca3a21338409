"""The quarantine: everything that was set aside is there, with the reason, whatever the clock says."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.quarantine import RECORD, Damage, Quarantine
from arxiv_embed_tests.damage import DAMAGES, files_below, flip

KEY = CheckpointKey("papers", "cs.jsonl")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree" / "papers" / "cs"
    folder.mkdir(parents=True)
    return folder


def set_aside(tree: Path, *contents: bytes, name: str = "file", found: list[Damage] | None = None) -> Damage | None:
    paths = [tree / f"{name}{number}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    quarantine = Quarantine(tree.parents[1] / "quarantine", None if found is None else found.append)
    return quarantine.set_aside(paths, Damage.of(KEY, paths[-1].name, "why", "what then"))


def damages(tree: Path) -> list[Damage]:
    return Quarantine(tree.parents[1] / "quarantine").damages()


def test_what_is_set_aside_lies_there_with_its_reason_and_is_reported(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found: list[Damage] = []
    damage = set_aside(tree, b"data", b"manifest", found=found)
    assert damage is not None
    assert found == [damage] == damages(tree)
    assert (damage.checkpoint, damage.reason, damage.asset, damage.shard) == (
        "papers of cs.jsonl",
        "why",
        KEY.asset,
        KEY.shard,
    )
    assert f"set aside in {damage.place}; what then" in caplog.text
    place = Path(damage.place)
    assert place == tree.parents[1] / "quarantine" / "papers" / "cs" / "000001"
    assert {name: content for name, content in files_below(place).items() if name != RECORD} == {
        "file0": b"data",
        "file1": b"manifest",
    }
    assert list(tree.iterdir()) == []


@pytest.mark.parametrize("clock", [[1e9] * 9, [1e9 - n * 3600 for n in range(9)]], ids=["stands still", "goes back"])
def test_a_clock_that_stands_still_or_goes_back_loses_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    ticks = iter(clock)
    monkeypatch.setattr("time.time", lambda: next(ticks))
    monkeypatch.setattr("time.time_ns", lambda: int(next(ticks)))
    for number in range(3):
        set_aside(tree, b"%d" % number)
    assert sorted(Path(damage.place).name for damage in damages(tree)) == ["000001", "000002", "000003"]
    assert sorted(path.read_bytes() for path in tree.parents[1].rglob("file0")) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_record_that_is_damaged_itself_is_listed_as_such(tree: Path, damage: object) -> None:
    assert callable(damage)
    whole, hurt = set_aside(tree, b"a"), set_aside(tree, b"b", name="other")
    assert whole is not None
    assert hurt is not None
    damage(Path(hurt.place) / RECORD)
    listed = {found.place: found for found in damages(tree)}
    assert listed[whole.place] == whole
    assert (listed[hurt.place].file, "not known" in listed[hurt.place].reason) == ("other0", True)


def test_what_another_process_has_set_aside_already_is_not_reported_again(tree: Path) -> None:
    found: list[Damage] = []
    quarantine = Quarantine(tree.parents[1] / "quarantine", found.append)
    assert quarantine.set_aside([tree / "gone"], Damage.of(KEY, "gone", "why", "what then")) is None
    assert found == []
    assert damages(tree) == []


def test_where_nothing_can_be_written_the_damage_is_reported_all_the_same(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "file").write_bytes(b"x")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    found: list[Damage] = []
    Quarantine(tree.parents[1] / "quarantine", found.append).try_to_set_aside(
        [tree / "file"], Damage.of(KEY, "file", "why", "its backup is used")
    )
    assert [(damage.file, damage.place) for damage in found] == [("file", "")]
    assert "its backup is used (not set aside: Nothing can be written to" in found[0].remedy
    assert (tree / "file").exists()


def set_all_aside(tree: Path, counted: multiprocessing.SimpleQueue[int]) -> None:
    found: list[Damage] = []
    quarantine = Quarantine(tree.parents[1] / "quarantine", found.append)
    for number in range(20):
        files = [tree / f"g{number}.data", tree / f"g{number}.manifest"]
        quarantine.set_aside(files, Damage.of(KEY, files[-1].name, "why", "what then"))
    counted.put(len(found))


def test_two_processes_that_find_the_same_damage_report_it_once_and_part_nothing(tree: Path) -> None:
    for number in range(20):
        for kind in ("data", "manifest"):
            (tree / f"g{number}.{kind}").write_bytes(b"x")
    context = multiprocessing.get_context("spawn")
    counted = context.SimpleQueue()
    processes = [context.Process(target=set_all_aside, args=(tree, counted)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert counted.get() + counted.get() == 20
    places = [Path(damage.place) for damage in damages(tree)]
    assert len(places) == 20
    assert all(len(list(place.iterdir())) == 3 for place in places)


def test_damage_reads_as_one_sentence() -> None:
    damage = Damage.of(KEY, "g000002.papers.arrow", "its sha256 does not fit", "its backup is used")
    assert str(damage) == (
        "Damaged: papers of cs.jsonl, g000002.papers.arrow: its sha256 does not fit; "
        "left where it is; its backup is used"
    )
    assert Damage.from_json(damage.to_json().encode()) == damage


def test_files_of_the_quarantine_that_a_person_took_away_are_not_listed(tree: Path) -> None:
    damage = set_aside(tree, b"a")
    assert damage is not None
    (Path(damage.place) / "file0").unlink()
    assert damages(tree) == []
    set_aside(tree, b"b")
    flip(tree.parents[1] / "quarantine" / "papers" / "cs" / "000002" / "file0")
    assert [found.file for found in damages(tree)] == ["file0"]
