"""The reporter: what Dagster's database could not take is told when it is back, and a run waits, though not for ever.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetMaterialization, DagsterInstance, OpExecutionContext, job, op
from sqlalchemy.exc import OperationalError

import arxiv_embed.pipeline.reporter
from arxiv_embed.attempts import PAUSE_SECONDS
from arxiv_embed.errors import Kind
from arxiv_embed.pipeline.reporter import MOST_WAITS, DagsterAway, Reporter

AWAY = OperationalError("INSERT", {}, sqlite3.OperationalError("connection to server at postgres://u:secret@h failed"))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(arxiv_embed.pipeline.reporter.time, "sleep", waits.append)
    return waits


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


def run(instance: DagsterInstance, body: Callable[[Reporter], None]) -> list[str]:
    """A step that does so; returns what its log says."""

    @op
    def step(context: OpExecutionContext) -> None:
        body(Reporter(context))

    @job
    def steps() -> None:
        step()

    result = steps.execute_in_process(instance=instance)
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


def away(monkeypatch: pytest.MonkeyPatch, instance: DagsterInstance, times: int) -> None:
    """The database refuses so many events, from now on."""
    handle, left = instance.handle_new_event, [times]

    def refuse(event: Any, **options: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise AWAY
        handle(event, **options)

    monkeypatch.setattr(instance, "handle_new_event", refuse)


def test_an_event_waits_until_the_database_is_back(
    instance: DagsterInstance, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble: list[tuple[Kind, str]] = []

    def body(reporter: Reporter) -> None:
        reporter.on_trouble = lambda error, kind, action: trouble.append((kind, action))
        away(monkeypatch, instance, times=3)
        reporter.log(AssetMaterialization("papers", partition="a.jsonl"))

    run(instance, body)
    assert len(waits) == 3
    assert [kind for kind, _ in trouble] == [Kind.TRANSIENT] * 3
    assert all(action.startswith("again in ") for _, action in trouble)
    assert instance.get_materialized_partitions(AssetMaterialization("papers").asset_key) == {"a.jsonl"}


def test_lines_that_are_said_meanwhile_are_kept_in_order(
    instance: DagsterInstance, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(reporter: Reporter) -> None:
        reporter.on_trouble = lambda error, kind, action: reporter.say("in trouble")
        reporter.say("before")
        away(monkeypatch, instance, times=2)
        reporter.say("after")

    said = [line for line in run(instance, body) if line in ("before", "in trouble", "after")]
    assert said[0] == "before"
    assert said[1] == "after"
    assert said[2:] == ["in trouble"] * len(said[2:]) != []
    assert waits


def test_a_database_that_does_not_come_back_ends_the_step_with_a_sentence_without_its_password(
    instance: DagsterInstance, waits: list[float]
) -> None:
    def refuse() -> None:
        raise AWAY

    with pytest.raises(DagsterAway, match=r"Dagster's database cannot be used \(.*run the same command again") as told:
        arxiv_embed.pipeline.reporter.patiently(refuse)
    assert "secret" not in str(told.value)
    assert len(waits) == MOST_WAITS[Kind.TRANSIENT]
    assert 60 < sum(waits) < 300


def test_an_error_that_is_no_outage_is_not_waited_for(waits: list[float]) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", str(Path("x")))

    with pytest.raises(PermissionError):
        arxiv_embed.pipeline.reporter.patiently(refuse)
    assert waits == []


def test_a_full_disk_is_waited_for_as_long_as_a_run_pauses(waits: list[float]) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DagsterAway):
        arxiv_embed.pipeline.reporter.patiently(refuse)
    assert len(waits) == 2
    assert all(0.5 * PAUSE_SECONDS <= wait <= 1.5 * PAUSE_SECONDS for wait in waits)
