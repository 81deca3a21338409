"""The endpoint: where Prometheus finds a run's metrics while the run lives."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server

from arxiv_embed.errors import ArxivEmbedError, Kind
from arxiv_embed.exposition import RunCollector
from arxiv_embed.metrics import RunMetrics, metrics_of
from arxiv_embed.record import ProgressReader


class PortTaken(ArxivEmbedError):
    """Nothing can be served at an address, for whatever reason the system gives."""

    kind = Kind.RESOURCE

    def __init__(self, host: str, port: int, fault: OSError) -> None:
        super().__init__(
            f"Metrics cannot be served at port {port} of {host} ({fault.strerror or fault}): "
            "give another port, or 0 for any free one."
        )


def refuse_taken_port(host: str, port: int) -> None:
    """Raises `PortTaken` where an endpoint could not begin now."""
    try:
        [family, *_, address] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family) as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            asked.bind(address)
            asked.listen()
    except OSError as fault:
        raise PortTaken(host, port, fault) from fault


class MetricsEndpoint:
    """A context manager that serves a run's record as metrics, OpenMetrics to whoever accepts them; port 0 is any free
    one. Raises `PortTaken` when entered where it cannot."""

    def __init__(self, record: Path, host: str, port: int) -> None:
        self._reader = ProgressReader(record)
        self._reading = threading.Lock()
        self._host, self._port = host, port

    def __enter__(self) -> Self:
        registry = CollectorRegistry()
        registry.register(RunCollector(self._figures))
        try:
            self._server, self._thread = start_http_server(self._port, self._host, registry)
        except OSError as fault:
            raise PortTaken(self._host, self._port, fault) from fault
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it is reached; the host is the one that was asked for."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_port}/metrics"

    def _figures(self) -> RunMetrics:
        with self._reading:  # each scrape has a thread of its own
            return metrics_of(self._reader.poll(), time.time())
