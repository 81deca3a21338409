"""A store kept open: it sees what others write, drop and put back; and a scan sees one moment."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from arxiv_embed.stores.lance import indexes as lance_indexes
from arxiv_embed.stores.lance import store as lance
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import Filters, StoreAway, StoreError
from arxiv_embed_tests.stores.shard_rows import OTHER_SPACE, SPACE, Record, shard_rows

F = SPACE.fingerprint
VECTOR = np.ones(SPACE.dimensions, np.float32)


def write(folder: Path, shard: str, *ids: str) -> LanceStore:
    """By a store of its own, as another process would."""
    store = LanceStore(folder)
    store.write_shard(SPACE, shard, shard_rows(shard, map(Record, ids)), f"i{ids}")
    return store


READS: dict[str, Callable[[LanceStore], object]] = {
    "spaces": lambda store: store.spaces(),
    "shards": lambda store: store.shards(F),
    "count": lambda store: store.count(F),
    "keys": lambda store: store.keys_of(F, "b").num_rows,
    "nearest": lambda store: sorted(
        match.paper_id for match in store.nearest(F, VECTOR, 10, Filters(), chunks=False, exact=True)
    ),
    "chunks": lambda store: len(store.papers_and_chunks(F, ["1", "2", "3"], VECTOR)[1]),
    "matching": lambda store: sorted(match.paper_id for match in store.matching(F, "abstract", 10, Filters())),
    "papers": lambda store: sorted(store.papers(F, ["1", "2"])),
    "texts": lambda store: store.vectors_of_texts(F, [Record("1").paper.text_sha256])["paper_id"].to_pylist(),
    "vector": lambda store: store.vector_of(F, "1") is not None,
    "scan": lambda store: sum(batch.num_rows for batch in store.scan(F)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_reader_sees_what_was_written_after_it_was_opened(
    tmp_path: Path, read: Callable[[LanceStore], object]
) -> None:
    write(tmp_path / "s", "a", "1").finish(SPACE)
    reader = LanceStore(tmp_path / "s")
    before = read(reader)
    other = write(tmp_path / "s", "b", "2")
    write(tmp_path / "s", "a", "3").finish(SPACE)
    other.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1")], OTHER_SPACE), "other")
    assert read(reader) == read(LanceStore(tmp_path / "s"))
    assert read(reader) != before


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_reader_says_that_its_store_is_away_and_reads_it_when_it_is_back(
    tmp_path: Path, read: Callable[[LanceStore], object]
) -> None:
    write(tmp_path / "s", "a", "1").finish(SPACE)
    reader = LanceStore(tmp_path / "s")
    before = read(reader)
    (tmp_path / "s").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreAway, match="was there and is gone"):
        read(reader)
    (tmp_path / "elsewhere").rename(tmp_path / "s")
    assert read(reader) == before
    shutil.rmtree(tmp_path / "s")
    write(tmp_path / "s", "a", "2").finish(SPACE)
    assert read(reader) == read(LanceStore(tmp_path / "s"))


def test_a_reader_sees_a_space_dropped_and_put_back_by_another(tmp_path: Path) -> None:
    other = write(tmp_path / "s", "a", "1")
    reader = LanceStore(tmp_path / "s")
    assert reader.count(F) == (1, 3)
    other.drop(F)
    assert reader.count(F) == (0, 0)
    with pytest.raises(StoreError, match="holds nothing in this space"):
        reader.nearest(F, VECTOR, 10, Filters(), chunks=False)
    write(tmp_path / "s", "a", "1", "2")
    assert reader.count(F) == (2, 6)


def test_a_scan_gives_every_row_as_it_was_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several batches and questions, those in no index among them and those replaced not, though a writer replaces
    and compacts all between two."""
    monkeypatch.setattr(lance, "SCAN_ROWS", 50)
    monkeypatch.setattr(lance, "SCAN_PAGE_ROWS", 170)
    papers = [f"a{number:03d}" for number in range(200)]
    write(tmp_path / "s", "a", *papers).finish(SPACE)
    write(tmp_path / "s", "a", *papers[:150])
    write(tmp_path / "s", "b", "late")
    reader = LanceStore(tmp_path / "s")
    batches = reader.scan(F)
    head = next(batches)
    assert head.num_rows <= 50
    write(tmp_path / "s", "a", "other").finish(SPACE)
    write(tmp_path / "s", "b", "newer").finish(SPACE)
    keys = [key for batch in (head, *batches) for key in batch["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == 3 * (150 + 1)
    assert {key.partition("#")[0] for key in keys} == {*papers[:150], "late"}
    assert reader.count(F) == (2, 6)
    assert sum(batch.num_rows for batch in reader.scan(F)) == 6


def test_a_scan_begun_on_an_old_version_goes_on_while_a_writer_forgets_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has written for long when it begins, and every fragment has a file of deletions."""
    monkeypatch.setattr(lance, "SCAN_ROWS", 32)
    monkeypatch.setattr(lance, "SCAN_PAGE_ROWS", 64)
    shards = [f"s{number}" for number in range(12)]
    for text in ("before", "after"):
        for shard in shards:
            records = [Record(f"{shard}-{n}", text=text) for n in range(60)]
            LanceStore(tmp_path / "s").write_shard(SPACE, shard, shard_rows(shard, records), text)
        if text == "before":
            LanceStore(tmp_path / "s").finish(SPACE)
    newer = [Record(f"{shard}-{n}", f"{2023 + n}-01-01") for n in range(2) for shard in shards]
    LanceStore(tmp_path / "s").write_shard(SPACE, "x", shard_rows("x", newer[:12]), "x")
    monkeypatch.setattr(lance_indexes, "KEPT_VERSIONS", timedelta(milliseconds=1))
    batches = LanceStore(tmp_path / "s").scan(F)
    head = next(batches)
    writer = LanceStore(tmp_path / "s")
    writer.write_shard(SPACE, "y", shard_rows("y", newer[12:]), "y")
    writer.finish(SPACE)
    assert head.num_rows + sum(batch.num_rows for batch in batches) == 3 * 60 * 12
