"""Reuse: no text is embedded twice, wherever its record goes.

The pool is a fake that says which texts it was given; files, checkpoints, stores and killed processes are real.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arxiv_embed.equipment
import arxiv_embed.plan
from arxiv_embed.checkpoint.parts import GenerationPart
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.forecast import forecast
from arxiv_embed.plan import embeddings_key, plan_run
from arxiv_embed.run import Run
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import Filters, StoreError
from arxiv_embed.text_index import TextIndex
from arxiv_embed.vectors import sound_ones
from arxiv_embed_tests.damage import DAMAGES, flip
from arxiv_embed_tests.desk import Desk, record
from arxiv_embed_tests.fake_pool import vectors_of

resolved = cache(resolve_model)
"""It reads all the weights, and they do not change."""

FIRST = [record(f"2401.{n:05d}") for n in range(1, 5)]
SECOND = [record(f"2402.{n:05d}") for n in range(1, 4)]
ALL = [line["id"] for line in (*FIRST, *SECOND)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Two files, embedded and stored."""
    desk = Desk(tmp_path)
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", desk.pool)
    monkeypatch.setattr(arxiv_embed.plan, "resolve_model", resolved)
    desk.put("a.jsonl", *FIRST)
    desk.put("b.jsonl", *SECOND)
    assert desk.run() == ALL
    return desk


@pytest.fixture
def no_pool(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """From now on no device is started, and no model loaded."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a device was started")

    monkeypatch.setattr(arxiv_embed.equipment, "Pool", refuse)
    return desk


def clear(desk: Desk) -> None:
    shutil.rmtree(desk.folder)
    desk.folder.mkdir()


def renamed(desk: Desk) -> None:
    (desk.folder / "a.jsonl").rename(desk.folder / "z.jsonl")


def moved_to_a_subfolder(desk: Desk) -> None:
    (desk.folder / "2024").mkdir()
    (desk.folder / "a.jsonl").rename(desk.folder / "2024" / "a.jsonl")


def split_in_two(desk: Desk) -> None:
    (desk.folder / "a.jsonl").unlink()
    desk.put("a1.jsonl", *FIRST[:2])
    desk.put("a2.jsonl", *FIRST[2:])


def split_into_itself_and_another(desk: Desk) -> None:
    desk.put("a.jsonl", *FIRST[:1])
    desk.put("c.jsonl", *FIRST[1:])


def joined(desk: Desk) -> None:
    clear(desk)
    desk.put("c.jsonl", *SECOND, *FIRST)


def joined_into_one_of_them(desk: Desk) -> None:
    (desk.folder / "a.jsonl").unlink()
    desk.put("b.jsonl", *FIRST, *SECOND)


def overlapping(desk: Desk) -> None:
    desk.put("c.jsonl", *FIRST[1:], *SECOND[:2])


def names_exchanged(desk: Desk) -> None:
    desk.put("a.jsonl", *SECOND)
    desk.put("b.jsonl", *FIRST)


def a_month_folder(desk: Desk) -> None:
    clear(desk)
    for line in (*FIRST, *SECOND):
        desk.put(f"{line['id']}.json", line)


def compressed(desk: Desk) -> None:
    import gzip

    path = desk.folder / "a.jsonl"
    path.with_name("a.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def dates_changed(desk: Desk) -> None:
    desk.put("a.jsonl", *({**line, "update_date": "2024-05-05"} for line in FIRST))


MOVES: list[Callable[[Desk], None]] = [
    renamed,
    moved_to_a_subfolder,
    split_in_two,
    split_into_itself_and_another,
    joined,
    joined_into_one_of_them,
    overlapping,
    names_exchanged,
    a_month_folder,
    compressed,
    dates_changed,
]


def check_store(desk: Desk, **options: Any) -> None:
    """Each paper is there once, whole, in a shard of the folder, as it is, and can be found."""
    listed = {plan.shard.key for plan in plan_run(replace(desk.options, **options), desk.settings).shards}
    rows = desk.rows()
    assert [(row["paper_id"], row["chunk_index"]) for row in rows if row["chunk_index"] == -1] == [
        (name, -1) for name in ALL
    ]
    assert len(rows) == 3 * len(ALL)
    assert {row["shard"] for row in rows} <= listed
    store = LanceStore(Path(desk.settings.store))
    for line in (*FIRST, *SECOND):
        text = f"{line['title']}\n\n{line['abstract']}"
        vectors = vectors_of(text, 384)
        stored = {row["chunk_index"]: row["vector"] for row in rows if row["paper_id"] == line["id"]}
        assert np.array_equal(np.array([stored[chunk] for chunk in (-1, 0, 1)], np.float32), vectors)
        [best] = store.nearest(desk.space.fingerprint, vectors[0], 1, Filters(), chunks=False)
        assert best.paper_id == line["id"]
        [found] = store.matching(desk.space.fingerprint, f"on {line['id']}", 1, Filters())
        assert found.paper_id == line["id"]


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_what_is_merely_moved_takes_no_device_and_the_store_follows(
    no_pool: Desk, move: Callable[[Desk], None]
) -> None:
    move(no_pool)
    assert no_pool.run() == []
    check_store(no_pool)
    assert no_pool.pending() == {}
    before = no_pool.rows()
    assert no_pool.run() == []
    assert no_pool.rows() == before


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_what_is_moved_after_the_store_was_lost_comes_from_checkpoints(
    no_pool: Desk, move: Callable[[Desk], None]
) -> None:
    shutil.rmtree(no_pool.settings.store)
    move(no_pool)
    no_pool.run()
    check_store(no_pool)


KEEPS_ROWS = [move for move in MOVES if move not in (split_into_itself_and_another, names_exchanged)]
"""Where a file that keeps its name loses papers to a later one, its rows are gone before that is read."""


@pytest.mark.parametrize("move", KEEPS_ROWS, ids=lambda move: move.__name__)
def test_what_is_moved_after_the_checkpoints_were_lost_comes_from_the_store(
    no_pool: Desk, move: Callable[[Desk], None]
) -> None:
    shutil.rmtree(no_pool.settings.checkpoints)
    move(no_pool)
    no_pool.run()
    check_store(no_pool)
    assert no_pool.pending() == {}


def test_a_month_folder_that_becomes_one_file_takes_no_device(no_pool: Desk) -> None:
    a_month_folder(no_pool)
    no_pool.run()
    joined(no_pool)
    assert no_pool.run() == []
    check_store(no_pool)


@pytest.mark.parametrize("shard_papers", [1, 2, 3])
def test_other_shards_of_the_same_file_take_no_device(no_pool: Desk, shard_papers: int) -> None:
    no_pool.run(shard_papers=shard_papers)
    assert no_pool.pending(shard_papers=shard_papers) == {}
    check_store(no_pool, shard_papers=shard_papers)
    no_pool.run()
    assert sorted(no_pool.stored()) == ALL


def test_the_same_text_under_two_ids_reaches_a_device_once(desk: Desk) -> None:
    same = {"title": "One", "abstract": "and the same."}
    desk.put("c.jsonl", *({**record(name), **same} for name in ("2403.00001", "2403.00002")), record("2403.00003"))
    assert desk.run() == ["2403.00003", "One"]
    [event] = [event for event in desk.events("shard_embedded") if event["shard"] == "c.jsonl"]
    assert (event["papers"], event["resumed"], event["same_text"]) == (3, 1, 1)
    desk.put("d.jsonl", {**record("2403.00004"), **same})
    assert desk.run() == []
    vectors = {
        row["paper_id"]: row["vector"]
        for row in desk.rows()
        if row["chunk_index"] == 0 and row["paper_id"].startswith("2403") and row["paper_id"] != "2403.00003"
    }
    assert sorted(vectors) == ["2403.00001", "2403.00002", "2403.00004"]
    assert vectors["2403.00001"] == vectors["2403.00002"] == vectors["2403.00004"]


def test_of_papers_with_one_text_any_urgent_one_makes_it_urgent_and_all_fail_together(desk: Desk) -> None:
    same = {"title": "One", "abstract": "with poison."}
    lines = [record("2403.00001"), *({**record(name), **same} for name in ("2403.00002", "2403.00003"))]
    desk.put("c.jsonl", *lines)
    desk.run(priority=("ids:2403.00003",))
    assert desk.pool.urgent[-1] == [False, True]
    failures = desk.checkpoints.load(embeddings_key("c.jsonl", desk.space))
    assert failures is not None
    assert failures.tables["failures"]["paper_id"].to_pylist() == ["2403.00002", "2403.00003"]
    assert failures.manifest.counts["papers"] == 1


def test_a_changed_abstract_alone_is_embedded_and_its_chunks_change_in_one_version_of_the_table(desk: Desk) -> None:
    desk.put("a.jsonl", {**FIRST[0], "abstract": "Something new."}, *FIRST[1:])
    assert desk.run() == ["2401.00001"]
    table = LanceStore(Path(desk.settings.store))._tables.get(f"rows_{desk.space.fingerprint}")
    seen = set()
    for version in [line["version"] for line in table.list_versions()]:
        table.checkout(version)
        rows = [row for row in table.to_arrow().to_pylist() if row["paper_id"] == "2401.00001"]
        seen.add((len(rows), len({row["text_sha256"] for row in rows})))
    assert seen <= {(0, 0), (3, 1)}
    assert desk.stored()["2401.00001"] == "Something new."


def test_an_abstract_that_is_as_it_was_the_time_before_takes_no_device(desk: Desk) -> None:
    desk.put("a.jsonl", {**FIRST[0], "abstract": "Something new."}, *FIRST[1:])
    assert desk.run() == ["2401.00001"]
    desk.put("a.jsonl", *FIRST)
    assert desk.run() == []
    check_store(desk)


def shards_of_papers(desk: Desk) -> dict[str, str]:
    return {row["paper_id"]: row["shard"] for row in desk.rows() if row["chunk_index"] == -1}


def test_a_file_that_is_renamed_and_back_has_its_papers_again_and_what_leaves_it_leaves_the_store(desk: Desk) -> None:
    renamed(desk)
    assert desk.run() == []
    (desk.folder / "z.jsonl").rename(desk.folder / "a.jsonl")
    assert desk.run() == []
    check_store(desk)
    assert desk.pending() == {}
    desk.put("a.jsonl", *FIRST[1:])
    desk.run()
    assert set(shards_of_papers(desk)) == {*ALL} - {FIRST[0]["id"]}


def test_what_leaves_a_renamed_file_does_not_come_back_from_its_old_name(desk: Desk) -> None:
    renamed(desk)
    desk.run()
    desk.put("z.jsonl", *FIRST[1:])
    desk.run()
    assert set(shards_of_papers(desk)) == {*ALL} - {FIRST[0]["id"]}


def test_a_run_leaves_the_shards_of_another_folder_to_its_runs(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two folders with one store, the second drops a paper that had stood in for one of the first."""
    other = Desk(tmp_path / "other")
    other.options = replace(other.options, store=desk.options.store)
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", other.pool)
    other.put("c.jsonl", {**FIRST[0], "update_date": "2025-01-01"}, record("2403.00001"))
    other.run()
    other.put("c.jsonl", record("2403.00001"))
    other.run()
    assert other.events("shard_failed") == []
    assert set(desk.pending()) == {"a.jsonl"}
    desk.run()
    assert shards_of_papers(desk)[FIRST[0]["id"]] == "a.jsonl"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["g000001.vectors.arrow", "g000001.manifest.json"])
def test_another_shard_s_damaged_checkpoint_is_never_used(
    desk: Desk, damage: Callable[[Path], None], name: str
) -> None:
    renamed(desk)
    damage(desk.files("embeddings", name)[0])
    assert desk.run() == []  # the store has them, too
    check_store(desk)
    shutil.rmtree(desk.settings.store)
    (desk.folder / "z.jsonl").rename(desk.folder / "y.jsonl")
    damage(desk.files("embeddings", name, "z.jsonl")[0])
    assert desk.run() == [line["id"] for line in FIRST]
    check_store(desk)


def test_what_a_damaged_checkpoint_is_thought_to_hold_is_set_aside_and_said(desk: Desk) -> None:
    shutil.rmtree(desk.settings.store)
    renamed(desk)
    flip(desk.files("embeddings", "g000001.vectors.arrow")[0])
    desk.run()
    [event] = desk.events("damage")
    assert event["file"] == "g000001.vectors.arrow"
    assert list((desk.settings.checkpoints / "quarantine").rglob("g000001.vectors.arrow"))


def test_of_two_that_hold_a_text_the_whole_one_is_taken_where_the_other_is_damaged(desk: Desk) -> None:
    shutil.rmtree(desk.settings.store)
    shutil.copy(desk.folder / "a.jsonl", desk.folder / "c.jsonl")
    assert desk.run() == []
    shutil.rmtree(desk.settings.store)
    flip(desk.files("embeddings", "g000001.vectors.arrow")[0])
    (desk.folder / "a.jsonl").unlink()
    (desk.folder / "c.jsonl").rename(desk.folder / "d.jsonl")
    assert desk.run() == []


def test_a_fresh_start_reuses_nothing_but_its_own(desk: Desk) -> None:
    renamed(desk)
    overlapping(desk)
    assert desk.run(fresh=True) == ALL
    check_store(desk)
    assert desk.run() == []


def test_a_fresh_start_asks_no_store(desk: Desk) -> None:
    shutil.rmtree(desk.settings.checkpoints)
    assert desk.run(fresh=True) == ALL


def test_another_space_is_never_mixed_in(desk: Desk) -> None:
    before = desk.rows()
    renamed(desk)
    assert desk.run(chunker="whole") == ALL
    assert desk.rows() == before
    assert desk.run() == []


def test_segments_of_a_killed_run_are_reused_when_the_file_is_renamed(tmp_path: Path, desk: Desk) -> None:
    many = [record(f"2403.{n:05d}") for n in range(60)]
    desk.put("c.jsonl", *many)
    command = [sys.executable, "-m", "arxiv_embed_tests.fake_pool", str(desk.folder), str(desk.home)]
    process = subprocess.Popen(command)
    while len(desk.files("embeddings", "segments/s*.arrow", "c.jsonl")) < 8:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    segments = desk.files("embeddings", "segments/s*.arrow", "c.jsonl")
    for damage, path in zip(DAMAGES, segments[1:5], strict=True):
        damage(path)
    (desk.folder / "c.jsonl").rename(desk.folder / "d.jsonl")
    embedded = desk.run()
    assert len(embedded) == 60 - (len(segments) - 4)
    assert {"2403.00001", "2403.00002", "2403.00003", "2403.00004"} <= set(embedded)
    assert sorted(desk.stored()) == sorted([*ALL, *(line["id"] for line in many)])


# What is said of it


def test_a_run_says_where_what_it_reused_came_from(desk: Desk) -> None:
    shutil.rmtree(desk.files("embeddings", "", "b.jsonl")[0])  # the store alone has the second file's
    desk.put("a.jsonl", *FIRST[:1])
    (desk.folder / "b.jsonl").unlink()
    new = {**record("2403.00001"), "title": "New"}
    desk.put("c.jsonl", *FIRST[2:], *SECOND, new, {**new, "id": "2403.00002"})
    assert desk.run() == ["New"]
    events = {event["shard"]: event for event in desk.events("shard_embedded")}
    names = ("papers", "resumed", "from_checkpoints", "from_store", "same_text")
    assert [events["a.jsonl"][name] for name in names] == [1, 1, 0, 0, 0]
    assert [events["c.jsonl"][name] for name in names] == [7, 6, 2, 3, 1]
    manifest = desk.checkpoints.manifest(embeddings_key("c.jsonl", desk.space))
    assert manifest is not None
    assert [manifest.counts[name] for name in names] == [7, 6, 2, 3, 1]
    assert manifest.details["dtypes"] == {"float32": 4, "": 3}


def test_a_checkpoint_made_before_it_was_counted_where_vectors_came_from_is_used(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = CheckpointStore.commit

    def as_before(self: CheckpointStore, key: Any, contents: Any, **facts: Any) -> Any:
        if key.asset == "embeddings":
            facts["counts"] = {
                name: count
                for name, count in facts["counts"].items()
                if name not in ("from_checkpoints", "from_store", "same_text")
            }
            facts["details"] = {**facts["details"], "dtype": "bfloat16"}
            del facts["details"]["dtypes"]
        return commit(self, key, contents, **facts)

    with monkeypatch.context() as old:
        old.setattr(CheckpointStore, "commit", as_before)
        desk.put("a.jsonl", *FIRST, record("2401.00005"))
        desk.run()
    with Run(desk.options, desk.settings, "again") as run:
        run.start(["a.jsonl"])
        run.read("a.jsonl")
        report = run.embed("a.jsonl")
    assert (report.papers, report.resumed, report.from_store) == (5, 5, 0)
    renamed(desk)
    assert desk.run() == []
    manifest = desk.checkpoints.manifest(embeddings_key("z.jsonl", desk.space))
    assert manifest is not None
    assert manifest.details["dtypes"] == {"bfloat16": 5}


def test_a_plan_promises_no_device_time_without_saying_how_much_may_be_reused(desk: Desk) -> None:
    renamed(desk)
    desk.put("b.jsonl", *SECOND, record("2402.00004"))

    def reusable(**options: Any) -> tuple[int, int]:
        asked = replace(desk.options, **options)
        expected = forecast(plan_run(asked, desk.settings), asked, desk.settings)
        return expected.papers, expected.reusable

    papers, held = reusable()
    assert held == min(papers, len(ALL)) > 0
    assert reusable(fresh=True) == (papers, 0)
    assert reusable(chunker="whole") == (papers, 0)
    desk.run()
    assert reusable() == (0, 0)


# What is looked at, and when


def test_nothing_is_looked_up_where_nothing_is_missing(no_pool: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    dates_changed(no_pool)

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(CheckpointStore, "parts", refuse)
    monkeypatch.setattr(LanceStore, "vectors_of_texts", refuse)
    no_pool.run()


def test_a_store_that_was_filled_from_these_checkpoints_is_not_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(LanceStore, "vectors_of_texts", refuse)
    desk.put("c.jsonl", record("2403.00001"))
    assert desk.run() == ["2403.00001"]


def test_a_store_that_cannot_be_asked_costs_the_devices_time_and_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StoreError("It is broken.")

    monkeypatch.setattr(LanceStore, "vectors_of_texts", broken)
    shutil.rmtree(desk.settings.checkpoints)
    told: list[str] = []
    with Run(desk.options, desk.settings, "run", told.append) as run:
        run.start(["a.jsonl"])
        run.read("a.jsonl")
        report = run.embed("a.jsonl")
    assert (report.papers, report.resumed) == (4, 0)
    assert "The store is not asked for vectors: It is broken." in told


def test_vectors_of_a_store_that_are_not_sound_are_not_used(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    held = LanceStore.vectors_of_texts

    def worn(self: LanceStore, space: str, texts: Any) -> pa.Table:
        rows = held(self, space, texts).to_pylist()
        for row in rows:
            if row["paper_id"] == "2401.00002" and row["chunk_index"] == 1:
                row["vector"][5] += 0.5
            if row["paper_id"] == "2401.00003" and row["chunk_index"] == 0:
                row["vector"][0] = float("nan")
        rows = [row for row in rows if row["paper_id"] != "2402.00001" or row["chunk_index"] != 0]
        rows = [row for row in rows if row["paper_id"] != "2402.00002" or row["chunk_index"] != -1]
        return pa.Table.from_pylist(rows[::-1], schema=held(self, space, texts).schema)

    monkeypatch.setattr(LanceStore, "vectors_of_texts", worn)
    shutil.rmtree(desk.settings.checkpoints)
    assert desk.run() == ["2401.00002", "2401.00003", "2402.00001", "2402.00002"]
    check_store(desk)


@pytest.mark.parametrize(
    ("column", "value"),
    [("tokens", None), ("end_char", None), ("start_char", 999), ("chunk_index", 5), ("vector", None)],
)
def test_a_text_of_which_one_row_lacks_something_is_no_sound_one(desk: Desk, column: str, value: Any) -> None:
    loaded = desk.checkpoints.load(embeddings_key("a.jsonl", desk.space))
    assert loaded is not None
    vectors = loaded.tables["vectors"]
    assert sound_ones(vectors, 384).num_rows == 12
    rows = vectors.to_pylist()
    rows[4][column] = value
    worn = pa.Table.from_pylist(rows, schema=vectors.schema)
    assert sorted(set(sound_ones(worn, 384)["paper_id"].to_pylist())) == [FIRST[n]["id"] for n in (0, 2, 3)]
    assert sound_ones(worn, 256).num_rows == 0


def test_a_checkpoint_that_another_process_replaces_meanwhile_is_looked_for_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = embeddings_key("a.jsonl", desk.space)
    held = desk.checkpoints.load(key)
    assert held is not None
    rows = GenerationPart.rows

    def while_others_commit(self: GenerationPart, *arguments: Any) -> pa.Table | None:
        monkeypatch.setattr(GenerationPart, "rows", rows)
        for run in ("other-1", "other-2"):
            desk.checkpoints.commit(
                key, held.tables, source=held.manifest.source, counts=held.manifest.counts, run_id=run
            )
        assert not self.path.exists()
        return rows(self, *arguments)

    monkeypatch.setattr(GenerationPart, "rows", while_others_commit)
    texts = pa.array(held.tables["vectors"]["text_sha256"].unique())
    [(_, found)] = TextIndex(desk.checkpoints, desk.space.fingerprint, None).vectors_of(texts)
    assert found.equals(held.tables["vectors"])
    assert not desk.checkpoints.quarantined()


def test_a_run_whose_shards_share_texts_reads_each_checkpoint_that_helps_once_a_shard(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    rows = GenerationPart.rows

    def counted(self: GenerationPart, *arguments: Any) -> pa.Table | None:
        read.append(self.path.parent)
        return rows(self, *arguments)

    monkeypatch.setattr(GenerationPart, "rows", counted)
    for n in range(4):
        desk.put(f"c{n}.jsonl", record(f"2403.{n:05d}"))
    desk.run()
    assert read == []  # nothing there holds any of these
    clear(desk)
    desk.put("d.jsonl", *FIRST, *SECOND)
    assert desk.run() == []
    assert [path.name for path in read] == ["a.jsonl", "b.jsonl"]


# Whatever happens to the files

FILES = ("a.jsonl", "b.jsonl", "sub/c.jsonl", "sub/d.jsonl", "e.jsonl")

Changes = st.lists(
    st.one_of(
        st.tuples(st.just("rename"), st.sampled_from(FILES), st.sampled_from(FILES)),
        st.tuples(st.just("join"), st.sampled_from(FILES), st.sampled_from(FILES)),
        st.tuples(st.just("split"), st.sampled_from(FILES), st.sampled_from(FILES)),
        st.tuples(st.just("copy"), st.sampled_from(FILES), st.sampled_from(FILES)),
        st.tuples(st.just("date"), st.integers(0, 5)),
        st.tuples(st.just("text"), st.integers(0, 5)),
        st.tuples(st.just("shards"), st.sampled_from([1, 2, 3, 20])),
        st.tuples(st.just("run")),
    ),
    max_size=12,
)


class Files:
    """Records by file, as the folder is to have them; what a record is changed to is in every file that has it."""

    def __init__(self, papers: int) -> None:
        self.newest = {f"2401.{n:05d}": record(f"2401.{n:05d}", f"Text {n}.") for n in range(papers)}
        self.of = {"a.jsonl": [*self.newest]}
        self.changes = 0

    def apply(self, change: str, *where: Any) -> None:
        self.changes += 1
        if change in ("date", "text"):
            name = [*self.newest][where[0]]
            day = f"2024-02-{self.changes:02d}"
            new = {"abstract": f"Text {where[0]} anew, {self.changes}."} if change == "text" else {}
            self.newest[name] = {**self.newest[name], **new, "update_date": day}
        elif where[0] in self.of and where[0] != where[1]:
            self.move(change, *where)

    def move(self, change: str, origin: str, target: str) -> None:
        held, there = self.of[origin], self.of.get(target, [])
        if change == "rename" and not there:
            self.of[target] = self.of.pop(origin)
        elif change == "join":
            self.of[target] = sorted({*there, *self.of.pop(origin)})
        elif change == "copy":
            self.of[target] = sorted({*there, *held})
        elif change == "split" and len(held) > 1:
            self.of[origin] = held[::2]
            self.of[target] = sorted({*there, *held[1::2]})

    def write(self, desk: Desk) -> None:
        clear(desk)
        for name, papers in self.of.items():
            desk.put(name, *(self.newest[paper] for paper in papers))


@given(changes=Changes)
@settings(max_examples=25, deadline=None)
def test_a_text_is_embedded_once_and_the_store_is_the_newest_of_every_paper_whatever_happens_to_files(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[Any, ...]]
) -> None:
    desk, files, shard_papers = Desk(tmp_path_factory.mktemp("desk")), Files(6), 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arxiv_embed.equipment, "Pool", desk.pool)
        patch.setattr(arxiv_embed.plan, "resolve_model", resolved)
        for change in [("run",), *changes, ("run",)]:
            if change[0] == "shards":
                shard_papers = change[1]
            elif change[0] == "run":
                files.write(desk)
                desk.run(shard_papers=shard_papers)
                assert desk.pending(shard_papers=shard_papers) == {}
                assert desk.stored() == {name: line["abstract"] for name, line in files.newest.items()}
                texts = {row["paper_id"]: row["updated"] for row in desk.rows()}
                assert texts == {name: line["update_date"] for name, line in files.newest.items()}
                assert len(desk.rows()) == 18
            else:
                files.apply(*change)
    assert len(set(desk.pool.embedded)) == len(desk.pool.embedded)
