"""Guards: what stands around the whole application: limits on requests, headers on answers."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arxiv_embed.web.answers import HEADERS, problem
from arxiv_embed.web.service import Refusal

LONGEST_ADDRESS = 64 * 1024
LARGEST_BODY = 1024 * 1024
MOST_READ_ON = 16 * LARGEST_BODY

_TOO_LARGE = f"The body has more than {LARGEST_BODY:,} bytes: send less."


class Guards:
    """Refuses addresses and bodies that are too long, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        refused = _refused(scope)
        if refused is not None:
            await _read_on(receive)
            await refused(scope, receive, send_with_headers)
            return
        await self._app(scope, _limited(receive), send_with_headers)


def _refused(scope: Scope) -> Response | None:
    length = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if length > LONGEST_ADDRESS:
        sentence = f"The address has more than {LONGEST_ADDRESS:,} characters: send the query by POST to /api/search."
        return problem(Request(scope), HTTPStatus.REQUEST_URI_TOO_LONG, sentence)
    announced = Headers(scope=scope).get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > LARGEST_BODY:
        return problem(Request(scope), HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
    return None


async def _read_on(receive: Receive) -> None:
    """A client that is still sending when it is answered takes that for a broken connection."""
    size, more = 0, True
    while more and size < MOST_READ_ON:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)


def _limited(receive: Receive) -> Receive:
    """The body as it comes, so far and no further: it need not say how large it is."""
    size = 0

    async def receive_limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST_BODY:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        return message

    return receive_limited
