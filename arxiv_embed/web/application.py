"""The application: page, API and static files over one searcher."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from arxiv_embed.searcher import Searcher
from arxiv_embed.web.answers import add_answers
from arxiv_embed.web.api import api
from arxiv_embed.web.guards import Guards
from arxiv_embed.web.pages import pages
from arxiv_embed.web.rendering import STATIC
from arxiv_embed.web.service import Service

LEAST_COMPRESSED = 1_000
COMPRESSION = 4


class VersionedFiles(StaticFiles):
    """Static files, whose addresses change with their content: browsers may keep them for ever."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200 and scope["query_string"].startswith(b"v="):
            response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


def create_app(searcher: Searcher) -> FastAPI:
    """What a server serves; the searcher stays the caller's to close."""
    service = Service(searcher)
    app = FastAPI(
        title="arxiv-embed",
        version=version("arxiv-embed"),
        summary="Papers by meaning and by words.",
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(Guards), Middleware(GZipMiddleware, LEAST_COMPRESSED, COMPRESSION)],
    )
    app.include_router(api(service))
    app.include_router(pages(service))
    app.mount("/static", VersionedFiles(directory=STATIC), name="static")
    add_answers(app)
    app.state.service = service
    return app
