"""A small real store, searched with vectors that follow from the text alone, behind the whole application."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from arxiv_embed.searcher import Searcher
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.web.application import create_app
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows
from arxiv_embed_tests.stores.test_search import SameText

LONG = " ".join(f"Sentence {number} of an abstract that is long." for number in range(60))
RECORDS = [
    Record(
        "2401.00001",
        title=r"Colouring $K_4$-free graphs, by Erd\H{o}s",
        text=r"We colour graphs with $\chi(G) \le 3$ and R{\'e}nyi's \emph{random} ones.",
        categories=("math.CO", "cs.DM"),
        authors="Paul Erd{\\H o}s and Alfr\\'ed R\\'enyi",
    ),
    Record("2401.00002", title="Neural <b>networks</b>", text="Deep <script>alert(1)</script> & nets.", cut=1234),
    Record("2401.00003", title="Quantum groups", text=LONG, categories=("math.QA",), chunks=5),
    Record("2401.00004", title="A mistake", text="This paper has been withdrawn.", withdrawn=True),
    Record(
        "hep-th/9901001", title="Strings", text="Branes.", categories=("hep-th",), published="", updated="2021-03-04"
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of `RECORDS`, chunks of as many equal parts."""
    folder = tmp_path / "store"
    with LanceStore(folder) as store:
        store.write_shard(SPACE, "a", shard_rows("a", RECORDS), "i")
        store.finish(SPACE)
    return folder


@pytest.fixture
def searcher(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Searcher]:
    monkeypatch.setattr("arxiv_embed.searcher.encoder_of", lambda space: SameText())
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(tmp_path)})
    with Searcher(settings, str(folder)) as searcher:
        yield searcher


@pytest.fixture
def app(searcher: Searcher) -> FastAPI:
    return create_app(searcher)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """Raises what a handler does not answer."""
    with TestClient(app) as client:
        yield client
