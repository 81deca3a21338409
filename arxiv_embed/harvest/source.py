"""The source: one repository, asked patiently and at its own pace, one request at a time, until a whole answer comes.

oaipmh-scythe gives the HTTP client and its configuration. The rest of it does not serve here, in version 0.16. Its
reading mends XML that was cut off (see `answers.py`). It searches the body for an error before it looks at the status:
with its retries off, a 503 whose body is no XML ("Service down") raises AttributeError, without status and Retry-After.
With them on, a Retry-After that is a date, as HTTP allows, raises ValueError, and that of a 429 is not looked at; it
sleeps by itself, so that nobody is told how long; and what is malformed is not asked for again. Between pages it makes
no pause.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx2
from oaipmh_scythe import HTTPConfig, Scythe

from arxiv_embed.errors import ArxivEmbedError, Kind, masked
from arxiv_embed.harvest.answers import BadAnswer, ErrorAnswer, OtherAnswer, read_sets

PAUSE_SECONDS = 3.0
"""Between two requests, as arXiv's terms of use ask."""
TIMEOUT_SECONDS = 60.0
MOST_ATTEMPTS = 12
"""At one answer: with 30% of them bad, one harvest in thousands meets so many in a row."""
MOST_ATTEMPTS_ELSEWHERE = 3
"""At an address that may be wrong: nobody is there, or something else, and it has given no answer yet."""
LONGEST_BACKOFF_SECONDS = 120.0
LONGEST_WAIT_SECONDS = 3600.0
"""Who is asked to come back later than that is not kept waiting: the harvest is saved."""

_USER_AGENT = f"arxiv-embed/{version('arxiv-embed')} (harvests metadata; oaipmh-scythe/{version('oaipmh-scythe')})"
_PASSING = frozenset({408, 429, 500, 502, 503, 504})

Read = TypeVar("Read")


class Unavailable(ArxivEmbedError):
    """The repository did not answer as it should, for a passing reason; what came before is saved."""

    kind = Kind.TRANSIENT


class _TryAgain(Exception):
    """Why, and after how many seconds where the repository says that; `elsewhere` where the address may be wrong."""

    def __init__(self, why: str, seconds: float | None = None, *, elsewhere: bool = False) -> None:
        super().__init__(why)
        self.seconds = seconds
        self.elsewhere = elsewhere


class Source:
    """A context manager. `waiting` is told of every wait that is not the usual pause: seconds, and why."""

    def __init__(
        self,
        url: str,
        *,
        pause: float = PAUSE_SECONDS,
        waiting: Callable[[float, str], object] = lambda seconds, why: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        host = _host(url)
        if not 0 <= pause <= LONGEST_WAIT_SECONDS:  # nor is NaN
            raise ArxivEmbedError(
                f"A pause of {pause:g} s cannot be made: give --pause from 0 to {LONGEST_WAIT_SECONDS:,.0f} s."
            )
        if pause < PAUSE_SECONDS and f".{host}".endswith(".arxiv.org"):
            raise ArxivEmbedError(
                f"A pause of {pause:g} s is too short for {host}: arXiv asks for {PAUSE_SECONDS:g} s between requests."
            )
        self.url = url
        self.shown = masked(url)
        self._pause = pause
        self._waiting = waiting
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._is_known = False
        self._scythe = Scythe(url, http_config=HTTPConfig(timeout=TIMEOUT_SECONDS, user_agent=_USER_AGENT))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scythe.close()

    def ask(self, query: Mapping[str, str], read: Callable[[bytes], Read]) -> tuple[bytes, Read]:
        """The answer as it came, and as it is read; asked for until it is whole.

        Raises `ErrorAnswer` for an answer that is an error of OAI-PMH, `Unavailable` after `MOST_ATTEMPTS`, or sooner
        where the address may be wrong, and `ArxivEmbedError` where asking again would meet the same.
        """
        times_elsewhere = 0
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                return self._answer(query, read)
            except _TryAgain as fault:
                why, asked = str(fault), fault.seconds
                times_elsewhere = times_elsewhere + 1 if fault.elsewhere else 0
            if times_elsewhere == MOST_ATTEMPTS_ELSEWHERE and not self._is_known:
                raise Unavailable(
                    f"{self.shown} has not answered in {attempt} attempts ({why}): check the address, or run the same "
                    "command again later."
                )
            if attempt == MOST_ATTEMPTS:
                break
            seconds = self._backoff(attempt) if asked is None else asked
            if seconds > LONGEST_WAIT_SECONDS:
                raise Unavailable(
                    f"{self.shown} asks to come back in {seconds:,.0f} s ({why}): run the same command again then; "
                    "what came before is saved."
                )
            self._free_at = max(self._free_at, self._clock() + seconds)
            self._waiting(max(0.0, self._free_at - self._clock()), why)
        raise Unavailable(
            f"{self.shown} has not answered in {MOST_ATTEMPTS} attempts ({why}): run the same command again later; "
            "what came before is saved."
        )

    def sets(self) -> set[str]:
        """The names of all sets."""
        names: set[str] = set()
        query = {"verb": "ListSets"}
        while True:
            _, (some, token) = self.ask(query, read_sets)
            if token is None or names.issuperset(some):
                return names.union(some)
            names.update(some)
            query = {"verb": "ListSets", "resumptionToken": token}

    def _answer(self, query: Mapping[str, str], read: Callable[[bytes], Read]) -> tuple[bytes, Read]:
        try:
            content = self._fetch(query, read)
            answer = content, read(content)
        except OtherAnswer as fault:
            raise _TryAgain(f"the answer is of another kind, {fault}", elsewhere=True) from fault
        except BadAnswer as fault:
            raise _TryAgain(f"the answer is not whole, {fault}") from fault
        except ErrorAnswer:
            self._is_known = True
            raise
        self._is_known = True
        return answer

    def _fetch(self, query: Mapping[str, str], read: Callable[[bytes], object]) -> bytes:
        """The body of an answer: of one that says that all is well, or of an error of OAI-PMH, whatever its status."""
        if (seconds := self._free_at - self._clock()) > 0:
            self._sleep(seconds)
        try:
            response = self._scythe.client.get(self._scythe.endpoint, params=dict(query))
        except httpx2.RequestError as error:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise _TryAgain(why, elsewhere=isinstance(error, httpx2.ConnectError)) from error
        finally:
            self._free_at = self._clock() + self._pause
        if response.is_success:
            return response.content
        status = f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
        if response.status_code in _PASSING:
            raise _TryAgain(status, _retry_after(response.headers.get("retry-after", "")))
        if response.is_redirect:
            moved = masked(response.headers.get("location", "")) or "nowhere"
            raise ArxivEmbedError(f"{self.shown} has moved to {moved}: give the right address with --url.")
        with contextlib.suppress(BadAnswer):  # a page for people
            read(response.content)
        raise ArxivEmbedError(f"{self.shown} answers {status}: check the address, or give another with --url.")

    def _backoff(self, attempt: int) -> float:
        """Growing, and never the same for two harvesters that were refused together."""
        most = min(max(self._pause, 0.001) * 2**attempt, LONGEST_BACKOFF_SECONDS)
        return random.uniform(most / 2, most)


def _retry_after(header: str) -> float | None:
    """Seconds, from a number or a date; None for neither."""
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # raises for one that is no number
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ArxivEmbedError(f"'{masked(url)}' is no address: give one like https://oaipmh.arxiv.org/oai with --url.")
    return host
