"""The endpoint: what Prometheus scrapes from a run that lives."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import arxiv_embed.equipment
from arxiv_embed.endpoint import MetricsEndpoint, PortTaken, refuse_taken_port
from arxiv_embed.events import HealthReported
from arxiv_embed.exposition import run_metrics_from
from arxiv_embed.metrics import metrics_of
from arxiv_embed.progress import RunProgress
from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from arxiv_embed_tests.fake_pool import POISON, FakePool
from arxiv_embed_tests.test_exposition import HEALTH, listed
from arxiv_embed_tests.test_progress import RUN, record, started

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True)
class Scraped:
    """What a real run told: an answer to Prometheus, one to a browser, and where."""

    openmetrics: str
    plain: str
    url: str
    record: Path
    told: tuple[str, ...]


def scrape(url: str, accept: str = OPENMETRICS) -> str:
    with urlopen(Request(url, headers={"Accept": accept}), timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith(accept.partition(";")[0])
        return answer.read().decode()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Scraped:
    """Of a run over eleven papers, one of which no device can embed, before its end; every report of health is in."""
    place = tmp_path_factory.mktemp("run")
    folder = place / "metadata"
    folder.mkdir()
    lines = (examples / "kaggle-2007.jsonl").read_text().splitlines()[:11]
    poisoned = {**json.loads(lines[10]), "title": POISON}
    (folder / "a.jsonl").write_text("\n".join([*lines[:10], json.dumps(poisoned)]) + "\n")
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(place / "home")})
    options = RunOptions(folder, settings.store, settings.checkpoints, devices="cpu:1", metrics_port=0)
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arxiv_embed.equipment, "Pool", FakePool())
        with Run(options, settings, "run-1", told.append) as run:
            run.start(["a.jsonl"])
            run.read("a.jsonl")
            run.embed("a.jsonl")
            run.journal.record(HealthReported(1, 0.1, 3, 0.5, 1 << 30, [{**vars(HEALTH), "device": "cpu:0"}]))
            [url] = [line.rpartition(" ")[2] for line in told if line.startswith("metrics are served at ")]
            answers = scrape(url), scrape(url, "text/plain")
            run.store("a.jsonl")
    return Scraped(*answers, url, progress_path(settings, "run-1"), tuple(told))


def test_the_official_parser_reads_what_a_real_run_tells(scraped: Scraped) -> None:
    families = {family.name for family in text_string_to_metric_families(scraped.openmetrics)}
    assert {"arxiv_embed_run", "arxiv_embed_device_papers", "arxiv_embed_device_temperature_celsius"} <= families
    assert scraped.openmetrics.endswith("# EOF\n")


def test_the_figures_are_those_of_the_record(scraped: Scraped) -> None:
    for run in (run_metrics_from(scraped.openmetrics), run_metrics_from(scraped.plain)):
        assert (run.run_id, run.state, run.shard, run.papers_embedded) == ("run-1", "running", "a.jsonl", 10)
        assert (run.papers_failed, run.report, run.waiting) == (1, 1, 3)
        [device] = run.devices
        assert (device.device, device.papers, device.batches) == ("cpu:0", 10, 10)
        assert device.health["verdict"] == "memory critical"
        assert {failure.kind for failure in run.failures} == {"data", "transient"}


def test_nothing_but_where_it_was_is_recorded_of_it(scraped: Scraped) -> None:
    lines = [line for line in scraped.record.read_text().splitlines() if "metrics" in line]
    assert len(lines) == 1
    assert scraped.url in lines[0]
    assert f"metrics are served at {scraped.url}" in ProgressReader(scraped.record).poll().notices


def test_it_is_on_this_machine_only_and_gone_with_the_run(scraped: Scraped) -> None:
    assert scraped.url.startswith("http://127.0.0.1:")
    with pytest.raises(URLError):
        scrape(scraped.url)


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_told_before_anything_starts(taken: int) -> None:
    sentence = f"^Metrics cannot be served at port {taken} of 127.0.0.1 .*in use.*: give another port"
    with pytest.raises(PortTaken, match=sentence):
        refuse_taken_port("127.0.0.1", taken)
    refuse_taken_port("127.0.0.1", 0)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_no_address_of_this_machine_is_told_too(host: str) -> None:
    with pytest.raises(PortTaken, match=f"of {host} "):
        refuse_taken_port(host, 0)


def test_a_run_whose_port_was_taken_meanwhile_goes_on_and_says_so(
    taken: int, settings: Settings, small_folder: Path
) -> None:
    options = RunOptions(small_folder, settings.store, settings.checkpoints, devices="cpu:1", metrics_port=taken)
    with Run(options, settings, "r") as run:
        run.start(["first.jsonl"])
        assert run.read("first.jsonl").papers == 6
    progress = ProgressReader(progress_path(settings, "r")).poll()
    [notice] = progress.notices
    assert notice.startswith(f"Metrics cannot be served at port {taken}")
    assert notice.endswith("(resource: the run goes on without them)")
    assert progress.state == "done"


def test_scrapes_all_at_once_tell_one_state(tmp_path: Path) -> None:
    path = record(tmp_path / "progress.jsonl", RUN)
    with MetricsEndpoint(path, "127.0.0.1", 0) as endpoint, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(scrape, [endpoint.url] * 24))
    expected = replace(metrics_of(ProgressReader(path).poll(), 0.0), notices=())
    assert all(listed(run_metrics_from(answer)) == listed(expected) for answer in answers)


def test_a_record_that_goes_on_is_seen_at_the_next_scrape(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    with MetricsEndpoint(path, "127.0.0.1", 0) as endpoint:
        assert run_metrics_from(scrape(endpoint.url)).state == RunProgress().state
        record(path, [started("a")])
        assert run_metrics_from(scrape(endpoint.url)).state == "running"


def test_the_address_of_an_endpoint_by_ipv6_can_be_opened(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        refuse_taken_port("::1", 0)
    except PortTaken as missing:
        pytest.skip(f"needs IPv6 ({missing})")
    with MetricsEndpoint(tmp_path / "progress.jsonl", "::1", 0) as endpoint:
        assert run_metrics_from(scrape(endpoint.url)).devices == []
