"""The search page in a real browser, over the sample embedded with the real model: with a script and without, by mouse
and by keyboard, on a desk and on a phone.

`make screenshots` keeps what it saw in docs/.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from arxiv_embed_tests.browser import chromium
from arxiv_embed_tests.cli.commands import TIMEOUT, start
from arxiv_embed_tests.web.served import address_said

QUERY = "sparse random graphs and rigidity"
BEST = "0704.0002"
"""What it finds first."""

Opened = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(browser: Browser, sample_home: Path) -> Iterator[str]:
    """Where the sample's three hundred papers are searched."""
    server = start(sample_home, "serve", "--port", "0")
    try:
        yield address_said(server)
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=TIMEOUT)


@pytest.fixture
def opened(browser: Browser, site: str) -> Iterator[Opened]:
    """Opens an address in a context of its own; what is asked of anyone else, or complained of, fails the test."""
    contexts: list[BrowserContext] = []
    elsewhere: list[str] = []
    complaints: list[str] = []

    def opened(address: str = "/", *, expected: int = 200, leads_to: str = "", **options: object) -> Page:
        known = (site, leads_to or site)
        context = browser.new_context(base_url=site, **{"viewport": {"width": 1200, "height": 860}, **options})  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: request.url.startswith(known) or elsewhere.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if expected == 200:
            page.on("console", lambda said: complaints.append(said.text))
        answer = page.goto(address)
        assert answer is not None
        assert answer.status == expected
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not elsewhere
    assert not complaints


def search(page: Page, query: str = QUERY) -> None:
    page.get_by_role("searchbox").fill(query)
    page.keyboard.press("Enter")
    expect(page).to_have_title(f"{query} · arxiv-embed")


def first_id(page: Page) -> str:
    return page.locator(".hit .id").first.inner_text()


def mark_window(page: Page) -> None:
    page.evaluate("window.sameDocument = true")


def is_same_document(page: Page) -> bool:
    return bool(page.evaluate("window.sameDocument === true"))


def keep(page: Page, name: str) -> None:
    """A picture for the documentation, where one is asked for."""
    if folder := os.environ.get("ARXIV_EMBED_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def brightness(page: Page) -> float:
    """Of the page's ground, from 0 to 255."""
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", color)[:3])) / 3


def is_within_its_width(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


def test_a_query_is_answered_without_a_reload_and_the_way_back_is_kept(opened: Opened) -> None:
    page = opened()
    expect(page.get_by_text(re.compile(r"^300 arXiv papers, the newest of 20\d\d"))).to_be_visible()
    mark_window(page)
    search(page)
    expect(page.locator(".hit")).to_have_count(10)
    assert first_id(page) == BEST
    assert page.locator("math").count() > 0
    assert page.locator("mark").count() > 0
    expect(page.get_by_role("status")).to_have_text("10 papers")
    assert page.url.endswith("/?q=sparse+random+graphs+and+rigidity")
    assert page.title() == f"{QUERY} · arxiv-embed"
    keep(page, "search")
    search(page, "photon pairs at hadron colliders")
    assert first_id(page) != BEST
    page.go_back()
    expect(page.locator(".hit .id").first).to_have_text(BEST)
    expect(page.get_by_role("searchbox")).to_have_value(QUERY)
    page.go_back()
    expect(page.get_by_role("heading", name="Find papers by what they mean.")).to_be_visible()
    page.go_forward()
    expect(page.locator(".hit .id").first).to_have_text(BEST)
    assert is_same_document(page)


def test_filters_are_set_and_taken_back_by_mouse(opened: Opened) -> None:
    page = opened()
    search(page)
    mark_window(page)
    page.get_by_text("Filters", exact=True).click()
    assert page.locator("datalist option[value='math.CO']").count() == 1
    page.get_by_label("Category or archive").fill("math")
    page.get_by_label("Category or archive").press("Tab")
    expect(page.get_by_role("link", name="in math")).to_be_visible()
    for categories in page.locator(".categories").all():
        assert "math" in categories.inner_text()
    page.get_by_label("Published since").fill("2010-01-01")
    page.get_by_label("Published since").press("Tab")
    expect(page.get_by_role("link", name="since 2010-01-01")).to_be_visible()
    for day in page.locator(".hit time").all():
        assert day.inner_text() >= "2010-01-01"
    page.get_by_role("link", name="in math").click()
    expect(page.get_by_role("link", name="in math")).to_have_count(0)
    expect(page.get_by_label("Category or archive")).to_have_value("")
    page.get_by_label("Withdrawn papers").select_option("only")
    expect(page.locator(".badge").first).to_be_visible()
    assert page.locator(".badge").count() == page.locator(".hit").count()
    assert is_same_document(page)


def test_a_category_of_a_paper_narrows_the_search(opened: Opened) -> None:
    page = opened(f"/?q={QUERY}")
    page.locator(".hit").first.get_by_role("link", name="math.CO").click()
    expect(page.get_by_role("link", name="in math.CO")).to_be_visible()
    assert all("math.CO" in one.inner_text() for one in page.locator(".categories").all())


def test_the_keyboard_goes_from_paper_to_paper_and_to_more_like_it(opened: Opened) -> None:
    page = opened()
    page.locator("body").click(position={"x": 5, "y": 500})
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type(QUERY + " ?jkm/")  # in the box these are letters
    expect(page.get_by_role("searchbox")).to_have_value(QUERY + " ?jkm/")
    search(page)
    titles = page.locator(".title")
    page.keyboard.press("ArrowDown")
    expect(titles.nth(0)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(titles.nth(2)).to_be_focused()
    page.keyboard.press("k")
    expect(titles.nth(1)).to_be_focused()
    like = page.locator(".hit .id").nth(1).inner_text()
    page.keyboard.press("m")
    expect(page.locator(".found h1")).to_contain_text("Like ")
    assert page.url.endswith(f"/?like={like}")
    assert like not in page.locator(".hit .id").all_inner_texts()
    page.keyboard.press("j")
    expect(page.locator(".title").first).to_be_focused()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_enter_opens_the_paper_at_arxiv(opened: Opened) -> None:
    page = opened(f"/?q={QUERY}", leads_to="https://arxiv.org/")
    page.route("https://arxiv.org/**", lambda route: route.fulfill(body="the paper"))
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"https://arxiv.org/abs/{BEST}")


def test_loading_is_shown_and_the_last_question_wins(opened: Opened) -> None:
    page = opened()
    held = []
    page.route(re.compile(r"q=slow"), lambda route: held.append(route))
    page.get_by_role("searchbox").fill("slow")
    page.keyboard.press("Enter")
    while not held:  # before that the browser may not have asked, and would not, as another question follows
        page.wait_for_timeout(10)
    expect(page.locator("body.loading")).to_have_count(1)
    expect(page.locator("#results[aria-busy=true]")).to_have_count(1)
    search(page)
    expect(page.locator("body.loading")).to_have_count(0)
    assert first_id(page) == BEST
    held[0].abort()


def test_without_a_script_the_same_form_works(opened: Opened) -> None:
    page = opened(java_script_enabled=False)
    page.get_by_role("searchbox").fill(QUERY)
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Category or archive").fill("math")
    page.get_by_label("How many").select_option("20")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".hit")).to_have_count(20)
    assert first_id(page) == BEST
    assert page.locator("math").count() > 0
    page.get_by_role("link", name="in math").click()
    expect(page.get_by_role("link", name="in math")).to_have_count(0)
    page.locator(".hit").first.get_by_role("link", name="More like this").click()
    expect(page.locator(".found h1")).to_contain_text("Like Sparsity-certifying Graph Decompositions")
    expect(page.locator(".hit")).to_have_count(20)
    long = page.locator(".abstract details").first
    long.locator("summary").click()
    expect(long.locator("p")).to_be_visible()
    expect(page.locator(".abstract:has(details[open]) .part")).to_be_hidden()
    page.get_by_role("link", name="API", exact=True).click()
    expect(page.get_by_role("heading", name="API", exact=True)).to_be_visible()


def test_dark_is_dark_and_light_is_light(opened: Opened) -> None:
    assert brightness(opened(color_scheme="light")) > 230
    page = opened(f"/?q={QUERY}", color_scheme="dark")
    assert brightness(page) < 40
    keep(page, "search-dark")


def test_a_phone_shows_all_within_its_width(opened: Opened) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}
    for address in ("/", f"/?q={QUERY}&category=math&k=50", f"/?like={BEST}", "/api"):
        assert is_within_its_width(opened(address, **phone)), address


@pytest.mark.parametrize("place", [".title", ".authors", ".abstract"])
def test_a_formula_wider_than_a_phone_is_scrolled_and_not_the_page(opened: Opened, place: str) -> None:
    page = opened(f"/?q={QUERY}", viewport={"width": 360, "height": 740})
    page.locator(place).first.evaluate("place => place.innerHTML = `<math>${'<mi>M</mi>'.repeat(90)}</math>`")
    assert is_within_its_width(page)


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/?q=", 400, "The query is empty"),
        ("/?like=2401.99999", 404, "The store holds no paper"),
        ("/nowhere", 404, "There is nothing at this address"),
    ],
)
def test_a_problem_is_a_page_to_go_on_from(opened: Opened, address: str, status: int, said: str) -> None:
    page = opened(address, expected=status)
    expect(page.get_by_role("main")).to_contain_text(said)
    search(page)
    assert first_id(page) == BEST


def test_everything_in_the_page_has_a_name_and_a_visible_focus(opened: Opened) -> None:
    page = opened(f"/?q={QUERY}")
    for role in ("banner", "search", "main", "contentinfo", "navigation"):
        assert page.get_by_role(role).count() == 1, role  # type: ignore[arg-type]
    unnamed = page.evaluate(
        """[...document.querySelectorAll("input, select, button, a")].filter(
            e => e.type !== "hidden" && !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length"""
    )
    assert unnamed == 0
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
