"""`arxiv-embed report`: the page of any run, made again."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from arxiv_embed.cli.app import app
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import Settings
from arxiv_embed_tests.records import plain_run, write

FIRST, SECOND = "4f2a91c0-1111", "4f2b0000-2222"


@pytest.fixture
def runs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, the second of them killed; the first was begun last, by the clock of its record."""
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    write(settings.runs / FIRST / "progress.jsonl", [(time + 500, event) for time, event in plain_run()])
    write(settings.runs / SECOND / "progress.jsonl", plain_run()[:-1])
    return settings.runs


def report(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments])


def test_the_last_runs_report_is_made_beside_its_record(runs: Path) -> None:
    result = report()
    assert result.exit_code == 0
    assert result.stdout.strip() == str(runs / FIRST / "report.html")
    assert "Nothing: all that was met is done" in (runs / FIRST / "report.html").read_text()


def test_a_run_is_named_by_a_beginning_and_a_killed_one_has_a_report_too(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    assert report("4f2b", "--output", str(page)).exit_code == 0
    assert "The run was killed after " in page.read_text()
    assert not (runs / SECOND / "report.html").exists()


@pytest.mark.parametrize(
    ("named", "sentence"),
    [("nope", "There is no run 'nope'"), ("4f2", "2 runs begin with '4f2'"), ("../runs/4f2b0000-2222", "no run '../")],
)
def test_a_run_that_is_not_there_is_one_sentence(runs: Path, named: str, sentence: str) -> None:
    result = report(named)
    assert isinstance(result.exception, ArxivEmbedError)
    assert sentence in str(result.exception)


def test_a_home_without_runs_and_a_folder_for_a_file_are_one_sentence_each(runs: Path, tmp_path: Path) -> None:
    assert "name the file" in str(report("--output", str(tmp_path)).exception)
    for run in (FIRST, SECOND):
        (runs / run / "progress.jsonl").unlink()
    assert "There has been no run in " in str(report().exception)


def test_it_is_opened_where_there_is_a_browser(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    assert report("--open").exit_code == 0
    assert opened == [(runs / FIRST / "report.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert "No browser was found here" in report("--open").stderr
