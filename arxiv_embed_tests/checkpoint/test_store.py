"""Checkpoints: committed whole or not at all, verified each time, set aside when bad, never lost."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.checkpoint import atomic
from arxiv_embed.checkpoint.atomic import NoSpace
from arxiv_embed.checkpoint.manifest import CheckpointKey, DamagedManifest, Manifest, Source
from arxiv_embed.checkpoint.store import CheckpointStore, _file_name
from arxiv_embed_tests.damage import DAMAGES, flip, truncate
from arxiv_embed_tests.small_disk import grow, small_disk

KEY = CheckpointKey("embeddings", "cs.jsonl", "0123456789abcdef")


def table(*ids: str) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([float(n) for n in range(4 * len(ids))], pa.float32()), 4)
    return pa.table({"paper_id": pa.array(ids, pa.string()), "vector": vectors})


def commit(store: CheckpointStore, *ids: str, key: CheckpointKey = KEY) -> Manifest:
    return store.commit(
        key, {"vectors": table(*ids)}, source=Source("s", "c"), counts={"papers": len(ids)}, run_id="run"
    )


def loaded(store: CheckpointStore, key: CheckpointKey = KEY) -> list[str] | None:
    checkpoint = store.load(key)
    return None if checkpoint is None else checkpoint.tables["vectors"]["paper_id"].to_pylist()


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def files(store: CheckpointStore, suffix: str) -> list[Path]:
    place = store.root / KEY.asset / KEY.space
    return sorted(place.glob(f"*/g*{suffix}"))


def test_what_is_committed_is_loaded_and_described(store: CheckpointStore) -> None:
    manifest = commit(store, "a", "b")
    checkpoint = store.load(KEY)
    assert checkpoint is not None
    assert checkpoint.tables["vectors"].equals(table("a", "b"))
    assert checkpoint.manifest == manifest == store.manifest(KEY)
    content = json.loads(files(store, ".manifest.json")[0].read_bytes())
    assert content["format_version"] == "2.0"
    assert (content["source"], content["run_id"], content["counts"]) == (
        {"signature": "s", "sha256": "c"},
        "run",
        {"papers": 2},
    )
    assert {"torch", "pyarrow", "arxiv-embed"} <= set(content["versions"])
    assert store.keys() == [KEY]


def test_a_table_without_rows_is_a_checkpoint_too(store: CheckpointStore) -> None:
    commit(store)
    assert loaded(store) == []


def test_the_generation_before_stays_as_backup_and_older_ones_go(store: CheckpointStore) -> None:
    for name in "abcd":
        commit(store, name)
    assert [path.name for path in files(store, ".arrow")] == ["g000003.vectors.arrow", "g000004.vectors.arrow"]
    assert len(files(store, ".manifest.json")) == 2


@pytest.mark.parametrize("suffix", [".arrow", ".manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_generation_is_set_aside_and_its_backup_used(
    store: CheckpointStore, damage: Callable[[Path], None], suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    commit(store, "a")
    commit(store, "b")
    damage(files(store, suffix)[-1])
    left = sum(1 for path in store.root.rglob("g*") if path.is_file())
    with caplog.at_level(logging.WARNING):
        assert loaded(store) == ["a"]
    assert sum(1 for path in store.root.rglob("g*") if path.is_file()) == left  # nothing is deleted
    if damage.__name__ != "delete" or suffix == ".arrow":
        assert "set aside" in caplog.text
        assert list((store.root / "quarantine").rglob("g000002.*"))
    assert loaded(store) == ["a"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_nothing_whole_is_left_the_shard_is_pending(
    store: CheckpointStore, damage: Callable[[Path], None]
) -> None:
    commit(store, "a")
    damage(files(store, ".arrow")[0])
    assert loaded(store) is None
    assert store.manifest(KEY) is None
    commit(store, "a")
    assert loaded(store) == ["a"]


def test_two_damaged_generations_are_both_set_aside_and_kept_apart(store: CheckpointStore) -> None:
    for _ in range(2):
        commit(store, "a")
        flip(files(store, ".arrow")[0])
        assert loaded(store) is None
    assert len(list((store.root / "quarantine").rglob("*.arrow"))) == 2


@pytest.mark.parametrize("moved", ["g000001.vectors.arrow", "g000001.manifest.json", "*"])
def test_files_of_another_shard_are_refused(store: CheckpointStore, moved: str) -> None:
    other = CheckpointKey(KEY.asset, "math.jsonl", KEY.space)
    commit(store, "a")
    commit(store, "b", key=other)
    for path in (store.root / KEY.asset / KEY.space / "math.jsonl").glob(moved):
        shutil.copy(path, store.root / KEY.asset / KEY.space / "cs.jsonl" / path.name)
    assert loaded(store) is None
    assert loaded(store, other) == ["b"]


def test_a_checkpoint_of_another_space_is_refused(store: CheckpointStore) -> None:
    commit(store, "a")
    other = CheckpointKey(KEY.asset, KEY.shard, "f" * 16)
    shutil.copytree(store.root / KEY.asset / KEY.space, store.root / KEY.asset / other.space)
    assert store.manifest(other) is None
    assert loaded(store, other) is None


def test_an_old_manifest_does_not_pass_as_a_newer_generation(store: CheckpointStore) -> None:
    commit(store, "a")
    commit(store, "b")
    old, new = files(store, ".manifest.json")
    shutil.copy(old, new.with_name("g000003.manifest.json"))
    assert loaded(store) == ["b"]


def test_a_plan_passes_over_a_manifest_whose_data_is_not_there(store: CheckpointStore) -> None:
    commit(store, "a")
    commit(store, "b", "c")
    files(store, ".arrow")[-1].unlink()
    manifest = store.manifest(KEY)
    assert manifest is not None
    assert manifest.counts == {"papers": 1}
    assert not (store.root / "quarantine").exists()  # planning changes nothing


@pytest.mark.parametrize("suffix", [".arrow", ".manifest.json"])
def test_a_commit_never_keeps_a_damaged_generation_in_place_of_a_whole_one(store: CheckpointStore, suffix: str) -> None:
    commit(store, "a")
    commit(store, "b")
    truncate(files(store, suffix)[-1])
    commit(store, "c")
    flip(files(store, ".arrow")[-1])
    assert loaded(store) == ["a"]


def test_a_commit_that_does_not_verify_keeps_the_one_before(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "a")
    commit(store, "b")

    def write_torn(path: Path, content: bytes) -> None:
        atomic.write_atomically(path, bytes(content)[:-5] if path.suffix == ".arrow" else content)

    monkeypatch.setattr("arxiv_embed.checkpoint.store.write_atomically", write_torn)
    with pytest.raises(Exception, match="not as it was written"):
        commit(store, "c")
    assert loaded(store) == ["b"]
    assert list((store.root / "quarantine").rglob("g000003*"))


def test_what_a_killed_commit_left_is_neither_loaded_nor_in_the_way(store: CheckpointStore) -> None:
    commit(store, "a")
    folder = files(store, ".arrow")[0].parent
    (folder / "g000002.vectors.arrow").write_bytes(b"half")
    (folder / ".draft-1-g000002.manifest.json").write_bytes(b"half")
    assert loaded(store) == ["a"]
    commit(store, "b")
    assert loaded(store) == ["b"]
    assert not list(folder.glob(".draft-*"))


def test_files_of_other_names_are_left_alone(store: CheckpointStore) -> None:
    commit(store, "a")
    note = files(store, ".arrow")[0].with_name("gold.arrow")
    note.write_text("not ours")
    for name in "bcd":
        commit(store, name)
    assert note.read_text() == "not ours"


COMMITS = """
import sys
from pathlib import Path
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed_tests.checkpoint.test_store import commit
store = CheckpointStore(Path(sys.argv[1]))
for n in range(100000):
    commit(store, *(f"{n}-{i}" for i in range(200)))
    print(n, flush=True)
"""


def test_a_process_killed_at_any_moment_of_a_commit_leaves_a_whole_checkpoint(store: CheckpointStore) -> None:
    for delay in (0.0, 0.0013, 0.0047, 0.011):
        process = subprocess.Popen([sys.executable, "-c", COMMITS, str(store.root)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(3):
            last = int(process.stdout.readline())
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.stdout.close()
        process.wait()
        ids = loaded(store)
        assert ids is not None
        assert len(ids) == 200
        assert len({name.split("-")[0] for name in ids}) == 1
        assert int(ids[0].split("-")[0]) in (last, last + 1)
        assert not (store.root / "quarantine").exists()


def test_a_full_disk_is_one_sentence_and_the_checkpoint_before_stands(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        store = CheckpointStore(disk / "checkpoints")
        commit(store, "a")
        many = [str(n) for n in range(100_000)]
        with pytest.raises(NoSpace, match=r"No space is left in .* run the same command again"):
            commit(store, *many)
        assert loaded(store) == ["a"]
        assert not list(disk.rglob(".draft-*"))
        grow(disk, 20)
        commit(store, *many)
        assert loaded(store) == many


@given(st.text(min_size=1, max_size=300))
def test_every_shard_has_a_folder_of_its_own(shard: str) -> None:
    name = _file_name(shard)
    assert "/" not in name
    assert name not in (".", "..", "")
    assert len(name.encode()) <= 200
    assert name != _file_name(shard + "x")


@given(st.binary(max_size=200))
def test_no_bytes_pass_as_a_manifest(content: bytes) -> None:
    with pytest.raises(DamagedManifest):
        Manifest.from_json(content)


def test_a_manifest_with_any_byte_changed_is_noticed(store: CheckpointStore) -> None:
    text = commit(store, "a").to_json().encode()
    original = Manifest.from_json(text)
    for place in range(0, len(text), 7):
        changed = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
        try:
            assert Manifest.from_json(changed) == original  # white space, at the most
        except DamagedManifest:
            continue


def test_two_processes_cannot_work_on_one_shard(store: CheckpointStore) -> None:
    code = (
        "import sys, time; from pathlib import Path; from arxiv_embed.checkpoint.store import *; "
        f"lock = CheckpointStore(Path({str(store.root)!r})).hold(CheckpointKey('papers', 'a')).__enter__(); "
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    key = CheckpointKey("papers", "a")
    with pytest.raises(Exception, match=f"Shard a is in use by process {process.pid}"), store.hold(key):
        pass
    process.kill()
    process.wait()
    with store.hold(key):
        assert os.getpid() != process.pid
