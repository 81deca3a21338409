"""The service behind page and API: questions put to the searcher, refusals that say what to do next."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.searcher import Searcher
from arxiv_embed.stores.protocol import Filters, StoredPaper
from arxiv_embed.stores.search import Hit
from arxiv_embed.web.catalog import Catalog


class Refusal(HTTPException):
    """A request that is answered by a status and one sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(status, sentence)


@dataclass(frozen=True)
class Found:
    hits: list[Hit]
    seconds: float


class Service:
    """A searcher that many threads may ask, and what is known of its store. Its methods raise `Refusal` for what they
    cannot answer, and `StoreError` where the store is away."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.catalog = Catalog(searcher)

    def search(self, query: str, k: int, filters: Filters) -> Found:
        begun = time.perf_counter()
        if not query.strip():
            raise Refusal(HTTPStatus.BAD_REQUEST, "The query is empty: give a few words to look for.")
        hits = self.searcher.search(query, k, filters)
        return Found(hits, time.perf_counter() - begun)

    def similar(self, paper: StoredPaper, k: int, filters: Filters) -> Found:
        begun = time.perf_counter()
        hits = self.searcher.neighbours(paper.paper_id, k, filters)
        return Found(hits, time.perf_counter() - begun)

    def paper(self, paper_id: str) -> StoredPaper:
        try:
            paper = self.searcher.paper(paper_id)
        except ArxivEmbedError as error:
            if type(error) is not ArxivEmbedError:
                raise
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
        if paper is None:
            raise Refusal(
                HTTPStatus.NOT_FOUND, f"The store holds no paper {paper_id.strip()}: search for its title instead."
            )
        return paper
