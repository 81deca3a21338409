"""The asset `gpu_health`: a run's reports of health are observations that Dagster plots, and do not flood its log."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, AssetObservation, AssetRecordsFilter, DagsterInstance
from sqlalchemy.exc import OperationalError

import arxiv_embed.attempts
import arxiv_embed.pipeline.gpu_health
from arxiv_embed.definitions import defs
from arxiv_embed.events import HealthReported
from arxiv_embed.gpu.health import Action, DeviceHealth, Verdict
from arxiv_embed.journal import Journal
from arxiv_embed.pipeline.gpu_health import MOST_CHANGES, Thinning, observation_of
from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.run import Report, Run
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import SHARDS, execute

DAY = 2880
"""Reports, one every 30 s."""


def report(number: int, verdict: Verdict = Verdict.OK, **numbers: Any) -> HealthReported:
    device = DeviceHealth("cuda:0", verdict, ["91 °C"] if verdict is Verdict.HOT else [], **numbers)
    return HealthReported(number, 0.01, 7, 0.5, 1 << 30, [asdict(device), asdict(DeviceHealth("cuda:1"))])


def told(reports: Sequence[HealthReported]) -> list[int]:
    thinning = Thinning()
    return [report.number for report in reports if thinning.tells(report)]


def observations(instance: DagsterInstance) -> list[AssetObservation]:
    """From the first to the last."""
    records = instance.fetch_observations(AssetRecordsFilter(asset_key=AssetKey("gpu_health")), limit=500).records
    found = [record.asset_observation for record in reversed(records)]
    return [observation for observation in found if observation is not None]


def report_while_embedding(monkeypatch: pytest.MonkeyPatch, reports: Sequence[HealthReported]) -> None:
    """Has the first shard's embedding accompanied by a thread that records these."""

    def embed(run: Run, key: str) -> Report:
        if key == SHARDS[0]:
            watch = threading.Thread(target=lambda: [run.journal.record(report) for report in reports])
            watch.start()
            watch.join()
        return run.embed(key)

    monkeypatch.setitem(arxiv_embed.attempts.STEPS, "embeddings", embed)  # type: ignore[arg-type]


def test_every_report_is_told_at_first_and_then_ever_fewer() -> None:
    numbers = told([report(number) for number in range(1, DAY + 1)])
    assert numbers[:79] == list(range(1, 80))
    assert 200 < len(numbers) < 260
    distances = [after - before for before, after in pairwise(numbers)]
    assert distances == sorted(distances)
    assert distances[-1] < DAY / 40


def test_a_change_of_verdict_is_told_at_once() -> None:
    reports = [report(number, Verdict.HOT if number >= 1001 else Verdict.OK) for number in range(1, 1100)]
    assert 1001 in told(reports)
    assert 1001 not in told([report(number) for number in range(1, 1100)])


def test_a_verdict_that_changes_for_ever_does_not_flood_the_log() -> None:
    reports = [report(number, Verdict.HOT if number % 2 else Verdict.OK) for number in range(1, DAY + 1)]
    assert MOST_CHANGES < len(told(reports)) < 2 * MOST_CHANGES


def test_numbers_are_floats_and_verdicts_have_their_reasons() -> None:
    observation = observation_of(
        report(3, Verdict.HOT, action=Action.PAUSE, temperature=91, power=640.5, memory_used=70 << 30, clock=1200)
    )
    values = {name: value.value for name, value in observation.metadata.items()}
    assert values["cuda:0 verdict"] == "hot: 91 °C; to do: pause"
    assert values["cuda:1 verdict"] == "ok"
    assert (values["cuda:0 temperature, °C"], values["cuda:0 power, W"]) == (91.0, 640.5)
    assert "cuda:1 temperature, °C" not in values
    numbers = [value for name, value in values.items() if not name.endswith("verdict")]
    assert {type(number) for number in numbers} == {float}
    assert observation.description == "report 3: hot"


def test_a_runs_reports_are_observations_of_the_run(
    options: RunOptions, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the project's own SQLite, which the step writes to meanwhile."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    reports = [report(1, temperature=60.0), report(2, Verdict.HOT, temperature=91.0), report(3, temperature=70.0)]
    report_while_embedding(monkeypatch, reports)
    with open_instance(settings_from_environment()) as instance:
        run = execute("embed_pending", options, instance)
        assert run.success
        told = observations(instance)
        assert [observation.metadata["cuda:0 temperature, °C"].value for observation in told] == [60.0, 91.0, 70.0]
        records = instance.fetch_observations(AssetRecordsFilter(asset_key=AssetKey("gpu_health")), limit=9).records
        assert {record.event_log_entry.run_id for record in records} == {run.run_id}


def test_a_database_that_takes_no_observation_holds_up_no_run(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = instance.handle_new_event

    def refuse(event: Any, **how: Any) -> None:
        if event.dagster_event is not None and event.dagster_event.is_asset_observation:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("the server has gone away"))
        handle(event, **how)

    monkeypatch.setattr(instance, "handle_new_event", refuse)
    monkeypatch.setattr(arxiv_embed.pipeline.gpu_health, "AGAIN_SECONDS", 0.05)
    report_while_embedding(monkeypatch, [report(number) for number in range(1, 100)])
    assert execute("embed_pending", options, instance).success
    assert observations(instance) == []


def test_an_observation_is_told_when_the_database_is_back(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, refused = instance.handle_new_event, [2]

    def refuse(event: Any, **how: Any) -> None:
        if refused[0] and event.dagster_event is not None and event.dagster_event.is_asset_observation:
            refused[0] -= 1
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("the server has gone away"))
        handle(event, **how)

    monkeypatch.setattr(instance, "handle_new_event", refuse)
    monkeypatch.setattr(arxiv_embed.pipeline.gpu_health, "AGAIN_SECONDS", 0.01)
    pool.delay = 0.02
    report_while_embedding(monkeypatch, [report(1, temperature=60.0)])
    assert execute("embed_pending", options, instance).success
    assert len(observations(instance)) == 1


def test_whoever_listens_does_not_disturb_the_record(settings: Settings, tmp_path: Path) -> None:
    def disturb(report: HealthReported) -> None:
        raise RuntimeError("no")

    with Journal(settings, "a-run", lambda line: None, lambda damage: None, disturb) as journal:
        journal.record(report(1))
    assert '"event":"health"' in (settings.runs / "a-run" / "progress.jsonl").read_text()


def test_dagster_shows_the_asset() -> None:
    spec = defs.resolve_asset_graph().get(AssetKey("gpu_health"))
    assert (spec.group_name, spec.is_external) == ("health", True)
