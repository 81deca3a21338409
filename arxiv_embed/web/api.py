"""The JSON API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from arxiv_embed.stores.protocol import Filters, StoredPaper
from arxiv_embed.stores.search import Hit
from arxiv_embed.web.hits import abs_url, pdf_url
from arxiv_embed.web.schemas import (
    HealthAnswer,
    HitAnswer,
    Narrowing,
    PaperAnswer,
    Problem,
    Question,
    QuestionBody,
    SearchAnswer,
    SpaceAnswer,
    StoreAnswer,
)
from arxiv_embed.web.service import Found, Refusal, Service

PaperId = Annotated[
    str,
    Path(
        description="The arXiv id in any usual way of writing: 2401.01234, 2401.01234v2, hep-th/9901001.",
        examples=["0704.0002"],
    ),
]

_PROBLEMS = {
    HTTPStatus.BAD_REQUEST: "What was asked makes no sense: an empty query, days in the wrong order, no arXiv id.",
    HTTPStatus.NOT_FOUND: "The store holds no such paper.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body has more than a megabyte.",
    HTTPStatus.REQUEST_URI_TOO_LONG: "The address has more than 64 KB: use POST.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "A parameter is missing, unknown, or not as described.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The store cannot be read at the moment.",
}


def _problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    usual = (HTTPStatus.REQUEST_URI_TOO_LONG, HTTPStatus.SERVICE_UNAVAILABLE)
    return {int(status): {"model": Problem, "description": _PROBLEMS[status]} for status in sorted((*statuses, *usual))}


BAD, MISSING, INVALID = HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY


def api(service: Service) -> APIRouter:
    """The routes for programs."""
    router = APIRouter(prefix="/api")

    @router.get("/search", summary="Search", responses=_problems(BAD, INVALID))
    def search(question: Annotated[Question, Query()]) -> SearchAnswer:
        """Papers by meaning and by words, the two rankings fused."""
        return _answer(service, service.search(question.q, question.k, _filters(question)))

    @router.post(
        "/search",
        summary="Search, with a body",
        responses=_problems(BAD, INVALID, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    )
    def search_by_body(question: QuestionBody) -> SearchAnswer:
        """The same for queries that are too long for an address: up to 100,000 characters."""
        return _answer(service, service.search(question.q, question.k, _filters(question)))

    @router.get("/papers/{paper_id:path}/similar", summary="Similar papers", responses=_problems(BAD, MISSING, INVALID))
    def similar(paper_id: PaperId, narrowing: Annotated[Narrowing, Query()]) -> SearchAnswer:
        """The papers nearest to a stored one, by meaning alone; itself left out."""
        paper = service.paper(paper_id)
        return _answer(service, service.similar(paper, narrowing.k, _filters(narrowing)))

    @router.get("/papers/{paper_id:path}", summary="One paper", responses=_problems(BAD, MISSING, INVALID))
    def paper(paper_id: PaperId) -> PaperAnswer:
        """A paper as the store holds it."""
        return PaperAnswer.model_validate(_paper(service.paper(paper_id)))

    @router.get("/store", summary="What the store holds", responses=_problems())
    def store() -> StoreAnswer:
        """Its spaces, and how many papers and vectors each has."""
        searched = service.searcher.space
        held = service.searcher.store.spaces()
        counts = {space.fingerprint: service.searcher.store.count(space.fingerprint) for space in held}
        papers, rows = counts.get(searched.fingerprint, (0, 0))
        spaces = [
            SpaceAnswer(
                fingerprint=space.fingerprint,
                model=space.model,
                dimensions=space.dimensions,
                chunker=space.chunker,
                max_tokens=space.max_tokens,
                papers=counts[space.fingerprint][0],
                rows=counts[space.fingerprint][1],
                searched=space == searched,
            )
            for space in held
        ]
        return StoreAnswer(
            model=searched.model,
            space=searched.fingerprint,
            papers=papers,
            rows=rows,
            newest=service.catalog.contents().newest,
            spaces=spaces,
        )

    @router.get("/health", summary="Health", responses=_problems())
    def health() -> HealthAnswer:
        """Whether searches can be answered: 200 or 503."""
        papers, _ = service.searcher.store.count(service.searcher.space.fingerprint)
        if not papers:
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The store holds no paper in the space that is searched.")
        return HealthAnswer(status="ok")

    return router


def _filters(asked: Narrowing | QuestionBody) -> Filters:
    return Filters(
        category=(asked.category or "").strip() or None,
        since=asked.since.isoformat() if asked.since else None,
        until=asked.until.isoformat() if asked.until else None,
        withdrawn=asked.withdrawn,
    )


def _answer(service: Service, found: Found) -> SearchAnswer:
    hits = [HitAnswer.model_validate(_hit(hit)) for hit in found.hits]
    return SearchAnswer(space=service.searcher.space.fingerprint, seconds=found.seconds, hits=hits)


def _hit(hit: Hit) -> dict[str, Any]:
    return {**hit.to_json(), **_links(hit.paper.paper_id)}


def _paper(paper: StoredPaper) -> dict[str, Any]:
    return {**vars(paper), **_links(paper.paper_id)}


def _links(paper_id: str) -> dict[str, str]:
    return {"abs_url": abs_url(paper_id), "pdf_url": pdf_url(paper_id)}
