"""`arxiv_embed.search`: one call, whatever the query, over a store that others write to."""

from __future__ import annotations

import doctest
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import arxiv_embed
from arxiv_embed import api, searcher
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.run import Run
from arxiv_embed.searcher import Searcher
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from arxiv_embed.stores.protocol import StoreAway
from arxiv_embed_tests.fake_pool import run_shards

PEBBLES = "0704.0002"
QUERIES = [
    "' OR 1=1; DROP TABLE papers; --",
    r"$\mathbb{Z}_2 \to \{0, 1\}$ and \frac{a}{b}",
    "a\0b",
    "\0",
    "\udcff",
    "многочлены и графы",
    "多項式の零点",
    "الرسوم البيانية",
    "🙂",
    '"unclosed AND (NOT *~^:',
    "?",
    "sparse graphs " * 7_200,
]


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    api._kept.clear()


@pytest.fixture
def sample(sample_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(sample_home))
    return sample_home


@pytest.fixture
def small(small_folder: Path, tiny_model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    """A store of eleven papers that a test may write to."""
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    return RunOptions(
        small_folder, settings.store, settings.checkpoints, model=str(tiny_model), devices="cpu:1", dtype="float32"
    )


def embed(options: RunOptions, settings: Settings) -> Run:
    return run_shards(options, settings.home, "run")


def ids(*arguments: Any, **named: Any) -> list[str]:
    return [hit.paper.paper_id for hit in arxiv_embed.search(*arguments, **named)]


def test_the_example_in_the_docstring_prints_what_it_says(sample: Path) -> None:
    found = doctest.DocTestFinder(recurse=False).find(arxiv_embed.search, "search", globs={})
    assert [len(example.examples) for example in found] == [4]
    assert doctest.DocTestRunner().run(found[0]).failed == 0


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: ascii(query)[:20])
def test_any_text_is_a_query(sample: Path, query: str) -> None:
    hits = arxiv_embed.search(query, 3)
    assert len(hits) == 3 or not query.strip("\0")
    assert all(sum(hit.parts.values()) == hit.score for hit in hits)


@pytest.mark.parametrize("query", ["", " \n\t", "\u3000"])
def test_an_empty_query_finds_nothing(sample: Path, query: str) -> None:
    assert arxiv_embed.search(query) == []


def test_filters_narrow_what_is_found(sample: Path) -> None:
    everything = arxiv_embed.search("graphs", 300)
    assert len(everything) > 200
    gone = arxiv_embed.search("graphs", 300, withdrawn=True)
    assert len(gone) == 2
    assert all(hit.paper.withdrawn for hit in gone)
    assert not any(hit.paper.withdrawn for hit in arxiv_embed.search("graphs", 300, withdrawn=False))
    spring = arxiv_embed.search("graphs", 300, since="2007-04-01", until="2007-04-02", category="math")
    assert 0 < len(spring) < len(everything)
    for hit in spring:
        assert hit.paper.published in ("2007-04-01", "2007-04-02")
        assert any(name.startswith("math.") for name in hit.paper.categories)


def test_neighbours_of_a_paper_are_found_by_any_writing_of_its_id(sample: Path) -> None:
    near = ids(like=PEBBLES)
    assert PEBBLES not in near
    assert ids(like=f"arXiv:{PEBBLES}v2") == near


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "Give a query or the id of a paper as `like`, one of the two"),
        ({"query": "a", "like": PEBBLES}, "one of the two"),
        ({"query": "a", "k": 0}, "k is 0: ask for 1 to 10,000 papers"),
        ({"query": "a", "since": "2007"}, "since '2007' is no day: write it as 2024-01-31"),
        ({"query": "a", "until": "2007-02-30"}, "until '2007-02-30' is no day"),
        ({"query": "a", "since": "2007-02-02", "until": "2007-02-01"}, "exchange the two days"),
        ({"like": "0704.9999"}, "holds no paper 0704.9999"),
        ({"like": "pebbles"}, "'pebbles' is no arXiv id"),
        ({"like": ""}, "'' is no arXiv id"),
        ({"query": "a", "store": "/nowhere"}, "There is no store at /nowhere"),
        ({"query": "a", "space": "jina"}, r"'jina' names no space of .*: give one of \w{16} \(all-MiniLM-L6-v2, sent"),
        ({"query": "a", "space": ""}, "'' names no space"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(sample: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArxivEmbedError, match=said):
        arxiv_embed.search(**arguments)


def test_store_and_model_stay_open_for_the_next_call(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids("graphs")
    kept = api._searcher(None, None)
    encoder = kept._encoder
    monkeypatch.setattr(Searcher, "__init__", lambda *_: pytest.fail("opened again"))
    assert ids("graphs") == first
    assert api._searcher(None, None) is kept
    assert kept._encoder is encoder


def test_a_call_is_told_of_the_environment_as_it_is_now(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ids("graphs")
    monkeypatch.setenv("ARXIV_EMBED_STORE", str(tmp_path / "other"))
    with pytest.raises(ArxivEmbedError, match=r"There is no store at .*other"):
        arxiv_embed.search("graphs")


def test_a_few_stores_are_kept_and_no_more(sample: Path, tmp_path: Path) -> None:
    stores = [tmp_path / str(number) for number in range(api.KEPT_OPEN + 2)]
    for place in stores:
        place.symlink_to(settings_from_environment().store)
        assert arxiv_embed.search("", store=str(place)) == []
    assert [url for _, url, *_ in api._kept] == [str(place) for place in stores[-api.KEPT_OPEN :]]


def test_papers_written_between_two_calls_are_found(small: RunOptions, settings: Settings) -> None:
    late = small.metadata_dir / "second.jsonl"
    papers = late.read_bytes()
    late.unlink()
    embed(small, settings)
    assert len(ids("graphs", k=20)) == 6
    late.write_bytes(papers)
    embed(small, settings)
    assert len(ids("graphs", k=20)) == 11


def test_a_store_that_was_away_is_searched_when_it_is_back(
    small: RunOptions, settings: Settings, tmp_path: Path
) -> None:
    embed(small, settings)
    found = ids("graphs")
    place = Path(settings.store)
    place.rename(tmp_path / "unplugged")
    for _ in range(2):
        with pytest.raises(StoreAway, match="put it back"):
            arxiv_embed.search("graphs")
    (tmp_path / "unplugged").rename(place)
    assert ids("graphs") == found
    shutil.rmtree(place)
    embed(small, settings)
    assert ids("graphs") == found


def test_the_space_meant_is_looked_up_anew_by_every_call(small: RunOptions, settings: Settings) -> None:
    one = embed(small, settings).space
    assert ids("graphs")
    api._searcher(None, None).store.drop(one.fingerprint)
    with pytest.raises(ArxivEmbedError, match="is empty: fill it"):
        arxiv_embed.search("graphs")
    other = embed(replace(small, chunker="whole"), settings).space
    assert other != one
    assert ids("graphs")
    assert api._searcher(None, None).space == other


def test_threads_share_one_model_and_find_the_same(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = searcher.encoder_of
    monkeypatch.setattr(searcher, "encoder_of", lambda space: loaded.append(space) or load(space))
    queries = ["graphs", "hadron colliders", "neural networks", "galaxies"] * 4
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(ids, queries))
    assert together == [ids(query) for query in queries]
    assert len(loaded) == 1
