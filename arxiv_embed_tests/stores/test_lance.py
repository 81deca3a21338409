"""The LanceDB store: its files, whole, damaged, older, and gone."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arxiv_embed.checkpoint.atomic import NoSpace, NotWritable
from arxiv_embed.stores.lance import store as lance
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import Filters, NoStore, StoreAway, StoreError, open_store
from arxiv_embed.stores.rows import row_schema
from arxiv_embed_tests.damage import delete, truncate
from arxiv_embed_tests.small_disk import grow, make_read_only, small_disk
from arxiv_embed_tests.stores.shard_rows import OTHER_SPACE, SPACE, Record, held, papers_held, shard_rows, write

Shards = dict[str, list[Record]]


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore(tmp_path / "store")


def test_a_changed_text_loses_its_old_chunks_in_the_same_version(store: LanceStore) -> None:
    write(store, "a", Record("1", text="long", chunks=5), Record("2"))
    write(store, "a", Record("1", text="short", chunks=2), Record("2"))
    table = store._tables.get(f"rows_{SPACE.fingerprint}")
    seen = []
    for version in table.list_versions():
        table.checkout(version["version"])
        rows = table.to_arrow().to_pylist()
        texts = {row["text_sha256"] for row in rows if row["paper_id"] == "1"}
        seen.append((len(texts), sum(row["paper_id"] == "1" for row in rows)))
    table.checkout_latest()
    assert set(seen) <= {(0, 0), (1, 6), (1, 3)}
    assert seen[-1] == (1, 3)


@pytest.mark.parametrize("done", [1, 2])
def test_a_drop_that_was_interrupted_is_finished_by_another(
    store: LanceStore, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its shards, and after its rows; the table that is looked at first says the format."""
    write(store, "a", Record("1"))
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")]), "other")
    steps, get = itertools.count(), store._tables.get

    def stop(name: str) -> Any:
        if name != "shards" and next(steps) >= done:
            raise KeyboardInterrupt
        return get(name)

    monkeypatch.setattr(store._tables, "get", stop)
    with pytest.raises(KeyboardInterrupt):
        store.drop(OTHER_SPACE.fingerprint)
    again = LanceStore(Path(store.url))
    assert set(again.spaces()) == {SPACE, OTHER_SPACE}
    assert again.shards(OTHER_SPACE.fingerprint) == {}
    again.drop(OTHER_SPACE.fingerprint)
    assert again.spaces() == [SPACE]
    assert set(papers_held(again)) == {"1"}


class Crash(BaseException):
    """The process ends here."""


def crash(*_: object) -> None:
    raise Crash


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


def test_a_folder_that_is_read_only_is_read_and_refuses_a_write_in_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        write(LanceStore(disk / "store"), "a", Record("1"))
        make_read_only(disk)
        with open_store(str(disk / "store")) as store:
            assert set(papers_held(store)) == {"1"}
            with pytest.raises(NotWritable, match=r"Nothing can be written to .*: mend that, or name another place"):
                write(store, "b", Record("2"))


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
    if name == "spaces":
        with pytest.raises(NoStore):
            open_store(store.url)
    if name.startswith("rows"):
        assert again.shards(SPACE.fingerprint) == {}  # a shard whose rows are gone is not held
    write(again, "a", Record("1"))
    assert set(papers_held(again)) == {"1"}


def test_many_small_shards_do_not_pile_up(store: LanceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lance, "COMPACT_EVERY", 5)
    for n in range(11):
        write(store, f"s{n}", Record(str(n)))
    for name in ("shards", f"rows_{SPACE.fingerprint}"):
        assert store._tables.get(name).stats()["fragment_stats"]["num_fragments"] <= 6
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
    return len(store._tables.get(f"rows_{SPACE.fingerprint}").list_versions())


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


def test_a_store_that_says_nothing_of_its_format_is_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lance, "SPACES", lance.SPACES.remove_metadata())
        write(LanceStore(tmp_path / "store"), "a", Record("1"))
    with open_store(str(tmp_path / "store")) as store:
        write(store, "b", Record("2"))
        assert set(papers_held(store)) == {"1", "2"}


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
