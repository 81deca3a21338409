"""Search: two rankings fused, filters, neighbours, and a query that may be any text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.encoding.encoder import TextEncoder
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, settings_from_environment
from arxiv_embed.stores.protocol import Filters, StoreError, VectorStore, open_store
from arxiv_embed.stores.search import FUSION_K, fuse, neighbours, search
from arxiv_embed_tests.fake_pool import run_shards, vectors_of
from arxiv_embed_tests.stores.conftest import KINDS, place
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows

RECORDS = [
    Record("2401.00001", title="Graph colouring", text="We colour graphs.", categories=("math.CO", "cs.DM")),
    Record("2401.00002", title="Neural networks", text="Deep nets of neurons.", categories=("cs.LG", "stat.ML")),
    Record("2401.00003", title="Quantum groups", text="Hopf algebras again.", categories=("math.QA",)),
    Record(
        "math-ph/0001001", title="Mathematical physics", text="Ising.", categories=("math-ph",), published="1999-12-31"
    ),
    Record(
        "hep-th/9901001", title="Strings", text="Branes.", categories=("hep-th",), published="", updated="2021-03-04"
    ),
]
F = SPACE.fingerprint


class SameText:
    """Encodes a query as a paper with that very title and abstract would be."""

    def encode_queries(self, queries: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.stack([vectors_of(query, SPACE.dimensions)[0] for query in queries])


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore]:
    with place(request, tmp_path_factory.mktemp("stores")) as url, open_store(url, create=True) as store:
        store.write_shard(SPACE, "a", shard_rows("a", RECORDS), "i")
        store.finish(SPACE)
        yield store


def found(store: VectorStore, query: str = "Graph colouring", **filters: str) -> set[str]:
    return {hit.paper.paper_id for hit in search(store, F, SameText(), query, 10, Filters(**filters))}


ALL = {record.id for record in RECORDS}


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("math", {"2401.00001", "2401.00003"}),
        ("math.CO", {"2401.00001"}),
        ("MATH.co", {"2401.00001"}),
        ("cs", {"2401.00001", "2401.00002"}),
        ("stat.ML", {"2401.00002"}),
        ("math-ph", {"math-ph/0001001"}),
        ("mat", set()),
        ("math.C", set()),
        ("cs_LG", set()),
        ("%", set()),
        ("", set()),
        ("cs' OR '1'='1", set()),
        ("cs') OR 1=1 --", set()),
        ('\x00\\"é', set()),
        ("cs.\udce9", set()),
    ],
)
def test_a_category_is_one_or_a_whole_archive_and_nothing_else(
    store: VectorStore, category: str, expected: set[str]
) -> None:
    assert found(store, category=category) == expected


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        ("2019-05-06", ALL - {"math-ph/0001001"}),
        ("2019-05-07", {"hep-th/9901001"}),  # published unknown: its update counts
        ("1999-12-31", ALL),
        ("2021-03-05", set()),
    ],
)
def test_since_is_a_date_of_publication_where_that_is_known(store: VectorStore, since: str, expected: set[str]) -> None:
    assert found(store, since=since) == expected


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("2019-05-06", ALL - {"hep-th/9901001"}),
        ("2019-05-05", {"math-ph/0001001"}),
        ("2021-03-04", ALL),
        ("1999-12-30", set()),
    ],
)
def test_until_is_the_last_day_included(store: VectorStore, until: str, expected: set[str]) -> None:
    assert found(store, until=until) == expected


@pytest.mark.parametrize("day", ["2024", "2024-02-30", "20240131", "' OR 9 < '", "9' OR ''='", "\x00", ""])
def test_what_is_no_day_is_refused(day: str) -> None:
    for name in ("since", "until"):
        with pytest.raises(ArxivEmbedError, match=f"{name} '.*' is no day: write it as 2024-01-31"):
            Filters(**{name: day})


def test_filters_hold_together(store: VectorStore) -> None:
    assert found(store, category="math", since="2020-01-01") == set()
    assert found(store, category="hep-th", since="2020-01-01") == {"hep-th/9901001"}


def test_filters_come_before_the_limit(url: str) -> None:
    many = [Record(str(n), title=f"colour {n}", categories=("cs.LG",)) for n in range(200)]
    wanted = Record("wanted", title="something else", text="colour", categories=("math.CO",))
    with open_store(url, create=True) as store:
        store.write_shard(SPACE, "a", shard_rows("a", [*many, wanted]), "i")
        for _ in range(2):  # without a full-text index, and with one
            hits = search(store, F, SameText(), "colour", 3, Filters(category="math.CO"))
            assert [(hit.paper.paper_id, hit.vector_rank, hit.text_rank) for hit in hits] == [("wanted", 1, 1)]
            store.finish(SPACE)


def test_a_paper_found_by_both_rankings_comes_first(store: VectorStore) -> None:
    best = RECORDS[2]
    hits = search(store, F, SameText(), f"{best.title}\n\n{best.text}", 10)
    assert hits[0].paper.paper_id == best.id
    assert (hits[0].vector_rank, hits[0].text_rank) == (1, 1)
    assert hits[0].score == pytest.approx(2 / (FUSION_K + 1))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_every_hit_carries_its_paper_and_a_chunk_of_it(store: VectorStore) -> None:
    hits = search(store, F, SameText(), "neurons", 10)
    assert len(hits) == len(RECORDS)
    for hit in hits:
        record = next(r for r in RECORDS if r.id == hit.paper.paper_id)
        assert (hit.paper.title, hit.paper.abstract) == (record.title, record.text)
        assert hit.text == record.paper.text
        assert hit.matching_chunk
        assert hit.matching_chunk in record.paper.text
        assert hit.to_json()["chunk"]["text"] == hit.matching_chunk
        vectors = vectors_of(record.paper.text, SPACE.dimensions)[1:]
        [query] = SameText().encode_queries(["neurons"])
        assert hit.similarity == pytest.approx(max(float(v @ query) for v in vectors), abs=1e-5)


ANY_TEXT = [
    '"an open quote',
    "AND OR NOT",
    "+must -not ~2 ^3 (a OR b) [x TO y] field:value *",
    "'; DROP TABLE rows; --",
    "\\ \x00 \x07",
    "量子群 и Größe 🎉 \u200b\u202e",
    "\ud800 lone surrogate",
    "word " * 2_000,
    "x" * 10_000,
    "%_%",
    "{}",
]


@pytest.mark.parametrize("query", ANY_TEXT, ids=range(len(ANY_TEXT)))
def test_any_text_is_a_query(store: VectorStore, query: str) -> None:
    assert found(store, query) == ALL


@pytest.mark.parametrize("query", ["", " \n\t"])
def test_a_query_of_nothing_finds_nothing(store: VectorStore, query: str) -> None:
    assert found(store, query) == set()


def test_neighbours_leave_out_the_paper_itself(store: VectorStore) -> None:
    hits = neighbours(store, F, "2401.00001", 3)
    assert len(hits) == 3
    assert "2401.00001" not in {hit.paper.paper_id for hit in hits}
    [own] = vectors_of(RECORDS[0].paper.text, SPACE.dimensions)[:1]
    near = sorted(RECORDS[1:], key=lambda r: -float(own @ vectors_of(r.paper.text, SPACE.dimensions)[0]))
    assert [hit.paper.paper_id for hit in hits] == [r.id for r in near[:3]]
    assert {hit.paper.paper_id for hit in neighbours(store, F, "2401.00001", 3, Filters("math"))} == {"2401.00003"}


@pytest.mark.parametrize("paper", ["none", "' OR '1'='1", ""])
def test_neighbours_of_what_is_not_stored_are_one_sentence(store: VectorStore, paper: str) -> None:
    with pytest.raises(StoreError, match="holds no paper"):
        neighbours(store, F, paper)


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True), max_size=3))
def test_fusion_sums_reciprocal_ranks(rankings: list[list[str]]) -> None:
    fused = fuse(rankings)
    for name, score in fused.items():
        assert score == pytest.approx(sum(1 / (60 + r.index(name) + 1) for r in rankings if name in r))
    assert list(fused.values()) == sorted(fused.values(), reverse=True)
    assert set(fused) == {name for ranking in rankings for name in ranking}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> tuple[Run, VectorStore]:
    """Thirty real papers, embedded by a real worker with the bundled model."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "metadata"
    folder.mkdir()
    lines = (examples / "kaggle-2007.jsonl").read_text().splitlines(keepends=True)
    (folder / "kaggle.jsonl").write_text("".join(lines[:30]))
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    options = RunOptions(folder, settings.store, settings.checkpoints, devices="cpu:1")
    return run_shards(options, home, "real"), open_store(settings.store)


def test_the_real_model_finds_a_real_paper_by_its_meaning(real: tuple[Run, VectorStore]) -> None:
    run, store = real
    encoder = TextEncoder(run.plan.files, run.space)
    [best, *_] = search(store, run.space.fingerprint, encoder, "photon pair production at hadron colliders", 3)
    assert best.paper.paper_id == "0704.0001"
    assert best.matching_chunk in best.text
    assert best.vector_rank == 1
    assert best.similarity is not None
    assert best.similarity > 0.5


def test_the_real_chunks_of_a_paper_cover_its_text(real: tuple[Run, VectorStore]) -> None:
    run, store = real
    space = run.space.fingerprint
    papers, rows = store.count(space)
    assert papers == 30
    vector = store.vector_of(space, "0704.0001")
    assert vector is not None
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    assert store.nearest(space, vector, 1, Filters(), chunks=False)[0].paper_id == "0704.0001"
    text = "{0.title}\n\n{0.abstract}".format(store.papers(space, ["0704.0001"])["0704.0001"])
    _, found = store.papers_and_chunks(space, ["0704.0001"], vector)
    chunks = sorted(found, key=lambda chunk: chunk.start)
    assert all(before.start < after.start for before, after in pairwise(chunks))
    assert not any(text[before.end : after.start].strip() for before, after in pairwise(chunks))
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    assert rows > 2 * papers
