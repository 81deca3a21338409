"""Sources: where a monitor's figures come from, the record of a run here or the endpoint of one elsewhere."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metrics import RunMetrics, metrics_of
from arxiv_embed.monitor.series import Series
from arxiv_embed.monitor.shards import Shards
from arxiv_embed.record import ProgressReader
from arxiv_embed.runs import find_record, last_record, look_at
from arxiv_embed.settings import Settings

ANSWER_SECONDS = 5.0
LARGEST_ANSWER = 16 << 20
"""Bytes; a run's metrics are some kilobytes."""


Clock = Callable[[], float]


@dataclass(frozen=True)
class Sight:
    """What a source showed at `now` (seconds since the epoch); `shards` is None where it does not tell of each, `away`
    a sentence where it could not be looked at this time and what is shown is older."""

    metrics: RunMetrics
    series: Series
    shards: Shards | None
    now: float
    away: str = ""


class Source(Protocol):
    """Looked at again and again, by one thread at a time; `name` is what it is, for people."""

    name: str

    def look(self) -> Sight | None:
        """None while it has shown nothing yet; `trouble` says why."""

    @property
    def trouble(self) -> str: ...


class HomeSource:
    """The run of that id, or of the one id that begins so; without one the last run of the home, and whichever is begun
    after it. Raises `NoRun` where there is none."""

    def __init__(self, settings: Settings, run_id: str | None, clock: Clock = time.time) -> None:
        self.name = str(settings.home)
        self.trouble = ""
        self._settings = settings
        self._clock = clock
        self._follows = run_id is None
        self._open(find_record(settings, run_id))

    def look(self) -> Sight | None:
        last = last_record(self._settings) if self._follows else None
        if last is not None and last != self._record:
            self._open(last)
        progress = look_at(self._record, self._reader)
        now = self._clock()
        return Sight(metrics_of(progress, now), self._series.copy(), self._shards.copy(), now)

    def _open(self, record: Path) -> None:
        self._record, self._series, self._shards = record, Series(), Shards()
        self._reader = ProgressReader(record, also=self._take)

    def _take(self, event: Mapping[str, Any]) -> None:
        self._series.take(event)
        self._shards.take(event)


class EndpointSource:
    """The OpenMetrics that a run elsewhere serves, at HOST:PORT or a URL. One that does not answer is tried again at
    the next look."""

    def __init__(self, address: str, clock: Clock = time.time) -> None:
        self.name = url_of(address)
        self.trouble = ""
        self._clock = clock
        self._series = Series()
        self._seen: RunMetrics | None = None
        self._seen_at = 0.0

    def look(self) -> Sight | None:
        now = self._clock()
        try:
            metrics = _figures(self.name)
            self.trouble = ""
        except (OSError, http.client.HTTPException, ArxivEmbedError, ValueError, KeyError, TypeError) as error:
            self.trouble = f"{self.name} {_why(error)}"
            if self._seen is None:
                return None
            ago = max(0, round(now - self._seen_at))
            return Sight(self._seen, self._series.copy(), None, now, f"{self.trouble}: figures of {ago} s ago")
        self._add_to_series(metrics, now)
        self._seen, self._seen_at = metrics, now
        return Sight(metrics, self._series.copy(), None, now)

    def _add_to_series(self, metrics: RunMetrics, now: float) -> None:
        """What was done since the last look, as that is all there is to know."""
        if self._seen is None or self._seen.run_id != metrics.run_id:
            self._series = Series(began=now)
            return
        before = {device.device: device for device in self._seen.devices}
        for device in metrics.devices:
            if (known := before.get(device.device)) and device.papers >= known.papers:
                papers, tokens = device.papers - known.papers, device.tokens - known.tokens
                self._series.add(device.device, now, now - self._seen_at, papers, tokens)


def url_of(address: str) -> str:
    """Of HOST:PORT or a URL, whose path is /metrics where it has none; raises `ArxivEmbedError`."""
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or "://" in address)
    except ValueError:
        known = False
    if not known or "@" in url:
        shown = "this" if "@" in url else repr(address)
        raise ArxivEmbedError(
            f"--attach: {shown} is no address of a run's metrics: give HOST:PORT as in gpu-7:9400, or its URL, "
            "without a password."
        )
    return parts._replace(path=parts.path if parts.path.strip("/") else "/metrics").geturl()


def _figures(url: str) -> RunMetrics:
    from arxiv_embed.exposition import run_metrics_from  # only who looks from afar needs a parser

    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a run is near, beyond no proxy
    with direct.open(request, timeout=ANSWER_SECONDS) as answer:
        return run_metrics_from(_read(answer).decode("utf-8"))


def _read(answer: http.client.HTTPResponse) -> bytes:
    """All that it says; raises `TimeoutError` where that takes longer than an answer may, however it is spread."""
    until = time.monotonic() + ANSWER_SECONDS
    content = b""
    while len(content) < LARGEST_ANSWER and (more := answer.read1(1 << 16)):
        content += more
        if time.monotonic() > until:
            raise TimeoutError
    return content


def _why(error: Exception) -> str:
    """What a source does, as it did not answer as it should."""
    if isinstance(error, urllib.error.HTTPError):
        return f"answers with HTTP {error.code}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return f"does not answer within {ANSWER_SECONDS:.0f} s"
    if isinstance(reason, OSError):
        return f"does not answer ({(reason.strerror or str(reason) or type(reason).__name__).lower()})"
    return "does not answer with the metrics of a run"
