"""Metrics: a run's figures follow from its events alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from arxiv_embed.events import BatchDone, DeviceIncident, Event, HealthReported, PaperFailed, PoolReady, RunFinished
from arxiv_embed.gpu.health import Action, DeviceHealth, Verdict
from arxiv_embed.metrics import RunMetrics, metrics_of
from arxiv_embed.progress import RunProgress
from arxiv_embed_tests.test_progress import started


def batch(device: str, seconds: float, papers: int = 10) -> BatchDone:
    return BatchDone("a", device, papers, 900, 1_000, seconds, 3 << 30, 2 << 30, number=1, longest=99, waiting=7)


def figures(*events: tuple[float, Event], now: float) -> RunMetrics:
    progress = RunProgress()
    for time, event in events:
        line: dict[str, Any] = {"time": time, "event": event.name, **asdict(event)}
        progress.apply(json.loads(json.dumps(line)))
    return metrics_of(progress, now)


def test_figures_of_devices_and_of_the_run_follow_from_its_events() -> None:
    health = asdict(DeviceHealth("cpu:1", Verdict.HOT, ["91 °C"], Action.PAUSE, temperature=91.0))
    run = figures(
        (100.0, started("a")),
        (110.0, PoolReady("float32", 9.0)),
        (114.0, batch("cpu:0", 4.0)),
        (118.0, batch("cpu:0", 4.0)),
        (118.0, batch("cpu:1", 2.0)),
        (119.0, DeviceIncident("a", "cpu:1", "out of memory", "10 papers of 900 tokens")),
        (119.0, PaperFailed("a", "2401.00001", "it could not be encoded")),
        (119.5, HealthReported(1, 0.2, 5, 0.9, 1 << 30, [health])),
        now=120.0,
    )
    assert run.elapsed_seconds == 20
    assert run.papers_embedded == 30
    assert run.padding == pytest.approx(0.1)
    assert run.balance == pytest.approx(8 / 5)
    assert (run.waiting, run.report, run.report_late, run.cpu) == (5, 1, 0.2, 0.9)
    assert (run.retries, run.out_of_memory, run.papers_failed) == (1, 1, 1)
    assert sorted(failure.kind for failure in run.failures) == ["data", "resource"]
    first, second = run.devices
    assert (first.batches, first.batch_seconds, first.computing) == (2, 4.0, pytest.approx(0.8))
    assert (first.predicted_memory, first.measured_memory) == (3 << 30, 2 << 30)
    assert first.papers_per_second == pytest.approx(2)
    assert second.health["verdict"] == "hot"
    assert json.loads(json.dumps(run.to_json()))["devices"][1]["health"]["action"] == "pause"


def test_a_run_that_has_ended_keeps_its_figures() -> None:
    events = [(100.0, started("a")), (110.0, PoolReady("float32", 9.0)), (114.0, batch("cpu:0", 4.0))]
    done = figures(*events, (115.0, RunFinished("done", "", 15.0)), now=9_000.0)
    assert done.elapsed_seconds == 15
    assert done.seconds_left is None
    assert done.papers_per_second == pytest.approx(2)


def test_a_run_that_has_not_begun_has_figures_too() -> None:
    empty = metrics_of(RunProgress(), 5.0)
    assert (empty.state, empty.elapsed_seconds, empty.balance, empty.padding) == ("starting", 0, None, 0)
