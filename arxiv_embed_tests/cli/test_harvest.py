"""The command `harvest`: what it says, its exit codes, and that it can be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from arxiv_embed_tests.cli.commands import arxiv_embed, start
from arxiv_embed_tests.harvest.repository import Record, Repository, deleted, recorded

PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def records(real_data: Path) -> list[Record]:
    found = recorded(real_data, "listrecords_cs_page103.xml")[:120]
    return [*found[:50], deleted(found[50]), *found[51:]]


@pytest.fixture
def repository(records: list[Record]) -> Iterator[Repository]:
    with Repository(records, page_records=50).running() as running:
        yield running


@pytest.fixture
def command(repository: Repository) -> tuple[str, ...]:
    return ("harvest", "--set", "cs", "--metadata-dir", "arxiv", "--pause", "0", "--url", repository.url)


def test_a_harvest_says_what_it_does_and_what_to_do_next(
    tmp_path: Path, repository: Repository, command: tuple[str, ...], records: list[Record]
) -> None:
    repository.trouble = lambda number: "busy" if number == 1 else None
    home = tmp_path / "home"
    result = arxiv_embed(home, *command, "--since", "2007-01-01", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"set cs, from 2007-01-01 on: {repository.url}"
    assert lines[1:5] == [
        "page 1: 50 of 120 records",
        "waiting 1.0 s: HTTP 503 Service Unavailable",
        "page 2: 100 of 120 records, 1 deleted",
        "page 3: 120 of 120 records, 1 deleted",
    ]
    assert lines[5].startswith("120 records harvested in ")
    assert lines[5].endswith(": 3 pages, 1 deleted record")
    gone = records[50]
    assert lines[6:] == [
        "  arxiv/harvest/arxiv-cs-2016-03-09.xml: 120 records",
        f"deleted at arXiv: {gone.id.removeprefix('oai:arXiv.org:')}, {gone.datestamp}",
        "Next: arxiv-embed run --metadata-dir arxiv",
    ]

    repository.records = []
    again = arxiv_embed(home, *command, folder=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines() == [
        f"set cs, from 2016-03-07 on: {repository.url}",
        "Nothing new since 2016-03-07: no record was changed.",
    ]


def test_a_harvest_without_news_says_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = arxiv_embed(tmp_path / "home", *command, "--since", "2016-03-08", folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "Nothing new since 2016-03-08: no record was changed."


def test_an_interrupted_harvest_is_saved_and_goes_on(
    tmp_path: Path, repository: Repository, command: tuple[str, ...]
) -> None:
    reached, released = threading.Event(), threading.Event()

    def hold(number: int) -> None:
        if number == 2:
            reached.set()
            released.wait(PATIENCE_SECONDS)

    repository.before = hold
    place = ("--metadata-dir", tmp_path / "arxiv", "--since", "2007-01-01")
    process = start(tmp_path / "home", *command, *place)
    assert reached.wait(PATIENCE_SECONDS)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    released.set()
    assert process.returncode == 130
    last = "Interrupted, with every page saved that has come: run the same command to go on."
    assert printed.splitlines()[-1] == last
    assert "Traceback" not in printed

    again = arxiv_embed(tmp_path / "home", *command, *place)
    assert again.returncode == 0, again.stderr
    assert "goes on after page 2, 100 records" in again.stdout
    tokens = [asked.token for asked in repository.asked]
    assert tokens == ["", "0|50", "0|100", "0|100"]


def test_a_repository_that_gives_up_on_us_is_exit_code_1(
    tmp_path: Path, repository: Repository, command: tuple[str, ...]
) -> None:
    repository.trouble, repository.retry_after = (lambda number: "busy" if number else None), "90000"
    result = arxiv_embed(tmp_path / "home", *command, "--since", "2007-01-01", folder=tmp_path)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"Error: {repository.url} asks to come back in 90,000 s (HTTP 503 Service Unavailable)")
    assert line.endswith("what came before is saved.")


def test_a_list_that_ends_early_is_exit_code_1(
    tmp_path: Path, repository: Repository, command: tuple[str, ...]
) -> None:
    repository.short_by = 3
    result = arxiv_embed(tmp_path / "home", *command, "--since", "2007-01-01", folder=tmp_path)
    assert result.returncode == 1
    assert "The list ended before its 123 records: ask again with --since 2007-01-01" in result.stdout


def test_a_list_that_ends_early_at_the_same_place_again_is_exit_code_0(
    tmp_path: Path, repository: Repository, command: tuple[str, ...]
) -> None:
    repository.short_by = 1
    first = arxiv_embed(tmp_path / "home", *command, "--since", "2007-01-01", folder=tmp_path)
    repository.date = "2016-03-10T04:00:00Z"
    second = arxiv_embed(tmp_path / "home", *command, folder=tmp_path)
    assert [first.returncode, second.returncode] == [1, 0]
    assert "The list ended before its 121 records, as it did the last time" in second.stdout


def test_an_address_that_may_be_wrong_is_exit_code_1(
    tmp_path: Path, repository: Repository, command: tuple[str, ...]
) -> None:
    repository.trouble = lambda number: "web page"
    result = arxiv_embed(tmp_path / "home", *command, "--since", "2007-01-01", folder=tmp_path)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.endswith("a web page): check the address, or run the same command again later.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "is complete, so there is none to go on from: give --since"),
        (("--since", "last week"), "--since 'last week' is no day: write YYYY-MM-DD"),
        (("--since", "2007-01-01", "--set", "sc"), "There is no set 'sc' at http://127.0.0.1"),
        (("--since", "2007-01-01", "--url", "arxiv.org"), "'arxiv.org' is no address"),
        (("--since", "2007-01-01", "--url", ""), "--url is empty: give it a value, or leave it out."),
        (("--since", "2007-01-01", "--metadata-dir", ""), "--metadata-dir is empty: give it a value, or leave it out."),
        (("--since", "2007-01-01", "--pause", "inf"), "A pause of inf s cannot be made: give --pause from 0 to 3,600"),
        (("--since", "2007-01-01", "--pause", "nan"), "A pause of nan s cannot be made: give --pause from 0 to 3,600"),
        (("--since", "2007-01-01", "--pause", "-1"), "A pause of -1 s cannot be made: give --pause from 0 to 3,600"),
        (("--since", "2062-01-01"), "--since 2062-01-01 is in the future: give a day that has begun."),
        (("--since", "2007-01-01", "--set", "c" * 300), "…' is no name of a set: write one like cs"),
        (("--since", "2007-01-01", "--url", "https://oaipmh.arxiv.org/oai"), "A pause of 0 s is too short for"),
    ],
)
def test_what_cannot_be_is_exit_code_2_and_one_sentence(
    tmp_path: Path, command: tuple[str, ...], arguments: tuple[str, ...], said: str
) -> None:
    result = arxiv_embed(tmp_path / "home", *command, *arguments, folder=tmp_path)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert not list((tmp_path / "home").rglob("*.json"))
    assert not (tmp_path / "harvest").exists()


def test_help_has_an_example(tmp_path: Path) -> None:
    result = arxiv_embed(tmp_path / "home", "harvest", "--help")
    assert result.returncode == 0
    assert "arxiv-embed harvest --since 2026-11-01 --set cs" in result.stdout
