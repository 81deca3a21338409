"""The source: patient with a repository, and no burden to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.harvest.answers import Page, read_page
from arxiv_embed.harvest.source import (
    LONGEST_WAIT_SECONDS,
    MOST_ATTEMPTS,
    MOST_ATTEMPTS_ELSEWHERE,
    PAUSE_SECONDS,
    Source,
    Unavailable,
)
from arxiv_embed_tests.harvest.repository import TROUBLES, Record, Repository, Trouble

FIRST = {"verb": "ListRecords", "metadataPrefix": "arXivRaw"}


class Hours:
    """A clock that goes on by sleep alone."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.slept: list[float] = []
        self.told: list[tuple[float, str]] = []

    def clock(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def waiting(self, seconds: float, why: str) -> None:
        self.told.append((seconds, why))

    def source(self, url: str, pause: float = PAUSE_SECONDS) -> Source:
        return Source(url, pause=pause, waiting=self.waiting, clock=self.clock, sleep=self.sleep)


@pytest.fixture
def repository(records: list[Record]) -> Iterator[Repository]:
    with Repository(records[:30], page_records=10).running() as running:
        yield running


def first_page(source: Source) -> Page:
    _, page = source.ask(FIRST, read_page)
    return page


def at_first(trouble: Trouble, times: int = 1) -> Callable[[int], Trouble]:
    return lambda number: trouble if number < times else None


def test_it_pauses_between_requests_and_makes_one_at_a_time(repository: Repository) -> None:
    hours = Hours()
    with hours.source(repository.url) as source:
        page = first_page(source)
        while page.token:
            _, page = source.ask({"verb": "ListRecords", "resumptionToken": page.token}, read_page)
    assert hours.slept == [PAUSE_SECONDS, PAUSE_SECONDS]
    assert hours.told == []
    assert len(repository.asked) == 3
    assert repository.most_at_once == 1


def test_it_says_who_is_asking(repository: Repository) -> None:
    with Hours().source(repository.url) as source:
        first_page(source)
    assert repository.asked[0].agent.startswith("arxiv-embed/")


def test_it_comes_back_after_as_many_seconds_as_it_is_asked_to(repository: Repository) -> None:
    repository.trouble, repository.retry_after = at_first("busy", 2), "47"
    hours = Hours()
    with hours.source(repository.url) as source:
        assert len(first_page(source).datestamps) == 10
    assert hours.slept == [47, 47]
    assert hours.told == [(47, "HTTP 503 Service Unavailable")] * 2


def test_it_comes_back_at_the_time_that_it_is_asked_to(repository: Repository) -> None:
    at = datetime.now(UTC) + timedelta(seconds=3000)
    repository.trouble, repository.retry_after = at_first("busy"), format_datetime(at, usegmt=True)
    hours = Hours()
    with hours.source(repository.url) as source:
        first_page(source)
    assert 1000 < hours.slept[0] <= 3000


def test_it_is_seen_to_wait_by_the_repository(repository: Repository) -> None:
    repository.trouble = at_first("busy")
    with Source(repository.url, pause=0) as source:
        first_page(source)
    refused, answered = repository.asked
    assert answered.time - refused.time >= 1


@pytest.mark.parametrize("said", ["", "soon", "-5"])
def test_it_waits_as_it_thinks_fit_where_it_is_not_told_how_long(repository: Repository, said: str) -> None:
    repository.trouble, repository.retry_after = at_first("busy"), said
    hours = Hours()
    with hours.source(repository.url) as source:
        first_page(source)
    assert len(hours.slept) == 1
    assert hours.slept[0] >= PAUSE_SECONDS


def test_who_is_asked_to_come_back_much_later_is_not_kept_waiting(repository: Repository) -> None:
    repository.trouble, repository.retry_after = at_first("busy"), "86400"
    hours = Hours()
    with hours.source(repository.url) as source, pytest.raises(Unavailable, match="come back in 86,400 s"):
        first_page(source)
    assert hours.slept == []


@pytest.mark.parametrize("trouble", [trouble for trouble in TROUBLES if trouble != "busy"])
def test_an_answer_that_does_not_come_whole_is_asked_for_again(repository: Repository, trouble: Trouble) -> None:
    repository.trouble = at_first(trouble, 3)
    hours = Hours()
    with hours.source(repository.url) as source:
        assert len(first_page(source).datestamps) == 10
    assert len(repository.asked) == 4
    assert [asked.query for asked in repository.asked] == [FIRST] * 4
    assert hours.slept == sorted(hours.slept)
    assert len(hours.told) == 3


def test_patience_ends_with_one_sentence(repository: Repository) -> None:
    repository.trouble = lambda number: "malformed"
    with Hours().source(repository.url) as source, pytest.raises(Unavailable) as caught:
        first_page(source)
    assert len(repository.asked) == MOST_ATTEMPTS
    assert "has not answered in 12 attempts (the answer is not whole, its XML is broken" in str(caught.value)
    assert "run the same command again later" in str(caught.value)


def test_a_repository_that_is_busy_for_long_is_obeyed_all_the_time(repository: Repository) -> None:
    repository.trouble = at_first("busy", MOST_ATTEMPTS - 1)
    with Hours().source(repository.url) as source:
        assert len(first_page(source).datestamps) == 10
    assert len(repository.asked) == MOST_ATTEMPTS


def test_an_address_at_which_nobody_listens_may_be_wrong() -> None:
    hours = Hours()
    with hours.source("http://127.0.0.1:9/oai") as source, pytest.raises(Unavailable) as caught:
        first_page(source)
    assert str(caught.value).startswith("http://127.0.0.1:9/oai has not answered in 3 attempts (ConnectError")
    assert str(caught.value).endswith("): check the address, or run the same command again later.")
    assert len(hours.told) == MOST_ATTEMPTS_ELSEWHERE - 1


def test_an_address_at_which_a_web_page_lies_may_be_wrong(repository: Repository) -> None:
    repository.trouble = lambda number: "web page"
    with Hours().source(repository.url) as source, pytest.raises(Unavailable, match=r"a web page.*: check the address"):
        first_page(source)
    assert len(repository.asked) == MOST_ATTEMPTS_ELSEWHERE


def test_an_address_that_has_answered_before_is_not_doubted(repository: Repository) -> None:
    repository.trouble = lambda number: "web page" if number else None
    with Hours().source(repository.url) as source:
        first_page(source)
        with pytest.raises(Unavailable, match=r"12 attempts .* a web page.*: run the same command again later"):
            first_page(source)


def test_an_address_is_not_doubted_for_web_pages_among_other_faults(repository: Repository) -> None:
    faults: list[Trouble] = ["web page", "web page", "cut"] * 3
    repository.trouble = lambda number: faults[number] if number < len(faults) else None
    with Hours().source(repository.url) as source:
        assert len(first_page(source).datestamps) == 10


@pytest.mark.parametrize("url", ["arxiv", "ftp://oaipmh.arxiv.org/oai", "https:///oai", "http://a:b/oai", "http://[/"])
def test_an_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ArxivEmbedError, match="is no address: give one like"):
        Source(url)


def test_arxiv_is_not_asked_faster_than_it_allows() -> None:
    with pytest.raises(ArxivEmbedError, match=r"too short for oaipmh\.arxiv\.org"):
        Source("https://oaipmh.arxiv.org/oai", pause=1)
    Source("https://oaipmh.arxiv.org/oai", pause=3)


@pytest.mark.parametrize("pause", [float("inf"), float("nan"), 1e10, LONGEST_WAIT_SECONDS + 1, -1])
def test_a_pause_that_cannot_be_made_is_refused(pause: float) -> None:
    with pytest.raises(ArxivEmbedError, match=r"^A pause of .* s cannot be made: give --pause from 0 to 3,600 s\.$"):
        Source("http://127.0.0.1:9/oai", pause=pause)


def test_the_sets_are_found(repository: Repository) -> None:
    with Hours().source(repository.url) as source:
        assert "cs" in source.sets()
