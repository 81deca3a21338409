"""A run's report: left by the process that did the work, linked in Dagster, and never in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult

import arxiv_embed.report.writing
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, latest_metadata


def report_of(run: ExecuteInProcessResult, settings: Settings) -> Path:
    return settings.runs / run.run_id / "report.html"


def test_a_run_leaves_a_report_that_its_materializations_name(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings
) -> None:
    run = execute("embed_pending", options, instance)
    page = report_of(run, settings)
    assert "11 papers embedded" in page.read_text()
    for asset in ("embeddings", "vector_store"):
        assert latest_metadata(instance, asset, SHARDS[0])["report of the run"] == str(page)
    assert "1 of 12 records rejected" in page.read_text()
    assert "truncated JSON" in page.read_text()


def test_a_failed_run_leaves_one_that_its_failure_names(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arxiv_embed.attempts.FIRST_WAIT", 0.0)
    pool.fail_on, pool.fault = " ", ValueError("the device fell over")
    run = execute("embed_pending", options, instance)
    assert not run.success
    page = report_of(run, settings)
    assert "2 of 2 shards failed" in page.read_text()
    [failure] = [event for event in run.all_events if event.is_step_failure]
    told = failure.step_failure_data.user_failure_data
    assert told is not None
    assert told.metadata["report of the run"].value == str(page)


def test_a_run_with_nothing_to_do_leaves_none(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings
) -> None:
    assert execute("embed_pending", options, instance).success
    again = execute("embed_pending", options, instance)
    assert again.success
    assert not report_of(again, settings).exists()


def test_a_report_that_cannot_be_written_stops_nothing(
    options: RunOptions,
    instance: DagsterInstance,
    pool: FakePool,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(arxiv_embed.report.writing, "report_page", refuse)
    run = execute("embed_pending", options, instance)
    assert run.success
    warnings = [entry.user_message for entry in instance.all_logs(run.run_id) if entry.level == 30]
    assert any("no fonts" in warning and "arxiv-embed report" in warning for warning in warnings)


def test_no_run_and_no_command_waits_for_matplotlib_at_its_start() -> None:
    modules = "arxiv_embed.pipeline.work, arxiv_embed.cli.app, arxiv_embed.definitions"
    code = f"import sys, {modules}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
