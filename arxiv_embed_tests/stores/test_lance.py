"""The LanceDB store: what it holds after any order of writes, crashes and writers."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arxiv_embed.checkpoint.atomic import NoSpace, NotWritable
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.stores import lance, lance_place
from arxiv_embed.stores.lance import LanceStore
from arxiv_embed.stores.protocol import Filters, StoreAway, StoreError, open_store
from arxiv_embed.stores.rows import row_schema
from arxiv_embed_tests.damage import delete, truncate
from arxiv_embed_tests.small_disk import grow, small_disk
from arxiv_embed_tests.stores.shard_rows import OTHER_SPACE, SPACE, Record, held, papers_held, shard_rows

Shards = dict[str, list[Record]]


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore(tmp_path / "store")


def write(store: LanceStore, shard: str, *records: Record, identity: str | None = None) -> tuple[str, ...]:
    identity = identity or repr(records)
    return store.write_shard(SPACE, shard, shard_rows(shard, records), identity).uncovered


def newest(shards: Shards) -> dict[str, tuple[str, str, int]]:
    """What the contract says a store holds of these shards."""
    found: dict[str, tuple[str, str, int]] = {}
    ranked = ((r.updated, r.version, shard, r.id) for shard, records in shards.items() for r in records)
    for updated, version, shard, paper in sorted(ranked):
        found[paper] = (shard, updated, version)
    return found


def test_writing_a_shard_twice_leaves_what_writing_it_once_left(store: LanceStore) -> None:
    records = [Record("1", chunks=3), Record("2", text="other")]
    write(store, "a", *records)
    once = held(store)
    write(store, "a", *records)
    assert held(store) == once
    assert store.count(SPACE.fingerprint) == (2, 7)


def test_a_changed_text_loses_its_old_chunks_in_the_same_version(store: LanceStore) -> None:
    write(store, "a", Record("1", text="long", chunks=5), Record("2"))
    write(store, "a", Record("1", text="short", chunks=2), Record("2"))
    table = store._table(f"rows_{SPACE.fingerprint}")
    seen = []
    for version in table.list_versions():
        table.checkout(version["version"])
        rows = table.to_arrow().to_pylist()
        texts = {row["text_sha256"] for row in rows if row["paper_id"] == "1"}
        seen.append((len(texts), sum(row["paper_id"] == "1" for row in rows)))
    table.checkout_latest()
    assert set(seen) <= {(0, 0), (1, 6), (1, 3)}
    assert seen[-1] == (1, 3)


def test_a_space_that_is_dropped_leaves_the_others_as_they_are(store: LanceStore) -> None:
    write(store, "a", Record("1"), Record("2"))
    before = held(store)
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    store.drop(OTHER_SPACE.fingerprint)
    for looked_at in (store, LanceStore(Path(store.url))):
        assert looked_at.spaces() == [SPACE]
        assert held(looked_at) == before
        assert looked_at.count(OTHER_SPACE.fingerprint) == (0, 0)
        assert looked_at.shards(OTHER_SPACE.fingerprint) == {}
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    assert store.count(OTHER_SPACE.fingerprint) == (1, 3)


def test_a_writer_goes_on_after_another_has_dropped_a_space(store: LanceStore) -> None:
    write(store, "a", Record("1"))
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    LanceStore(Path(store.url)).drop(OTHER_SPACE.fingerprint)
    write(store, "b", Record("2"))
    assert set(papers_held(store)) == {"1", "2"}
    store.write_shard(OTHER_SPACE, "b", shard_rows("b", [Record("2")]), "other")
    assert store.count(OTHER_SPACE.fingerprint) == (1, 3)
    assert set(store.spaces()) == {SPACE, OTHER_SPACE}


@pytest.mark.parametrize("done", [0, 1])
def test_a_drop_that_was_interrupted_is_finished_by_another(
    store: LanceStore, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its shards, and after its rows."""
    write(store, "a", Record("1"))
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    steps = itertools.count()

    def stop(name: str) -> Any:
        if name != "shards" and next(steps) >= done:
            raise KeyboardInterrupt
        return LanceStore._table(store, name)

    monkeypatch.setattr(store, "_table", stop)
    with pytest.raises(KeyboardInterrupt):
        store.drop(OTHER_SPACE.fingerprint)
    again = LanceStore(Path(store.url))
    assert set(again.spaces()) == {SPACE, OTHER_SPACE}
    assert again.shards(OTHER_SPACE.fingerprint) == {}
    again.drop(OTHER_SPACE.fingerprint)
    assert again.spaces() == [SPACE]
    assert set(papers_held(again)) == {"1"}


def test_papers_that_leave_a_shard_leave_the_store(store: LanceStore) -> None:
    write(store, "a", Record("1"), Record("2"))
    write(store, "a", Record("2"))
    assert set(papers_held(store)) == {"2"}
    write(store, "a")
    assert papers_held(store) == {}
    assert list(store.shards(SPACE.fingerprint)) == ["a"]


SAME = {
    "dates": [Record("1", "2020-01-01", 9), Record("1", "2021-01-01", 1), Record("1", "", 10)],
    "versions": [Record("1", version=2), Record("1", version=10), Record("1", version=0)],
    "keys": [Record("1"), Record("1"), Record("1")],
}


@pytest.mark.parametrize("records", SAME.values(), ids=SAME.keys())
def test_the_newest_record_wins_in_whatever_order_shards_arrive(records: list[Record], tmp_path: Path) -> None:
    shards = {name: [record, Record(f"only {name}")] for name, record in zip("abc", records, strict=True)}
    for number, order in enumerate(itertools.permutations(shards)):
        store = LanceStore(tmp_path / str(number))
        for name in order:
            write(store, name, *shards[name])
        assert papers_held(store) == newest(shards)
        assert set(store.shards(SPACE.fingerprint)) == set(shards)


def test_a_newer_record_leaves_no_chunk_of_another_shards_older_one(store: LanceStore) -> None:
    write(store, "a", Record("1", "2020-01-01", text="long", chunks=5), Record("2"))
    write(store, "b", Record("1", "2021-01-01", text="short", chunks=2))
    assert [row["key"] for row in held(store) if row["paper_id"] == "1"] == ["1#-1", "1#0", "1#1"]
    assert papers_held(store)["2"][0] == "a"
    write(store, "a", Record("1", "2020-01-01", text="long", chunks=5), Record("2"))
    assert papers_held(store)["1"] == ("b", "2021-01-01", 1)
    assert store.count(SPACE.fingerprint) == (2, 6)


def test_an_older_record_comes_back_when_the_newer_shard_loses_the_paper(store: LanceStore) -> None:
    old, new, other = Record("1", "2020-01-01"), Record("1", "2021-01-01"), Record("2")
    for order in (("a", "b"), ("b", "a")):
        for name in order:
            write(store, name, *{"a": [old], "b": [new, other]}[name])
        assert write(store, "b", other) == ("a",)
        assert set(store.shards(SPACE.fingerprint)) == {"b"}  # a is to be written again
        write(store, "a", old)
        assert papers_held(store) == newest({"a": [old], "b": [other]})


def test_an_older_record_comes_back_when_the_newer_one_is_set_back(store: LanceStore) -> None:
    write(store, "a", Record("1", "2020-01-01"))
    write(store, "b", Record("1", "2021-01-01"))
    assert write(store, "b", Record("1", "2019-01-01")) == ("a",)
    write(store, "a", Record("1", "2020-01-01"))
    assert papers_held(store) == {"1": ("a", "2020-01-01", 1)}


def test_shards_that_lack_other_papers_are_not_written_again(store: LanceStore) -> None:
    write(store, "a", Record("1"))
    write(store, "b", Record("2"))
    write(store, "c", Record("1", "2021-01-01"), Record("2", "2021-01-01"))
    assert write(store, "c", Record("1", "2021-01-01")) == ("b",)


class Crash(BaseException):
    """The process ends here."""


def crash(*_: object) -> None:
    raise Crash


RECORDS = st.dictionaries(
    st.sampled_from("123"), st.tuples(st.sampled_from(["2020-01-01", "2021-01-01"]), st.integers(1, 2)), max_size=3
)
WRITES = st.lists(st.tuples(st.sampled_from("abc"), RECORDS, st.integers(0, 2)), min_size=2, max_size=6)


@given(WRITES)
@settings(max_examples=15, deadline=None)
def test_after_any_writes_and_crashes_the_store_ends_with_the_newest_records(
    writes: list[tuple[str, dict[str, tuple[str, int]], int]],
) -> None:
    """The third number of a write says before which change of the store's own notes it crashes; 0: it does not."""
    upsert = LanceStore._upsert_shards
    folder = Path(tempfile.mkdtemp())
    shards: Shards = {}
    try:
        for shard, papers, place in writes:
            shards[shard] = [Record(name, *rank) for name, rank in papers.items()]
            calls = itertools.count(1)

            def crashing(store: LanceStore, records: Any, place: int = place, calls: Any = calls) -> None:
                if next(calls) == place:
                    raise Crash
                upsert(store, records)

            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
                patch.setattr(LanceStore, "_upsert_shards", crashing)
                write(LanceStore(folder), shard, *shards[shard])
        store = LanceStore(folder)
        for _ in range(4):  # runs: each writes what the store does not hold as it is
            at_hand = store.shards(SPACE.fingerprint)
            missing = [name for name, records in shards.items() if at_hand.get(name) != repr(tuple(records))]
            for name in missing:
                write(store, name, *shards[name])
            if not missing:
                break
        assert not missing
        assert papers_held(store) == newest(shards)
    finally:
        shutil.rmtree(folder)


def test_a_crash_between_rows_and_note_is_seen_even_when_the_source_turns_back(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, "a", Record("1"), identity="first")
    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "_remember_shard", crash)
        with pytest.raises(Crash):
            write(store, "a", Record("2"), identity="second")
    assert store.shards(SPACE.fingerprint) == {}  # neither of the two
    write(store, "a", Record("1"), identity="first")
    assert set(papers_held(store)) == {"1"}


def test_a_writer_is_refused_while_another_process_writes(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance_place, "WRITER_WAIT_SECONDS", 0.0)
    code = (
        "import sys, time; from pathlib import Path; from arxiv_embed.stores.lance import LanceStore; "
        "store = LanceStore(Path(sys.argv[1])); w = store._writing(); w.__enter__(); "
        "print('writing', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, store.url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "writing\n"
    with pytest.raises(Locked, match=f"The store .* is in use by process {process.pid}"):
        write(store, "a", Record("1"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    write(store, "a", Record("1"))
    assert set(papers_held(store)) == {"1"}


WRITER = """
import sys
from pathlib import Path
from arxiv_embed.stores.lance import LanceStore
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows
store = LanceStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for n in range(8):
    records = [Record(f"{n}-{i}", text=sys.argv[2]) for i in range(30)]
    store.write_shard(SPACE, sys.argv[2], shard_rows(sys.argv[2], records), str(n))
"""


def test_two_processes_that_write_the_same_papers_leave_no_duplicates(store: LanceStore) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store.url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n")
        assert writer.returncode == 0
    papers = papers_held(LanceStore(Path(store.url)))
    assert {shard for shard, _, _ in papers.values()} <= {"a", "b"}
    assert set(papers) >= {f"7-{i}" for i in range(30)}


def test_a_reader_sees_what_another_store_object_wrote_last(store: LanceStore) -> None:
    write(store, "a", Record("1"))
    other = LanceStore(Path(store.url))
    assert other.count(SPACE.fingerprint) == (1, 3)
    write(other, "b", Record("2"))
    write(store, "c", Record("3"))
    assert set(papers_held(store)) == {"1", "2", "3"}


def test_spaces_stand_side_by_side_and_never_mix(store: LanceStore) -> None:
    write(store, "a", Record("1"))
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("2")], OTHER_SPACE), "x")
    assert store.spaces() == [OTHER_SPACE, SPACE]
    assert {row["paper_id"] for row in held(store)} == {"1"}
    assert {row["paper_id"] for row in held(store, OTHER_SPACE)} == {"2"}
    assert store.shards(OTHER_SPACE.fingerprint) == {"a": "x"}


def test_a_full_disk_is_one_sentence_and_the_store_stays_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        store = LanceStore(disk / "store")
        write(store, "a", Record("1"))
        before = held(store)
        many = [Record(str(n), text=f"word {n} " * 20, chunks=1) for n in range(15_000)]
        rows = shard_rows("b", many)
        with pytest.raises(NoSpace, match=r"No space is left in .* run the same command again"):
            store.write_shard(SPACE, "b", rows, "b")
        assert held(LanceStore(disk / "store")) == before
        assert list(store.shards(SPACE.fingerprint)) == ["a"]
        grow(disk, 60)
        store.write_shard(SPACE, "b", rows, "b")
        assert store.count(SPACE.fingerprint)[0] == 15_000


@pytest.mark.parametrize("damage", [truncate, delete])
@pytest.mark.parametrize("part", ["data", "_versions"])
def test_a_damaged_store_is_one_sentence(store: LanceStore, damage: Callable[[Path], None], part: str) -> None:
    write(store, "a", *(Record(str(n)) for n in range(50)))
    for path in (Path(store.url) / f"rows_{SPACE.fingerprint}.lance" / part).iterdir():
        damage(path)
    damaged = LanceStore(Path(store.url))
    with pytest.raises(StoreError, match=r"cannot be read|holds nothing") as caught:
        damaged.nearest(SPACE.fingerprint, np.ones(8, np.float32), 3, Filters(), chunks=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["spaces", "shards", f"rows_{SPACE.fingerprint}"])
def test_a_table_whose_making_was_interrupted_is_made_again(store: LanceStore, name: str) -> None:
    write(store, "a", Record("1"))
    shutil.rmtree(Path(store.url) / f"{name}.lance")
    (Path(store.url) / f"{name}.lance" / "_versions").mkdir(parents=True)
    again = LanceStore(Path(store.url))
    if name.startswith("rows"):
        assert again.shards(SPACE.fingerprint) == {}  # a shard whose rows are gone is not held
    write(again, "a", Record("1"))
    assert set(papers_held(again)) == {"1"}


def test_many_small_shards_do_not_pile_up(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance, "COMPACT_EVERY", 5)
    for n in range(11):
        write(store, f"s{n}", Record(str(n)))
    for name in ("shards", f"rows_{SPACE.fingerprint}"):
        assert store._table(name).stats()["fragment_stats"]["num_fragments"] <= 6
    assert len(papers_held(store)) == 11


@pytest.fixture
def older(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> LanceStore:
    """A store written before rows said how many tokens were cut, opened anew."""
    schema = row_schema(SPACE.dimensions)
    with monkeypatch.context() as patch:
        patch.setattr(lance, "row_schema", lambda dimensions: schema.remove(schema.get_field_index("cut_tokens")))
        rows = shard_rows("a", [Record("1", text="a star"), Record("2", text="a galaxy")]).drop_columns(["cut_tokens"])
        store.write_shard(SPACE, "a", rows, "older")
        store.finish(SPACE)
    return LanceStore(Path(store.url))


def versions(store: LanceStore) -> int:
    return len(store._table(f"rows_{SPACE.fingerprint}").list_versions())


def cut_tokens(store: LanceStore, *papers: str) -> list[int | None]:
    found = store.papers(SPACE.fingerprint, papers)
    return [found[paper].cut_tokens for paper in papers]


def test_a_store_of_older_rows_is_read_as_it_is(older: LanceStore) -> None:
    before = versions(older)
    assert cut_tokens(older, "1", "2") == [None, None]
    assert [match.paper_id for match in older.matching(SPACE.fingerprint, "galaxy", 3, Filters())] == ["2"]
    assert older.shards(SPACE.fingerprint) == {"a": "older"}
    assert "cut_tokens" not in held(older)[0]
    assert versions(older) == before


def test_the_first_write_adds_the_column_that_older_rows_lack_and_leaves_them_as_they_are(older: LanceStore) -> None:
    rows, before = held(older), versions(older)
    reader = LanceStore(Path(older.url))
    assert cut_tokens(reader, "1") == [None]
    write(older, "b", Record("3", cut=7))
    assert versions(older) == before + 2  # the column, and the shard
    assert cut_tokens(older, "1", "2", "3") == [None, None, 7]
    assert cut_tokens(reader, "1") == [None]
    assert [row for row in held(older) if row["shard"] == "a"] == [{**row, "cut_tokens": None} for row in rows]
    assert [match.paper_id for match in older.matching(SPACE.fingerprint, "galaxy", 3, Filters())] == ["2"]
    write(older, "c", Record("4"))
    assert versions(older) == before + 3
    older.finish(SPACE)
    assert cut_tokens(LanceStore(Path(older.url)), "1", "3", "4") == [None, 7, 0]


def test_an_older_shard_that_is_written_again_says_what_was_cut(older: LanceStore) -> None:
    write(older, "a", Record("1", text="a star", cut=3), Record("2", text="a galaxy"))
    assert cut_tokens(older, "1", "2") == [3, 0]
    assert set(papers_held(older)) == {"1", "2"}


def test_a_writer_that_ended_when_it_had_added_the_column_is_followed_by_another(
    older: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(LanceStore, "_note_losses", crash)
        with pytest.raises(Crash):
            write(older, "b", Record("3", cut=7))
    again = LanceStore(Path(older.url))
    assert cut_tokens(again, "1", "2") == [None, None]
    assert again.shards(SPACE.fingerprint) == {"a": "older"}
    write(again, "b", Record("3", cut=7))
    assert cut_tokens(again, "1", "3") == [None, 7]


def test_a_store_is_found_made_or_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no store at"):
        open_store(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(StoreError, match="kind redis:// is not supported"):
        open_store("redis://host/db", create=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable, match="Nothing can be written to"):
        open_store(str(tmp_path / "file"), create=True)
    open_store(str(tmp_path / "none"), create=True)
    with pytest.raises(StoreError, match="holds nothing in this space"):
        LanceStore(tmp_path / "none").papers(SPACE.fingerprint, ["1"])


@pytest.mark.parametrize("by", ["the same store object", "another"])
def test_a_store_whose_folder_is_gone_is_away_and_not_begun_anew(store: LanceStore, tmp_path: Path, by: str) -> None:
    write(store, "a", Record("1"))
    if by == "another":
        store = LanceStore(tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreAway, match="was there and is gone"):
        write(store, "b", Record("2"))
    assert not (tmp_path / "store").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "store")
    write(store, "b", Record("2"))
    assert store.count(SPACE.fingerprint)[0] == 2
