"""Checkpoints: committed whole or not at all, verified each time, set aside when bad, never lost."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.checkpoint import atomic
from arxiv_embed.checkpoint.atomic import DiskFault, NoSpace, NotReadable
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest, Source
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.checkpoint.reader import CheckpointReader
from arxiv_embed.checkpoint.store import CheckpointStore, _file_name
from arxiv_embed.checkpoint.tables import BATCH_ROWS
from arxiv_embed.errors import ArxivEmbedError, Kind
from arxiv_embed_tests.damage import DAMAGES, empty, flip, truncate
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

    monkeypatch.setattr("arxiv_embed.checkpoint.generations.write_atomically", write_torn)
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


def test_a_full_disk_keeps_nobody_from_reading_past_what_is_damaged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        found: list[Damage] = []
        store = CheckpointStore(disk / "checkpoints", found.append)
        commit(store, "a")
        commit(store, "b")
        flip(files(store, ".arrow")[-1])
        with contextlib.suppress(OSError), (disk / "full").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        assert loaded(store) == ["a"]
        assert [(damage.file, damage.place) for damage in found] == [("g000002.vectors.arrow", "")]
        with pytest.raises(NoSpace):
            commit(store, "c")
        (disk / "full").unlink()
        assert loaded(store) == ["a"]
        assert found[-1].place != ""


def test_commits_that_fail_leave_no_more_each_time(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, "a")

    def write_no_manifest(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise NoSpace("No space is left.")
        atomic.write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("arxiv_embed.checkpoint.generations.write_atomically", write_no_manifest)
        for _ in range(3):
            with pytest.raises(NoSpace):
                commit(store, "b")
            assert len(files(store, ".arrow")) == 2
    assert loaded(store) == ["a"]
    commit(store, "b")
    assert len(files(store, ".arrow")) == 2


def test_who_is_told_of_damage_may_fail_and_is_told_once(store: CheckpointStore) -> None:
    commit(store, "a")
    flip(files(store, ".arrow")[0])
    told: list[Damage] = []

    def tell(damage: Damage) -> None:
        told.append(damage)
        raise NoSpace("No space is left for the record.")

    with pytest.raises(NoSpace):
        CheckpointStore(store.root, tell).load(KEY)
    assert [Path(damage.place).name for damage in told] == ["000001"]


def test_a_number_is_never_given_twice_so_that_nobody_sets_aside_what_came_after(store: CheckpointStore) -> None:
    commit(store, "a")
    flip(files(store, ".arrow")[0])
    assert loaded(store) is None
    assert commit(store, "b").generation == 2
    (store.root / KEY.asset / KEY.space / KEY.shard / "g000003.vectors.arrow").write_bytes(b"of a killed commit")
    assert commit(store, "c").generation == 4
    assert [path.name for path in files(store, ".arrow")] == ["g000002.vectors.arrow", "g000004.vectors.arrow"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, Kind.PERMANENT), (errno.ESTALE, Kind.TRANSIENT), (errno.ETIMEDOUT, Kind.TRANSIENT)],
)
def test_what_cannot_be_read_now_is_not_set_aside(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: Kind
) -> None:
    commit(store, "a")
    for method in ("read_bytes", "open", "stat"):
        refused = refuse(method, number)
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refused)
            sentence = r"g000001\.\S* (may not be read|cannot be read now) \(.*\): "
            with pytest.raises((NotReadable, DiskFault), match=sentence) as caught:
                store.manifest(KEY) if method == "stat" else store.reader(KEY)
            assert caught.value.kind is kind
        for read in (store.load, store.reader, store.manifest):
            with monkeypatch.context() as patch:
                patch.setattr(Path, method, refused)
                with contextlib.suppress(NotReadable, DiskFault):
                    assert read(KEY) is not None
    assert not (store.root / "quarantine").exists()
    assert loaded(store) == ["a"]


@pytest.mark.parametrize("method", ["read_bytes", "open"])
def test_what_the_disk_cannot_read_is_damaged(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    commit(store, "a")
    commit(store, "b")
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, refuse(method, errno.EIO, "g000002.vectors"))
        if method == "open":
            reader = store.reader(KEY)
            assert reader is not None
            assert reader.manifest.generation == 1
        else:
            assert loaded(store) == ["a"]
    assert [damage.reason for damage in store.quarantined()] == ["Input/output error"]


def refuse(method: str, number: int, name: str = "g000001") -> Callable[..., Any]:
    real = getattr(Path, method)

    def refusing(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name.startswith(name):
            raise OSError(number, os.strerror(number), str(self))
        return real(self, *args, **kwargs)

    return refusing


def test_a_reader_gives_pieces_of_the_columns_asked_for(store: CheckpointStore) -> None:
    many = [str(n) for n in range(3 * BATCH_ROWS + 1)]
    commit(store, *many)
    reader = store.reader(KEY)
    assert reader is not None
    batches = list(reader.batches("vectors", ["paper_id"]))
    assert [batch.num_rows for batch in batches] == [BATCH_ROWS] * 3 + [1]
    assert [row for batch in batches for row in batch["paper_id"].to_pylist()] == many
    assert {tuple(batch.schema.names) for batch in batches} == {("paper_id",)}
    assert pa.Table.from_batches(reader.batches("vectors")).equals(reader.table("vectors"))
    assert reader.table("vectors").equals(table(*many))


def test_a_reader_reads_no_more_than_it_is_asked_for(store: CheckpointStore) -> None:
    commit(store, *(str(n) for n in range(100 * BATCH_ROWS)))
    reader = store.reader(KEY)
    assert reader is not None
    whole = reader.manifest.files["vectors"].bytes
    tracemalloc.start()
    assert sum(batch.num_rows for batch in reader.batches("vectors")) == 100 * BATCH_ROWS
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole // 100 < most < whole // 10


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reader_never_gives_what_was_damaged_since(store: CheckpointStore, damage: Callable[[Path], None]) -> None:
    commit(store, "a")
    reader = store.reader(KEY)
    assert reader is not None
    damage(files(store, ".arrow")[0])
    for read in (lambda: reader.table("vectors"), lambda: next(reader.batches("vectors"))):
        with pytest.raises(ArxivEmbedError, match=r"cannot be read \(g000001.vectors.arrow: .*\): run again") as caught:
            read()
        assert caught.value.kind is Kind.TRANSIENT


READS = """
import sys
from pathlib import Path
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed_tests.checkpoint.test_store import KEY, loaded
found = []
store = CheckpointStore(Path(sys.argv[1]), found.append)
last = 0
print("reading", flush=True)
for n in range(400):
    ids = loaded(store)
    assert ids is not None
    assert int(ids[0]) >= last
    last = int(ids[0])
    assert all(verified.damage is None for verified in store.verify(repair=True))
assert last > 2
assert found == []
"""


def test_who_reads_while_others_commit_finds_no_damage(store: CheckpointStore) -> None:
    commit(store, "0")
    process = subprocess.Popen([sys.executable, "-c", READS, str(store.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        number = 0
        while process.poll() is None:
            number += 1
            commit(store, str(number))
    assert process.returncode == 0
    assert store.quarantined() == []


def test_who_is_overtaken_while_reading_reads_what_is_there_then(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "a")
    others = iter("bc")
    content = CheckpointReader.content

    def overtaken(self: CheckpointReader, name: str) -> bytes:
        for other in others:
            commit(store, other)
        return content(self, name)

    monkeypatch.setattr(CheckpointReader, "content", overtaken)
    assert loaded(store) == ["c"]
    assert store.quarantined() == []


def test_who_reads_while_another_sets_aside_waits_and_reports_nothing_twice(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(store, "a")
    commit(store, "b")
    flip(files(store, ".arrow")[-1])
    found: list[Damage] = []
    other = threading.Thread(target=lambda: CheckpointStore(store.root, found.append).load(KEY))

    def slowly(path: Path, folder: Path) -> None:
        atomic.move(path, folder)
        if not other.ident:
            other.start()
            other.join(0.3)  # time enough to find the generation half moved, and to say so

    monkeypatch.setattr("arxiv_embed.checkpoint.quarantine.move", slowly)
    assert CheckpointStore(store.root, found.append).load(KEY) is not None
    other.join()
    assert [damage.file for damage in found] == ["g000002.vectors.arrow"]
    assert len(store.quarantined()) == 1


@pytest.mark.parametrize("suffix", [".arrow", ".manifest.json"])
@pytest.mark.parametrize("damage", [flip, truncate, empty])
def test_verify_reads_every_byte_and_repairs_from_the_backup(
    store: CheckpointStore, damage: Callable[[Path], None], suffix: str
) -> None:
    commit(store, "a")
    commit(store, "b")
    store.segments(KEY, "c").append(table("c"))
    size = sum(path.stat().st_size for path in store.root.rglob("*") if path.suffix in (".arrow", ".json"))
    assert [(verified.what, verified.damage) for verified in store.verify(repair=False)][:2] == [
        ("generation 2 of embeddings of cs.jsonl (space 0123456789abcdef)", None),
        ("generation 1 of embeddings of cs.jsonl (space 0123456789abcdef)", None),
    ]
    assert sum(verified.bytes for verified in store.verify(repair=True)) == size
    damage(files(store, suffix)[-1])
    damage(next(store.root.rglob("s0*.arrow")))
    for _ in range(2):  # looking changes nothing
        damages = [verified.damage for verified in store.verify(repair=False) if verified.damage]
        assert [(found.file[:7], found.remedy, found.place) for found in damages] == [
            ("g000002", "none: found by verify", ""),
            ("s000000", "none: found by verify", ""),
        ]
    repaired = [verified.damage for verified in store.verify(repair=True) if verified.damage]
    assert [found.remedy for found in repaired] == ["its backup is used", "its papers are embedded again"]
    assert all(Path(found.place).is_dir() for found in repaired)
    assert [verified.damage for verified in store.verify(repair=True)] == [None]
    manifest = store.manifest(KEY)
    assert manifest is not None
    assert manifest.generation == 1
    assert sorted(found.file[:7] for found in store.quarantined()) == ["g000002", "s000000"]


def test_a_damaged_backup_is_found_by_verify_and_the_newest_stays(store: CheckpointStore) -> None:
    commit(store, "a")
    commit(store, "b")
    flip(files(store, ".arrow")[0])
    assert loaded(store) == ["b"]
    [damage] = [verified.damage for verified in store.verify(repair=True) if verified.damage]
    assert (damage.file, damage.remedy) == ("g000001.vectors.arrow", "the newest is whole")
    assert loaded(store) == ["b"]


def test_a_shard_of_which_nothing_is_whole_is_verified_too(store: CheckpointStore) -> None:
    long = CheckpointKey("papers", "x" * 300)
    for key in (KEY, long):
        commit(store, "a", key=key)
        store.segments(key, "c").append(table("b"))
    assert [verified.damage for verified in store.verify(repair=True)] == [None] * 4
    for path in store.root.rglob("g*.manifest.json"):
        flip(path)
    assert store.keys() == []
    damages = [verified.damage for verified in store.verify(repair=True)]
    assert [damage and damage.remedy for damage in damages] == ["it is done again", None] * 2
    assert [damage.shard for damage in damages if damage] == [KEY.shard, long.shard]
    assert [verified.damage for verified in store.verify(repair=True)] == [None] * 2


def test_restoring_brings_the_generation_before_back_and_doing_it_twice_undoes_it(store: CheckpointStore) -> None:
    first = commit(store, "a")
    commit(store, "b")
    restored = store.restore(KEY, run_id="restore")
    assert (restored.generation, restored.run_id, restored.identity) == (3, "restore", first.identity)
    assert (restored.source, restored.counts) == (first.source, first.counts)
    assert loaded(store) == ["a"]
    store.restore(KEY, run_id="restore")
    assert loaded(store) == ["b"]
    flip(files(store, ".arrow")[-1])
    assert loaded(store) == ["a"]


def test_there_is_nothing_to_restore_without_a_whole_generation_before(store: CheckpointStore) -> None:
    with pytest.raises(ArxivEmbedError, match=r"no whole generation of embeddings of cs.jsonl .* before"):
        store.restore(KEY, run_id="restore")
    commit(store, "a")
    commit(store, "b")
    flip(files(store, ".arrow")[0])
    with pytest.raises(ArxivEmbedError, match="nothing is changed"):
        store.restore(KEY, run_id="restore")
    assert loaded(store) == ["b"]


def test_a_shard_that_is_being_worked_on_is_not_restored(store: CheckpointStore) -> None:
    commit(store, "a")
    commit(store, "b")
    with store.hold(KEY), pytest.raises(Locked, match="in use by process"):
        store.restore(KEY, run_id="restore")
    assert loaded(store) == ["b"]


def test_an_export_is_a_checkpoint_folder_of_what_verifies(store: CheckpointStore, tmp_path: Path) -> None:
    other, bad = CheckpointKey("papers", "math.jsonl"), CheckpointKey("papers", "bad.jsonl")
    for name in "ab":
        commit(store, name)
    commit(store, "c", key=other)
    commit(store, "d", key=bad)
    flip(next(store.root.glob("papers/-/bad.jsonl/*.arrow")))
    found: list[Damage] = []
    store = CheckpointStore(store.root, found.append)
    assert store.export(tmp_path / "copy") == 2
    assert [damage.shard for damage in found] == ["bad.jsonl"]
    copy = CheckpointStore(tmp_path / "copy")
    assert copy.keys() == [KEY, other]
    assert (loaded(copy), loaded(copy, other)) == (["b"], ["c"])
    assert copy.manifest(KEY) == store.manifest(KEY)
    assert all(verified.damage is None for verified in copy.verify(repair=False))
    assert store.export(tmp_path / "one", [other]) == 1
    assert CheckpointStore(tmp_path / "one").keys() == [other]


def test_an_export_goes_to_an_empty_folder_elsewhere(store: CheckpointStore, tmp_path: Path) -> None:
    commit(store, "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ArxivEmbedError, match="is not empty"):
        store.export(tmp_path / "full")
    with pytest.raises(ArxivEmbedError, match="is within the checkpoints"):
        store.export(store.root / "copy")
    with pytest.raises(ArxivEmbedError, match="Nothing can be written"):
        store.export(tmp_path / "full" / "file")


def test_counts_that_do_not_fit_the_tables_are_never_committed(store: CheckpointStore) -> None:
    with pytest.raises(ValueError, match="count of vectors does not fit"):
        store.commit(KEY, {"vectors": table("a")}, source=Source("s", "c"), counts={"vectors": 2}, run_id="run")
    assert store.manifest(KEY) is None


def test_the_spaces_are_told_in_which_a_shard_was_begun(store: CheckpointStore) -> None:
    other = CheckpointKey(KEY.asset, KEY.shard, "f" * 16)
    assert store.unfinished_elsewhere(KEY) == []
    store.segments(KEY, "c").append(table("a"))
    assert store.unfinished_elsewhere(KEY) == []
    assert store.unfinished_elsewhere(other) == [KEY.space]
    assert store.unfinished_elsewhere(CheckpointKey(KEY.asset, "math.jsonl", other.space)) == []


@given(st.text(min_size=1, max_size=300))
def test_every_shard_has_a_folder_of_its_own(shard: str) -> None:
    name = _file_name(shard)
    assert "/" not in name
    assert name not in (".", "..", "")
    assert len(name.encode()) <= 200
    assert name != _file_name(shard + "x")


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


@pytest.mark.parametrize("name", ["x/rows", "../rows", "", ".rows"])
def test_a_table_whose_name_leads_elsewhere_is_refused(store: CheckpointStore, name: str) -> None:
    with pytest.raises(ArxivEmbedError, match="is no name for a table"):
        store.commit(KEY, {name: table("a")}, source=Source("s", "c"), counts={}, run_id="run")
