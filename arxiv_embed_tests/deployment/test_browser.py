"""The whole deployment as its operator sees it: Dagster's pages in a browser, and PostgreSQL, code server, webserver
and daemon as processes of their own.

`make screenshots` keeps what it saw in docs/.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.browser import chromium
from arxiv_embed_tests.cli.commands import arxiv_embed
from arxiv_embed_tests.conftest import EXAMPLES
from arxiv_embed_tests.deployment.stack import PATIENCE_SECONDS, Stack, stack_over, wait_until

FILES, PAPERS = 16, 15
MATERIALIZED = re.compile(r"Materialized \((\d+)\)")
MADE = """query { assetNodeOrError(assetKey: {path: ["embeddings"]}) { ... on AssetNode {
    assetMaterializations(limit: 1000) { timestamp partition } } } }"""


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1300, "height": 820})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=PATIENCE_SECONDS * 1000)
        yield page


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """A folder of as many small files as a run takes seconds for."""
    folder = tmp_path / "metadata"
    folder.mkdir()
    for number in range(FILES):
        write_papers(folder / f"part-{number + 1:02d}.jsonl", number)
    return folder


@pytest.fixture
def stack(tmp_path: Path, metadata: Path) -> Iterator[Stack]:
    """The services, at work with the default model."""
    with stack_over(tmp_path, metadata, {"ARXIV_EMBED_DEVICES": "cpu:1"}) as stack:
        stack.start_all()
        yield stack


def papers() -> list[bytes]:
    """Lines, one a paper."""
    older = (EXAMPLES / "kaggle-2007.jsonl").read_bytes()
    newer = gzip.decompress((EXAMPLES / "cs-2016.jsonl.gz").read_bytes())
    return (older + newer).splitlines(keepends=True)


def write_papers(path: Path, number: int) -> None:
    """The `number`th lot, from 0, as a file."""
    path.write_bytes(b"".join(papers()[number * PAPERS : (number + 1) * PAPERS]))


def register(stack: Stack, page: Page) -> None:
    """Runs the job that lists the folder, from its launchpad."""
    page.goto(f"{stack.site}/locations/arxiv_embed/jobs/register_metadata/playground")
    page.get_by_role("button", name="Launch Run").click()
    expect(page.get_by_text("Success", exact=True)).to_be_visible()


def launch_backfill(stack: Stack, page: Page) -> str:
    """Of all partitions of all three assets; the address of its page, where the browser is then."""
    page.goto(f"{stack.site}/asset-groups")
    page.get_by_role("button", name="Materialize all").click()
    page.get_by_role("button", name="All", exact=True).click()
    page.get_by_role("button", name="Launch backfill").click()
    page.get_by_text("View", exact=True).click()
    expect(page.get_by_text("Partition selection")).to_be_visible()
    return page.url


def watch_partitions_turn_green(stack: Stack, page: Page) -> None:
    """Until the page of `embeddings` shows all as materialized."""
    page.goto(f"{stack.site}/assets/embeddings?view=partitions")

    def look() -> bool:
        shown = MATERIALIZED.search(page.inner_text("body"))
        return shown is not None and int(shown[1]) == FILES

    wait_until(look, "all partitions were green", stack.log)


def first_made(stack: Stack) -> set[str]:
    """The times at which a partition of `embeddings` was first green."""
    first: dict[str, str] = {}
    for made in stack.ask(MADE)["assetNodeOrError"]["assetMaterializations"]:  # the newest first
        first[made["partition"]] = made["timestamp"]
    return set(first.values())


def wait_for_backfill(page: Page, address: str, status: str) -> None:
    """Until its page says that it has ended so."""
    page.goto(address)
    expect(page.get_by_text("Status", exact=True).locator("xpath=..")).to_contain_text(status)


def drawn_plots(page: Page) -> int:
    """Plots in which a line is drawn: axes and numbers are grey."""
    is_drawn = """canvas => {
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        for (let i = 0; i < data.length; i += 4)
            if (data[i + 3] > 200 && Math.max(...data.slice(i, i + 3)) - Math.min(...data.slice(i, i + 3)) > 100)
                return true;
        return false;
    }"""
    return sum(canvas.evaluate(is_drawn) for canvas in page.locator("canvas").all())


def found(stack: Stack, query: str) -> list[str]:
    """The ids that a search prints, best first."""
    searched = arxiv_embed(stack.home, "search", query, "--json")
    assert searched.returncode == 0, searched.stderr
    return [hit["paper_id"] for hit in json.loads(searched.stdout)]


def saved_shards(stack: Stack) -> int:
    return len(list((stack.home / "checkpoints" / "embeddings").glob("*/*/*.manifest.json")))


def keep(page: Page, name: str) -> None:
    """A picture for the documentation, where one is asked for."""
    if folder := os.environ.get("ARXIV_EMBED_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"dagster-{name}.png")


def test_a_folder_is_embedded_by_clicking_and_a_dropped_file_is_found_by_search(
    stack: Stack, page: Page, metadata: Path
) -> None:
    register(stack, page)
    backfill = launch_backfill(stack, page)
    watch_partitions_turn_green(stack, page)
    assert len(first_made(stack)) == FILES, "one after the other"
    wait_for_backfill(page, backfill, "Succeeded")

    page.goto(f"{stack.site}/assets/embeddings?view=partitions")
    page.get_by_text("part-03.jsonl", exact=True).first.click()
    expect(page.get_by_text("papers/s", exact=True)).to_be_visible()
    keep(page, "partitions")
    page.goto(f"{stack.site}/assets/embeddings")
    page.get_by_text("Plots", exact=True).click()
    expect(page.get_by_text("cpu:0 tokens/s", exact=True)).to_be_visible()
    wait_until(lambda: drawn_plots(page) == page.locator("canvas").count() > 10, "the plots were filled")
    keep(page, "plots")
    page.goto(f"{stack.site}/assets/embeddings?view=checks")
    page.get_by_text("vectors_sound").first.click()
    expect(page.get_by_text("Passed").first).to_be_visible()
    keep(page, "checks")

    page.goto(f"{stack.site}/locations/arxiv_embed/sensors/new_metadata")
    page.get_by_role("checkbox").locator("xpath=..").click()
    expect(page.get_by_role("checkbox")).to_be_checked()
    new = json.loads(papers()[FILES * PAPERS])
    assert new["id"] not in found(stack, new["title"])
    write_papers(metadata / "dropped.jsonl", FILES)
    wait_until(lambda: saved_shards(stack) > FILES, "the dropped file was embedded", stack.log)
    wait_until(lambda: new["id"] in found(stack, new["title"]), "the dropped file's papers were found", stack.log)
    page.goto(f"{stack.site}/automation")
    expect(page.get_by_text("Standard sensor")).to_have_count(3)
    keep(page, "automation")


def test_a_backfill_whose_code_server_is_killed_ends_complete(stack: Stack, page: Page) -> None:
    register(stack, page)
    backfill = launch_backfill(stack, page)
    wait_until(lambda: saved_shards(stack) > 0, "the first shard was saved")
    stack.kill("code")
    assert saved_shards(stack) < FILES
    stack.start("code")
    watch_partitions_turn_green(stack, page)
    wait_for_backfill(page, backfill, "Succeeded")
    papers = FILES * PAPERS
    with open_store(str(stack.home / "stores" / "papers")) as store:
        [space] = store.spaces()
        assert store.count(space.fingerprint)[0] == papers


def test_a_backfill_stopped_from_its_page_stops_and_keeps_what_is_done(
    stack: Stack, page: Page, metadata: Path
) -> None:
    for path in metadata.iterdir():  # minutes of work, as no text is in two of them
        title = b'"title": "' + path.stem.encode() + b" "
        path.write_bytes(b"".join(re.sub(rb'"title": ?"', title, line, count=1) for line in papers()))
    register(stack, page)
    backfill = launch_backfill(stack, page)
    wait_until(lambda: saved_shards(stack) > 0, "the first shard was saved", stack.log)
    expect(page.get_by_text(re.compile(r"^[1-9]\d?% completed$")).first).to_be_visible()
    keep(page, "backfill")
    page.locator("button:has([aria-label=expand_more])").last.click()
    page.get_by_role("menuitem", name="Cancel backfill").click()
    page.get_by_role("button", name="Cancel backfill").click()
    wait_for_backfill(page, backfill, "Canceled")
    kept = saved_shards(stack)
    assert 0 < kept < FILES
    wait_until(  # the backfill's page may be a moment ahead of the run's last line
        lambda: "last run  interrupted" in arxiv_embed(stack.home, "status").stdout, "the run had ended", stack.log
    )
