"""The page: one file that needs nothing else, whatever the metadata says, and has every part of the report."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from arxiv_embed.events import DeviceIncident, PaperFailed, ShardFailed
from arxiv_embed.gpu.health import DeviceHealth
from arxiv_embed.report.page import report_page
from arxiv_embed.report.timeline import read_timeline
from arxiv_embed_tests.records import Timed, eventful_run, healthy, plain_run, started, write

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> $x^2$ `code` &amp;"


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(text for text in self.texts if text)


def page_of(record: Path, events: list[Timed], reasons: Counter[str] | None = None) -> str:
    timeline = read_timeline(write(record, events))
    timeline.reject_reasons = reasons or Counter()
    return report_page(timeline)


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> str:
    record = tmp_path_factory.mktemp("runs") / "a-run" / "progress.jsonl"
    return page_of(record, eventful_run(minutes=15), Counter({"no abstract": 160, "cut off": 88}))


def test_it_needs_nothing_else(eventful: str) -> None:
    page = Page(eventful)
    assert all(link.startswith("#") for link in page.links)
    assert not {"script", "link", "iframe", "object", "img"} & {*page.tags}
    assert "@import" not in eventful
    assert [part for part in eventful.split("url(")[1:] if not part.startswith("#")] == []
    assert len(eventful.encode()) < 1_000_000


def test_pictures_do_not_share_ids_and_are_in_the_pages_colours(eventful: str) -> None:
    page = Page(eventful)
    assert page.tags["svg"] == 5
    assert {link[1:] for link in page.links} <= {*page.ids}
    assert len(page.ids) == len({*page.ids})
    assert "var(--series-3)" in eventful
    assert "#000" not in eventful.split("</style>", 1)[1]


def test_it_has_every_part(eventful: str) -> None:
    text = Page(eventful).text
    for part in ("What to change", "Throughput", "Memory", "Lengths and padding", "Health", "Balance", "Devices"):
        assert part in text
    assert re.search(r"cuda:1 was throttled for 1\d% of the run \(thermal slowdown\)", text)
    assert "arxiv-2018.jsonl" in text
    assert "no abstract 160" in text
    assert "it ends the worker that embeds it" in text
    assert "104 papers of 250 tokens" in text
    assert "NVIDIA A100-SXM4-80GB" in text
    assert {"critical", "target"} <= {*text.split()}


def test_where_nothing_is_to_be_changed_it_says_so(tmp_path: Path) -> None:
    text = Page(page_of(tmp_path / "record", plain_run())).text
    assert "Nothing: all that was met is done" in text
    assert "Incidents" not in text


def test_what_the_metadata_says_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    events = [
        (0.0, started([f"{HOSTILE}.jsonl"], devices=[HOSTILE, "cuda:1"])),
        *plain_run(devices=[HOSTILE, "cuda:1"])[1:-2],
        (60.0, healthy(1, DeviceHealth(HOSTILE, reasons=[HOSTILE], temperature=50.0))),
        (61.0, healthy(2, DeviceHealth(HOSTILE, reasons=[HOSTILE], temperature=50.0))),
        (62.0, DeviceIncident(HOSTILE, HOSTILE, "lost", HOSTILE)),
        (63.0, PaperFailed(HOSTILE, HOSTILE, HOSTILE)),
        (64.0, ShardFailed(f"{HOSTILE}.jsonl", HOSTILE)),
    ]
    html = page_of(tmp_path / "record", events, Counter({HOSTILE: 3}))
    page = Page(html)
    assert not {"script", "img"} & {*page.tags}
    assert page.handlers == []
    assert page.text.count("<script>alert(1)</script>") > 5


def test_what_would_steer_a_terminal_is_in_no_page(tmp_path: Path) -> None:
    events = [*plain_run()[:-1], (100.5, ShardFailed("b.jsonl", "\x1b[31mred\x07\x9b1m and \u202emore"))]
    html = page_of(tmp_path / "record", events)
    assert "?[31mred??1m and ?more" in html
    assert not [character for character in html if ord(character) < 32 and character not in "\n\r\t"]


@pytest.mark.filterwarnings("error")
def test_names_in_any_script_stay_text_in_pictures(tmp_path: Path) -> None:
    page = page_of(tmp_path / "record", plain_run(devices=["設備:0", "설비:1"]))
    assert page.count("設備:0</text>") > 1


@pytest.mark.filterwarnings("error")
def test_a_name_that_cannot_be_drawn_and_one_with_a_password_are_drawn_without(tmp_path: Path) -> None:
    page = page_of(tmp_path / "record", plain_run(devices=["caf\udce9\x1b:0", "postgresql://user:hunter2@db"]))
    assert page.count("caf??:0</text>") > 1
    assert page.count("postgresql://user:***@db</text>") > 1
    assert "hunter2" not in page


def test_passwords_are_in_no_page(tmp_path: Path) -> None:
    url = "postgresql://user:hunter2@db/papers"
    events = [*plain_run()[:-1], (100.5, ShardFailed("b.jsonl", f"no connection to {url}"))]
    events.append((100.6, DeviceIncident(url, "cuda:0", url, f"while it told {url}")))
    html = page_of(tmp_path / "record", events, Counter({url: 3}))
    assert "hunter2" not in html
    assert html.count("postgresql://user:***@db/papers") > 3


@pytest.mark.parametrize("events", [plain_run()[:1], plain_run()[:5], plain_run(devices=["cpu:0"])])
def test_a_run_of_any_length_on_any_number_of_devices_has_a_page(tmp_path: Path, events: list[Timed]) -> None:
    page = Page(page_of(tmp_path / "record", events))
    assert page.tags["h1"] == 1
    assert page.tags["svg"] == (3 if len(events) > 10 else 0)
