"""The indexes of a LanceDB store: what they find, when they are built anew, and what is left of old versions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from arxiv_embed.encoding.space import Space
from arxiv_embed.stores.lance import indexes as lance_indexes
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import Filters
from arxiv_embed_tests.fake_pool import vectors_of
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows

WIDE = replace(SPACE, dimensions=64)
PAPERS = 600


def records(count: int, first: int = 0) -> list[Record]:
    subjects = (("math.CO", "cs.DM"), ("cs.LG",), ("hep-th",))
    return [
        Record(str(n), text=f"paper {n}", chunks=1, categories=subjects[n % 3]) for n in range(first, first + count)
    ]


def filled(folder: Path, space: Space = WIDE, papers: int = PAPERS) -> LanceStore:
    store = LanceStore(folder)
    store.write_shard(space, "a", shard_rows("a", records(papers), space), "i")
    store.finish(space)
    return store


def vector_index(store: LanceStore, space: Space = WIDE) -> list[str]:
    indices = store._tables.get(f"rows_{space.fingerprint}").list_indices()
    return [f"{index.name} {index.index_type}" for index in indices if "vector" in index.columns]


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes as of a store a hundred times as large."""
    monkeypatch.setattr(lance_indexes, "LEAST_ROWS", 1_000)
    monkeypatch.setattr(lance_indexes, "PARTITION_ROWS", 300)


def query_of(paper: int, dimensions: int = 64) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector: np.ndarray[tuple[int], np.dtype[np.float32]] = vectors_of(f"A title\n\npaper {paper}", dimensions)[0]
    return vector


def test_few_rows_are_compared_without_an_index(tmp_path: Path) -> None:
    assert vector_index(filled(tmp_path, papers=400)) == []


@pytest.mark.parametrize(("dimensions", "kind"), [(64, "IvfRq"), (100, "IvfFlat")])
def test_the_index_finds_what_comparing_every_vector_finds(tmp_path: Path, dimensions: int, kind: str) -> None:
    space = replace(SPACE, dimensions=dimensions)
    store = filled(tmp_path, space)
    assert vector_index(store, space) == [f"vector_of_1200_rows {kind}"]
    for filters in (Filters(), Filters(category="cs"), Filters(category="hep-th", since="2019-05-06")):
        for chunks in (False, True):
            same = 0
            for paper in range(20):
                one, other = (
                    [
                        (match.paper_id, round(match.score, 5))
                        for match in store.nearest(
                            space.fingerprint,
                            query_of(paper, dimensions),
                            10,
                            filters,
                            chunks=chunks,
                            exact=exact,
                        )
                    ]
                    for exact in (False, True)
                )
                same += len(set(one) & set(other))
            assert same >= 0.98 * 20 * 10


def test_rows_are_found_at_once_and_taken_into_the_indexes_by_the_next_finish(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.write_shard(WIDE, "b", shard_rows("b", records(50, first=PAPERS), WIDE), "i")
    store.write_shard(WIDE, "a", shard_rows("a", records(PAPERS - 1), WIDE), "j")

    def found(paper: int) -> set[str]:
        near = store.nearest(WIDE.fingerprint, query_of(paper), 1, Filters(), chunks=False)
        words = store.matching(WIDE.fingerprint, f"paper {paper}", 1, Filters())
        return {match.paper_id for match in (*near, *words)}

    assert found(PAPERS + 7) == {str(PAPERS + 7)}
    assert str(PAPERS - 1) not in found(PAPERS - 1)  # it has left its shard
    store.finish(WIDE)
    assert found(PAPERS + 7) == {str(PAPERS + 7)}
    table = store._tables.get(f"rows_{WIDE.fingerprint}")
    for index in table.list_indices():
        assert table.index_stats(index.name).num_unindexed_rows == 0, index.name


def test_a_table_that_has_outgrown_its_index_gets_another(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert vector_index(store) == ["vector_of_1200_rows IvfRq"]
    store.write_shard(WIDE, "b", shard_rows("b", records(PAPERS, first=PAPERS), WIDE), "i")
    store.finish(WIDE)
    assert vector_index(store) == ["vector_of_1200_rows IvfRq"]
    store.write_shard(WIDE, "c", shard_rows("c", records(PAPERS, first=2 * PAPERS), WIDE), "i")
    store.finish(WIDE)
    assert vector_index(store) == ["vector_of_3600_rows IvfRq"]


def test_all_chunks_of_papers_are_compared_however_many(tmp_path: Path) -> None:
    store = LanceStore(tmp_path)
    many = [Record(str(n), text=f"paper {n}", chunks=6_000) for n in range(2)]
    store.write_shard(SPACE, "a", shard_rows("a", many), "i")
    _, matches = store.papers_and_chunks(SPACE.fingerprint, ["0", "1"], query_of(1, SPACE.dimensions))
    assert len(matches) == 12_000
    scores = [match.score for match in matches]
    assert scores == sorted(scores, reverse=True)
    best = store.nearest(SPACE.fingerprint, query_of(1, SPACE.dimensions), 1, Filters(), chunks=True, exact=True)
    assert scores[0] == pytest.approx(best[0].score, abs=1e-5)


def test_old_versions_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    for turn in range(5):
        store.write_shard(WIDE, "a", shard_rows("a", records(PAPERS + turn), WIDE), f"{turn}")
    table = store._tables.get(f"rows_{WIDE.fingerprint}")
    assert len(table.list_versions()) > 5
    store.finish(WIDE)
    assert len(table.list_versions()) > 5  # a reader may still be at one that is younger than an hour
    for name in ("KEPT_VERSIONS", "COMPACTION"):
        monkeypatch.setattr(lance_indexes, name, timedelta(milliseconds=1))
    for _ in range(3):  # what the first has written may be younger than that
        store.finish(WIDE)
    table.checkout_latest()
    assert len(table.list_versions()) == 1
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.lance") if path.is_file())
    once = LanceStore(tmp_path / "once")
    once.write_shard(WIDE, "a", shard_rows("a", records(PAPERS + 4), WIDE), "i")
    written = sum(path.stat().st_size for path in (tmp_path / "once").rglob("*.lance") if path.is_file())
    assert size < 3 * written


def test_the_version_that_readers_began_with_is_kept_however_old_it_is() -> None:
    now = datetime(2024, 1, 31, 12, tzinfo=UTC)
    ages = [timedelta(days=3), timedelta(days=2), timedelta(minutes=5), timedelta(0)]
    forgotten = lance_indexes.age_forgotten([now - age for age in ages], now)
    assert [age for age in ages if age < forgotten] == ages[1:]
    assert lance_indexes.age_forgotten([now], now) > lance_indexes.KEPT_VERSIONS
