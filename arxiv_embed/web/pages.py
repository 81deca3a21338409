"""Pages: the search page and the API's guide, whole without a script."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse

from arxiv_embed.web.categories import CATEGORY_NAMES
from arxiv_embed.web.forms import Form
from arxiv_embed.web.guide import endpoints
from arxiv_embed.web.hits import EXPLANATION, abs_url, shown
from arxiv_embed.web.marking import rendered
from arxiv_embed.web.rendering import page
from arxiv_embed.web.service import Refusal, Service

EXAMPLES = (
    "photon pairs at hadron colliders",
    "sparse random graphs and rigidity",
    "learning from noisy labels",
    "how galaxies lose their gas",
)


def pages(service: Service) -> APIRouter:
    """The routes for people."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    def search(request: Request) -> HTMLResponse:
        form = Form.of(request.query_params)
        if form == Form() and "q" not in request.query_params:
            return _start(service)
        return _results(service, form)

    @router.api_route("/api", methods=["GET", "HEAD"])
    def guide(request: Request) -> HTMLResponse:
        base = str(request.base_url).rstrip("/")
        return page("api.html", form=Form(), endpoints=endpoints(request.app.openapi(), base))

    @router.get("/robots.txt")
    def robots() -> PlainTextResponse:
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    return router


def _start(service: Service) -> HTMLResponse:
    contents = service.catalog.contents()
    return page(
        "start.html",
        form=Form(),
        categories=_suggestions(service),
        papers=contents.papers,
        newest=contents.newest,
        model=service.searcher.space.model,
        examples=[(query, Form(q=query).address()) for query in EXAMPLES],
    )


def _results(service: Service, form: Form) -> HTMLResponse:
    filters, count = form.filters, form.count
    if not form.q and not form.like:
        raise Refusal(HTTPStatus.BAD_REQUEST, "The query is empty: give a few words to look for.")
    paper = None if form.q else service.paper(form.like)
    found = service.similar(paper, count, filters) if paper else service.search(form.query, count, filters)
    return page(
        "results.html",
        form=form,
        categories=_suggestions(service),
        paper=paper,
        paper_title=rendered(paper.title) if paper else None,
        paper_url=abs_url(paper.paper_id) if paper else None,
        hits=[shown(hit, form) for hit in found.hits],
        seconds=found.seconds,
        explanation=EXPLANATION,
        chosen=_chosen(form),
        without_filters=form.address(category="", since="", until="", withdrawn=""),
    )


def _suggestions(service: Service) -> list[tuple[str, str]]:
    """The categories that the store holds, with their names; arXiv's until they are known."""
    held = service.catalog.known.categories or CATEGORY_NAMES
    return [(name, CATEGORY_NAMES.get(name, "")) for name in sorted(held)]


def _chosen(form: Form) -> list[tuple[str, str]]:
    """The filters in words, each with the address of the same search without it."""
    said = {
        "category": f"in {form.category}",
        "since": f"since {form.since}",
        "until": f"until {form.until}",
        "withdrawn": {"only": "withdrawn only", "without": "none withdrawn"}.get(form.withdrawn, ""),
    }
    return [(words, form.address(**{name: ""})) for name, words in said.items() if getattr(form, name)]
