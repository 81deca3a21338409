"""What every store must do: what it holds after any order of writes, crashes and writers."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.stores.lance import indexes as lance_indexes
from arxiv_embed.stores.lance import place as lance_place
from arxiv_embed.stores.lance import store as lance
from arxiv_embed.stores.lance import tables as lance_tables
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.postgres import indexes as postgres_indexes
from arxiv_embed.stores.postgres import merge, schema, writer
from arxiv_embed.stores.protocol import VECTORS, Filters, NewerStore, NoStore, StoreError, VectorStore, open_store
from arxiv_embed_tests.stores.shard_rows import OTHER_SPACE, SPACE, Record, held, papers_held, shard_rows, write

if TYPE_CHECKING:
    pass

Shards = dict[str, list[Record]]


def newest(shards: Shards) -> dict[str, tuple[str, str, int]]:
    """What the contract says a store holds of these shards."""
    found: dict[str, tuple[str, str, int]] = {}
    ranked = ((r.updated, r.version, shard, r.id) for shard, records in shards.items() for r in records)
    for updated, version, shard, paper in sorted(ranked):
        found[paper] = (shard, updated, version)
    return found


def test_writing_a_shard_twice_leaves_what_writing_it_once_left(store: VectorStore) -> None:
    records = [Record("1", chunks=3), Record("2", text="other")]
    write(store, "a", *records)
    once = held(store)
    write(store, "a", *records)
    assert held(store) == once
    assert store.count(SPACE.fingerprint) == (2, 7)


def test_rows_that_are_the_same_stay_as_they_are_and_tell_who_wrote_them(store: VectorStore) -> None:
    first = [Record("1", chunks=3), Record("2", text="other"), Record("3"), Record("4", categories=("cs.LG",))]
    then = [first[0], Record("2", text="changed", chunks=1), Record("4", categories=("cs.LG", "cs.AI")), Record("5")]
    store.write_shard(SPACE, "a", shard_rows("a", first, run_id="first"), "i")
    store.write_shard(SPACE, "a", shard_rows("a", then, run_id="then"), "j")
    assert {row["key"]: row["run_id"] for row in held(store)} == {
        **{f"1#{chunk}": "first" for chunk in (-1, 0, 1, 2)},
        **dict.fromkeys(("2#-1", "2#0", "4#-1", "4#0", "4#1", "5#-1", "5#0", "5#1"), "then"),
    }
    expected = {row["key"]: row for row in shard_rows("a", then).to_pylist()}
    for row in held(store):
        assert {**row, "run_id": "run"} == expected[row["key"]]


def test_of_many_rows_that_leave_a_shard_none_stays(store: VectorStore) -> None:
    write(store, "a", *(Record(str(n), chunks=4) for n in range(300)))
    write(store, "a", *(Record(str(n), chunks=4) for n in range(20)))
    assert store.count(SPACE.fingerprint) == (20, 100)
    write(store, "a")
    assert store.count(SPACE.fingerprint) == (0, 0)


def test_a_space_that_is_dropped_leaves_the_others_as_they_are(store: VectorStore) -> None:
    write(store, "a", Record("1"), Record("2"))
    before = held(store)
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    store.drop(OTHER_SPACE.fingerprint)
    with open_store(store.url) as another:
        for looked_at in (store, another):
            assert looked_at.spaces() == [SPACE]
            assert held(looked_at) == before
            assert looked_at.count(OTHER_SPACE.fingerprint) == (0, 0)
            assert looked_at.shards(OTHER_SPACE.fingerprint) == {}
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    assert store.count(OTHER_SPACE.fingerprint) == (1, 3)


def test_a_writer_goes_on_after_another_has_dropped_a_space(store: VectorStore) -> None:
    write(store, "a", Record("1"))
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    with open_store(store.url) as another:
        another.drop(OTHER_SPACE.fingerprint)
    write(store, "b", Record("2"))
    assert set(papers_held(store)) == {"1", "2"}
    store.write_shard(OTHER_SPACE, "b", shard_rows("b", [Record("2")]), "other")
    assert store.count(OTHER_SPACE.fingerprint) == (1, 3)
    assert set(store.spaces()) == {SPACE, OTHER_SPACE}


def test_papers_that_leave_a_shard_leave_the_store(store: VectorStore) -> None:
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
def test_the_newest_record_wins_in_whatever_order_shards_arrive(records: list[Record], store: VectorStore) -> None:
    shards = {name: [record, Record(f"only {name}")] for name, record in zip("abc", records, strict=True)}
    for order in itertools.permutations(shards):
        for name in order:
            write(store, name, *shards[name])
        assert papers_held(store) == newest(shards)
        assert set(store.shards(SPACE.fingerprint)) == set(shards)
        store.drop(SPACE.fingerprint)


def test_a_newer_record_leaves_no_chunk_of_another_shards_older_one(store: VectorStore) -> None:
    write(store, "a", Record("1", "2020-01-01", text="long", chunks=5), Record("2"))
    write(store, "b", Record("1", "2021-01-01", text="short", chunks=2))
    assert [row["key"] for row in held(store) if row["paper_id"] == "1"] == ["1#-1", "1#0", "1#1"]
    assert papers_held(store)["2"][0] == "a"
    write(store, "a", Record("1", "2020-01-01", text="long", chunks=5), Record("2"))
    assert papers_held(store)["1"] == ("b", "2021-01-01", 1)
    assert store.count(SPACE.fingerprint) == (2, 6)


def test_an_older_record_comes_back_when_the_newer_shard_loses_the_paper(store: VectorStore) -> None:
    old, new, other = Record("1", "2020-01-01"), Record("1", "2021-01-01"), Record("2")
    for order in (("a", "b"), ("b", "a")):
        for name in order:
            write(store, name, *{"a": [old], "b": [new, other]}[name])
        assert write(store, "b", other) == ("a",)
        assert set(store.shards(SPACE.fingerprint)) == {"b"}  # a is to be written again
        write(store, "a", old)
        assert papers_held(store) == newest({"a": [old], "b": [other]})


def test_an_older_record_comes_back_when_the_newer_one_is_set_back(store: VectorStore) -> None:
    write(store, "a", Record("1", "2020-01-01"))
    write(store, "b", Record("1", "2021-01-01"))
    assert write(store, "b", Record("1", "2019-01-01")) == ("a",)
    write(store, "a", Record("1", "2020-01-01"))
    assert papers_held(store) == {"1": ("a", "2020-01-01", 1)}


def test_shards_that_lack_other_papers_are_not_written_again(store: VectorStore) -> None:
    write(store, "a", Record("1"))
    write(store, "b", Record("2"))
    write(store, "c", Record("1", "2021-01-01"), Record("2", "2021-01-01"))
    assert write(store, "c", Record("1", "2021-01-01")) == ("b",)


RECORDS = st.dictionaries(
    st.sampled_from("123"), st.tuples(st.sampled_from(["2020-01-01", "2021-01-01"]), st.integers(1, 2)), max_size=3
)
WRITES = st.lists(st.tuples(st.sampled_from("abc"), RECORDS, st.integers(0, 2)), min_size=2, max_size=6)


class Crash(BaseException):
    """The process ends here."""


@contextlib.contextmanager
def crash_at(place: int) -> Iterator[None]:
    """Crashes before the change of that number which a write of either store makes; 0: none."""
    calls = itertools.count(1)

    def crashing(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*given: object) -> object:
            if next(calls) == place:
                raise Crash
            return change(*given)

        return changed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(LanceStore, "_upsert_shards", crashing(LanceStore._upsert_shards))
        for name in ("copy_in", "_note_losses"):
            patch.setattr(merge, name, crashing(getattr(merge, name)))
        yield


def repaired(store: VectorStore, shards: Shards) -> bool:
    """Whether runs, each of which writes what the store does not hold as it is, come to an end."""
    for _ in range(4):
        at_hand = store.shards(SPACE.fingerprint)
        missing = [name for name, records in shards.items() if at_hand.get(name) != repr(tuple(records))]
        for name in missing:
            write(store, name, *shards[name])
        if not missing:
            return True
    return False


@given(WRITES)
@settings(
    max_examples=15,
    deadline=None,
    # Each example ends with an empty store.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_after_any_writes_and_crashes_the_store_ends_with_the_newest_records(
    store: VectorStore, writes: list[tuple[str, dict[str, tuple[str, int]], int]]
) -> None:
    """The third number of a write says where it crashes."""
    shards: Shards = {}
    for shard, papers, place in writes:
        shards[shard] = [Record(name, *rank) for name, rank in papers.items()]
        with open_store(store.url, create=True) as writing, crash_at(place):
            write(writing, shard, *shards[shard])
    assert repaired(store, shards)
    assert papers_held(store) == newest(shards)
    store.drop(SPACE.fingerprint)


SLOW_WRITER = """
import sys, time
from arxiv_embed.stores.lance import store as lance
from arxiv_embed.stores.postgres import merge
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.stores.shard_rows import Record, write
def slow(*_):
    print("writing", flush=True)
    time.sleep(60)
lance.rivals = merge.rivals = slow
write(open_store(sys.argv[1], create=True), "b", Record("2"))
"""


def test_a_writer_is_refused_while_another_process_writes(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lance_place, writer):
        monkeypatch.setattr(module, "WRITER_WAIT_SECONDS", 0.0)
    process = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, store.url], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "writing\n"
    with pytest.raises(Locked, match=f"The store .* is in use by process {process.pid}"):
        write(store, "a", Record("1"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(writer, "WRITER_WAIT_SECONDS", 30.0)  # a server notices that its client is gone in its own time
    write(store, "a", Record("1"))
    assert set(papers_held(store)) == {"1"}


WRITER = """
import sys
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows
store = open_store(sys.argv[1], create=True)
print("ready", flush=True)
sys.stdin.readline()
for n in range(8):
    records = [Record(f"{n}-{i}", text=sys.argv[2]) for i in range(30)]
    store.write_shard(SPACE, sys.argv[2], shard_rows(sys.argv[2], records), str(n))
"""


def test_two_processes_that_write_the_same_papers_leave_no_duplicates(store: VectorStore) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store.url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    for process in writers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in writers:
        process.communicate("go\n")
        assert process.returncode == 0
    papers = papers_held(store)
    assert {shard for shard, _, _ in papers.values()} <= {"a", "b"}
    assert set(papers) >= {f"7-{i}" for i in range(30)}


def test_a_reader_sees_what_another_store_object_wrote_last(store: VectorStore) -> None:
    write(store, "a", Record("1"))
    with open_store(store.url) as other:
        assert other.count(SPACE.fingerprint) == (1, 3)
        write(other, "b", Record("2"))
    write(store, "c", Record("3"))
    assert set(papers_held(store)) == {"1", "2", "3"}


def test_spaces_stand_side_by_side_and_never_mix(store: VectorStore) -> None:
    write(store, "a", Record("1"))
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("2")], OTHER_SPACE), "x")
    assert store.spaces() == [OTHER_SPACE, SPACE]
    assert {row["paper_id"] for row in held(store)} == {"1"}
    assert {row["paper_id"] for row in held(store, OTHER_SPACE)} == {"2"}
    assert store.shards(OTHER_SPACE.fingerprint) == {"a": "x"}


def test_what_is_read_of_a_space_is_what_was_written(store: VectorStore) -> None:
    records = [Record("1", chunks=3, categories=(), cut=7), Record("hep-th/9901001", published="", title="Ψ \\ '\"")]
    rows = shard_rows("a", records)
    write(store, "a", *records)
    assert held(store) == sorted(rows.to_pylist(), key=lambda row: row["key"])
    [batch, *_] = store.scan(SPACE.fingerprint)
    assert batch.schema.equals(rows.schema)
    keys = store.keys_of(SPACE.fingerprint, "a")
    assert set(zip(*keys.to_pydict().values(), strict=True)) == {(r["paper_id"], r["chunk_index"]) for r in held(store)}
    assert store.keys_of(SPACE.fingerprint, "b").num_rows == 0
    stored = store.papers(SPACE.fingerprint, ["1", "none"])
    assert list(stored) == ["1"]
    assert (stored["1"].title, stored["1"].categories, stored["1"].cut_tokens) == ("A title", (), 7)


def test_the_vectors_of_a_text_are_those_of_one_of_its_papers(store: VectorStore) -> None:
    write(store, "a", Record("2"), Record("1"), Record("3", text="other"))
    found = store.vectors_of_texts(SPACE.fingerprint, [Record("1").paper.text_sha256, "none"])
    assert tuple(found.schema.names) == VECTORS
    expected = shard_rows("a", [Record("1")]).select(list(VECTORS))
    assert found.sort_by("chunk_index").equals(expected.sort_by("chunk_index"))
    assert store.vectors_of_texts(OTHER_SPACE.fingerprint, ["none"]).num_rows == 0


def test_a_store_that_is_not_there_is_named_as_such_and_not_made(url: str) -> None:
    with pytest.raises(NoStore, match=r"There is no store at .*: make one with"):
        open_store(url)
    with open_store(url, create=True) as store:
        assert store.spaces() == []
        assert store.shards(SPACE.fingerprint) == {}
        assert store.count(SPACE.fingerprint) == (0, 0)
        with pytest.raises(StoreError, match="holds nothing in this space"):
            store.papers(SPACE.fingerprint, ["1"])
    with pytest.raises(NoStore):
        open_store(url)


KILLED_WRITER = """
import sys, itertools
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.stores.shard_rows import Record, write
store = open_store(sys.argv[1], create=True)
for n in itertools.count():
    write(store, "a", *(Record(str(i), f"{2000 + n}-01-01", text=f"text {n}") for i in range(400)))
    print(n, flush=True)
    write(store, "b", *(Record(str(i), f"{2000 + n}-06-01", text=f"text {n}") for i in range(200, 600)))
"""


def test_a_writer_that_is_killed_leaves_whole_papers_and_what_the_next_run_repairs(store: VectorStore) -> None:
    for seconds in (0.0, 0.03, 0.07):
        process = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, store.url], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "0\n"
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
        papers_held(store)  # none has chunks of two records
    shards = {
        "a": [Record(str(i), "2000-01-01") for i in range(300)],
        "b": [Record(str(i), "1999-01-01") for i in range(200, 600)],
    }
    assert repaired(store, shards)
    assert papers_held(store) == newest(shards)


@contextlib.contextmanager
def a_newer_version() -> Iterator[None]:
    """Of this package, whose stores have a format that this one does not know."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lance_tables, "FORMAT", 2)
        patch.setattr(lance, "SPACES", lance.SPACES.with_metadata({lance_tables.FORMAT_KEY: b"2"}))
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "COMMENT ON SCHEMA arxiv_embed IS 'newer'"))
        yield


def test_a_store_of_a_newer_version_is_refused_for_reading_and_for_writing(store: VectorStore) -> None:
    with a_newer_version(), open_store(store.url, create=True) as newer:
        write(newer, "a", Record("1"))
    for refused in (
        lambda: open_store(store.url),
        lambda: open_store(store.url, create=True),
        lambda: write(store, "b", Record("2")),  # opened before
    ):
        with pytest.raises(NewerStore, match=r"was written by a newer version of arxiv-embed .*: upgrade arxiv-embed"):
            refused()
    with a_newer_version(), open_store(store.url) as newer:
        assert set(papers_held(newer)) == {"1"}


def test_a_newer_version_writes_to_an_older_store(store: VectorStore) -> None:
    write(store, "a", Record("1"))
    with a_newer_version(), open_store(store.url) as newer:
        assert set(papers_held(newer)) == {"1"}
        write(newer, "b", Record("2"))
        assert set(papers_held(newer)) == {"1", "2"}


def test_a_shard_that_is_listed_again_takes_back_what_it_lost_while_it_was_not(store: VectorStore) -> None:
    """A file is renamed, and later renamed back."""
    rows = {name: shard_rows(name, [Record("1")]) for name in "az"}
    store.write_shard(SPACE, "a", rows["a"], "of a", listed={"a"})
    store.write_shard(SPACE, "z", rows["z"], "of z", listed={"z"})
    assert papers_held(store)["1"][0] == "z"
    assert store.shards(SPACE.fingerprint) == {"z": "of z"}  # a is to be written when it is there again
    store.write_shard(SPACE, "a", rows["a"], "of a", listed={"a"})
    assert papers_held(store)["1"][0] == "a"
    assert store.shards(SPACE.fingerprint) == {"a": "of a"}


def test_a_listed_shard_that_loses_a_paper_is_not_to_be_written_again(store: VectorStore) -> None:
    store.write_shard(SPACE, "a", shard_rows("a", [Record("1")]), "of a", listed={"a", "b"})
    store.write_shard(SPACE, "b", shard_rows("b", [Record("1", "2021-01-01")]), "of b", listed={"a", "b"})
    assert set(store.shards(SPACE.fingerprint)) == {"a", "b"}


def test_a_store_says_whether_its_indexes_are_up_to_date(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance_indexes, "LEAST_ROWS", 100)
    monkeypatch.setattr(postgres_indexes, "INDEX_FROM", 100)
    store.finish(SPACE)
    assert store.is_finished(SPACE)
    assert store.spaces() == []  # to finish nothing begins no store
    write(store, "a", Record("1"))
    assert not store.is_finished(SPACE)
    store.finish(SPACE)
    with open_store(store.url) as another:
        assert another.is_finished(SPACE)
    write(store, "b", *(Record(f"b{n}", text=f"text {n}") for n in range(100)))  # now the vectors are to have one
    assert not store.is_finished(SPACE)
    store.finish(SPACE)
    assert store.is_finished(SPACE)
    assert store.is_finished(OTHER_SPACE)


def test_papers_that_are_gone_have_no_chunks(store: VectorStore) -> None:
    """As when one that was found is rewritten before its chunks are asked for."""
    write(store, "a", Record("1"))
    vector = np.ones(SPACE.dimensions, np.float32)
    assert store.papers_and_chunks(SPACE.fingerprint, ["2"], vector) == ({}, [])
    assert store.nearest(SPACE.fingerprint, vector, 5, Filters(shard="\udce9"), chunks=False) == []
