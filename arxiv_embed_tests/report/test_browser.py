"""The report in a real browser: on a desk and on a phone, light and dark, from a disk without a network.

`make screenshots` keeps what it saw in docs/: the report of a run that is made up.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from arxiv_embed.report.page import report_page
from arxiv_embed.report.timeline import read_timeline
from arxiv_embed_tests.browser import chromium
from arxiv_embed_tests.records import eventful_run, write


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "a-run"
    timeline = read_timeline(write(folder / "progress.jsonl", eventful_run()))
    timeline.reject_reasons = Counter({"no abstract": 160, "the line is cut off or is no JSON": 80, "no arXiv id": 8})
    (folder / "report.html").write_text(report_page(timeline))
    return (folder / "report.html").as_uri()


def look(browser: Browser, address: str, width: int, scheme: str) -> Page:
    """Fails the test where the page asks for anything else, or complains."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 1060}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.on("request", lambda request: request.url == address or complaints.append(request.url))
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    assert complaints == []
    return page


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_is_seen_on_a_desk_and_on_a_phone(browser: Browser, address: str, width: int, scheme: str) -> None:
    page = look(browser, address, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg").count() == 5
    for picture in page.locator("svg").all():
        box = picture.bounding_box()
        assert box is not None
        assert box["height"] > 80
    ink, paper = page.evaluate(
        """[getComputedStyle(document.querySelector("svg text")).fill,
            getComputedStyle(document.body).backgroundColor]"""
    )
    assert (sum(_rgb(ink)) < sum(_rgb(paper))) == (scheme == "light")
    if (folder := os.environ.get("ARXIV_EMBED_SCREENSHOTS")) and (width, scheme) == (1200, "light"):
        page.set_viewport_size({"width": 1000, "height": 2010})
        page.screenshot(path=Path(folder) / "report.png")
    page.context.close()


def _rgb(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
