"""Answers: what all of them carry, and those to what cannot be answered, JSON for the API and a page for people."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from arxiv_embed.errors import ArxivEmbedError, sentence
from arxiv_embed.stores.protocol import StoreError
from arxiv_embed.web.forms import Form
from arxiv_embed.web.rendering import page
from arxiv_embed.web.service import Refusal

logger = logging.getLogger("arxiv_embed.web")

MOST_PROBLEMS = 5
AWAY = "The store cannot be read at the moment: try again soon. Whoever runs this server sees the reason where it runs."
_TITLES = {
    HTTPStatus.BAD_REQUEST: "That cannot be searched for",
    HTTPStatus.NOT_FOUND: "Not found",
    HTTPStatus.METHOD_NOT_ALLOWED: "Not that way",
    HTTPStatus.SERVICE_UNAVAILABLE: "The store is away",
    HTTPStatus.REQUEST_URI_TOO_LONG: "That is too long",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "That is too long",
}


HEADERS: Mapping[str, str] = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Nothing from elsewhere, no script or style within a page, no address told to arXiv's."""


def problem(request: Request, status: int, said: str) -> Response:
    """The answer with that status, in the form that the address asks for."""
    if request.url.path.startswith("/api/") or request.url.path == "/openapi.json":
        return JSONResponse({"status": int(status), "error": said}, status)
    title = _TITLES.get(HTTPStatus(status), "Something went wrong")
    return page("problem.html", status, title=title, said=said, form=Form.of(request.query_params))


def _what_is_wrong(found: Mapping[str, Any]) -> str:
    """What pydantic says of one value, and which."""
    if found["type"] == "json_invalid":
        return "the body is no JSON"
    if found["type"] == "model_attributes_type":
        return "the body is no JSON object, or is not sent as content-type: application/json"
    place = found["loc"][:2][-1]  # what follows are the types that the value may have
    return f"{place}: {found['msg'].removeprefix('Value error, ')}"


def add_answers(app: FastAPI) -> None:
    """What the application does with errors, whichever handler meets them."""

    @app.exception_handler(Refusal)
    def refused(request: Request, error: Refusal) -> Response:
        return problem(request, error.status_code, error.detail)

    @app.exception_handler(StoreError)
    def away(request: Request, error: StoreError) -> Response:
        logger.error(sentence(error))
        return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, AWAY)

    @app.exception_handler(ArxivEmbedError)
    def bad_input(request: Request, error: ArxivEmbedError) -> Response:
        return problem(request, HTTPStatus.BAD_REQUEST, sentence(error))

    @app.exception_handler(RequestValidationError)
    def not_as_described(request: Request, error: RequestValidationError) -> Response:
        # What was sent is not repeated: it need not be text that can be encoded.
        wrong = [_what_is_wrong(one) for one in error.errors() if one["type"] != "none_required"]
        said = "; ".join(wrong[:MOST_PROBLEMS])
        said = said.encode("utf-8", "replace").decode()
        return problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, f"{said} (see /api).")

    @app.exception_handler(HTTPException)
    def refused_by_framework(request: Request, error: HTTPException) -> Response:
        sentences = {
            HTTPStatus.BAD_REQUEST: "The body cannot be read: send a JSON object in UTF-8, as /api shows.",
            HTTPStatus.NOT_FOUND: "There is nothing at this address: start from the search page.",
            HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take that method: see /api.",
        }
        answer = problem(request, error.status_code, sentences.get(HTTPStatus(error.status_code), str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:
        answer = problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, "The server has met an error of its own.")
        answer.headers.update(HEADERS)  # no middleware sees this one
        return answer
