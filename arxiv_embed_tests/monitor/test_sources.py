"""Sources: a record that grows, one whose writer was killed, an endpoint that comes and goes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.exposition import openmetrics_of
from arxiv_embed.metrics import RunMetrics
from arxiv_embed.monitor import sources
from arxiv_embed.monitor.sources import EndpointSource, HomeSource, Sight, url_of
from arxiv_embed.record import ProgressWriter, progress_path
from arxiv_embed.runs import NoRun, note_as_last
from arxiv_embed.settings import Settings
from arxiv_embed_tests import records
from arxiv_embed_tests.monitor.endpoint import serving


def seen(source: HomeSource | EndpointSource) -> Sight:
    sight = source.look()
    assert sight is not None
    return sight


def figures(settings: Settings) -> RunMetrics:
    records.write(progress_path(settings, "r"), records.under_way())
    return seen(HomeSource(settings, "r")).metrics


def test_a_record_is_followed_as_it_grows(settings: Settings) -> None:
    with ProgressWriter(progress_path(settings, "r")) as writer:
        writer.write(records.started(["a"], 40, ["cpu:0"]))
        source = HomeSource(settings, None)
        assert seen(source).metrics.papers_done == 0
        writer.write(records.batch("cpu:0", 30, shard="a"))
        sight = seen(source)
    assert (sight.metrics.state, sight.metrics.papers_done) == ("running", 30)
    assert sight.shards is not None
    assert sight.shards.found["a"].done == 30
    assert sum(lane.papers[-1] for lane in sight.series.lanes.values()) > 0


def test_a_run_whose_process_is_gone_is_killed_and_keeps_its_figures(settings: Settings) -> None:
    records.write(progress_path(settings, "r"), records.under_way())
    now = [records.BEGUN + 9e6]
    metrics = seen(HomeSource(settings, None, clock=lambda: now[0])).metrics
    assert metrics.state == "killed"
    assert metrics.papers_per_second > 0
    assert metrics.elapsed_seconds < 3_600


def test_the_run_that_is_begun_next_is_shown_unless_one_was_asked_for(settings: Settings) -> None:
    records.write(progress_path(settings, "first"), [(5.0, records.started(["a"], 9, ["cpu:0"], "first"))])
    follows, stays = HomeSource(settings, None), HomeSource(settings, "first")
    records.write(progress_path(settings, "second"), [(6.0, records.started(["a"], 9, ["cpu:0"], "second"))])
    note_as_last(settings, "second")
    assert seen(follows).metrics.run_id == "second"
    assert seen(stays).metrics.run_id == "first"


def test_a_run_is_found_by_how_its_id_begins_and_otherwise_the_last_few_are_named(settings: Settings) -> None:
    with pytest.raises(NoRun, match=r"^There has been no run in .*: start one with `arxiv-embed run"):
        HomeSource(settings, None)
    for number, name in enumerate(("75a4cadb", "75b00000", "90000000")):
        records.write(progress_path(settings, name), [(number + 1.0, records.started(["a"], 9, ["cpu:0"], name))])
    assert seen(HomeSource(settings, "75a")).metrics.run_id == "75a4cadb"
    with pytest.raises(NoRun, match=r"^There is no run '\.\./75a' in .*: name one of the last, 90000000, 75b00000"):
        HomeSource(settings, "../75a")
    with pytest.raises(NoRun, match=r"^2 runs begin with '75' in .*: name one of the last, 75b00000, 75a4cadb"):
        HomeSource(settings, "75")


def test_an_endpoint_that_goes_away_leaves_its_last_figures_and_is_tried_again(settings: Settings) -> None:
    metrics = figures(settings)
    now = [100.0]
    with serving(openmetrics_of(metrics)) as server:
        source = EndpointSource(server.address, clock=lambda: now[0])
        told = seen(source).metrics
        assert (told.run_id, told.papers_done, told.state) == (metrics.run_id, metrics.papers_done, metrics.state)
        assert [device.health for device in told.devices] == [device.health for device in metrics.devices]
        device = replace(metrics.devices[0], papers=metrics.devices[0].papers + 50)
        server.text = openmetrics_of(replace(metrics, devices=[device]))
        now[0] = 110.0
        assert seen(source).series.papers_per_second(110.0, 5) == pytest.approx([5] * 5)
        port = server.server_port
    now[0] = 130.0
    away = seen(source)
    assert away.away.startswith(f"http://127.0.0.1:{port}/metrics does not answer (connection refused)")
    assert away.away.endswith("figures of 20 s ago")
    with serving(openmetrics_of(metrics), port):
        assert seen(source).away == ""


@pytest.mark.parametrize(("text", "said"), [("", "answers with HTTP 404"), ("<html>", "with the metrics of a run")])
def test_what_is_no_endpoint_of_a_run_is_said(text: str, said: str) -> None:
    with serving(text) as server:
        source = EndpointSource(server.address)
        assert source.look() is None
        assert said in source.trouble


def test_an_endpoint_that_never_comes_to_an_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.2)
    with serving("# no end" * 5) as server:
        server.slowly = 0.05
        source = EndpointSource(server.address)
        assert source.look() is None
        assert "does not answer within" in source.trouble


def test_an_address_is_a_host_and_port_or_a_url_and_never_holds_a_password() -> None:
    assert url_of("gpu-7:9400") == "http://gpu-7:9400/metrics"
    assert url_of("[::1]:9400") == "http://[::1]:9400/metrics"
    assert url_of("https://gpu-7/") == "https://gpu-7/metrics"
    assert url_of("http://gpu-7:9400/run/metrics") == "http://gpu-7:9400/run/metrics"
    for wrong in ("gpu-7", "gpu-7:port", "file:///etc/passwd", ":9400", ""):
        with pytest.raises(ArxivEmbedError, match="is no address of a run's metrics: give HOST:PORT"):
            url_of(wrong)
    with pytest.raises(ArxivEmbedError) as refused:
        url_of("http://me:secret@gpu-7:9400")
    assert "secret" not in str(refused.value)


def test_a_record_that_is_removed_meanwhile_is_no_end(settings: Settings) -> None:
    path = records.write(progress_path(settings, "r"), records.under_way())
    source = HomeSource(settings, None)
    seen(source)
    path.unlink()
    assert seen(source).metrics.papers_done > 0
