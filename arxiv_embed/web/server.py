"""The server: uvicorn on a socket of its own, until it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.web.guards import LONGEST_ADDRESS

LONGEST_HEAD = 16 * LONGEST_ADDRESS
"""Bytes of a request's head that are read at all; below that a long address has an answer that says what to do."""

GRACE_SECONDS = 3


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to that place; raises `ArxivEmbedError` where that cannot be."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ArxivEmbedError(f"--host {host} is no address of this machine ({_reason(error)}).") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        bound.close()
        raise ArxivEmbedError(
            f"Port {port} of {host} cannot be used ({_reason(error)}): give another --port, or --port 0 for any."
        ) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """As a browser takes it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def is_open(bound: socket.socket) -> bool:
    """Whether other machines may reach it."""
    return not ip_address(bound.getsockname()[0]).is_loopback


class PageServer(uvicorn.Server):
    """`run` answers until SIGINT or SIGTERM, which end it in order from the moment it is made; further ones change
    nothing. `interrupted` says that it was SIGINT."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                h11_max_incomplete_event_size=LONGEST_HEAD,
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self.interrupted = False
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.interrupted |= number == signal.SIGINT
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own way takes them later, and gives them to the process once more at its end."""
        yield


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
