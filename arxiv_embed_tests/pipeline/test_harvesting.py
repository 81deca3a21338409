"""Harvesting under Dagster: the job does what the command does, and the schedule is there to be turned on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    DefaultScheduleStatus,
    ExecuteInProcessResult,
    Failure,
    MetadataValue,
    TableMetadataValue,
    build_op_context,
    build_schedule_context,
)

from arxiv_embed.harvest.source import Source
from arxiv_embed.pipeline import harvesting
from arxiv_embed.pipeline.harvesting import HarvestConfig, harvest, harvest_metadata, harvest_new_records
from arxiv_embed.settings import Settings
from arxiv_embed_tests.harvest.repository import Record, Repository, deleted, recorded
from arxiv_embed_tests.metadata.folders import papers_in, read_folder

SETS = ("physics:nucl-ex", "physics:nucl-th")


@pytest.fixture
def records(real_data: Path) -> list[Record]:
    found = recorded(real_data, "arxivraw_ListRecordsResponse.xml")
    return [*found[:5], deleted(found[5])]


@pytest.fixture
def repository(records: list[Record], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    """The one that the environment names; the pause between its pages is left out."""
    with Repository(records, page_records=3).running() as running:
        monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
        monkeypatch.setenv("ARXIV_EMBED_METADATA_DIR", str(settings.home.parent / "metadata"))
        monkeypatch.setenv("ARXIV_EMBED_OAI_URL", running.url)
        monkeypatch.setattr(harvesting, "Source", partial(Source, pause=0))
        yield running


def run(instance: DagsterInstance, **config: Any) -> ExecuteInProcessResult:
    ops = {"harvest_new_records": {"config": config}}
    return harvest.execute_in_process(run_config={"ops": ops}, instance=instance, raise_on_error=False)


def rows(table: MetadataValue[Any]) -> list[dict[str, Any]]:
    assert isinstance(table, TableMetadataValue)
    return [dict(record.data) for record in table.records]


def test_the_job_harvests_into_the_metadata_folder_and_says_what(
    repository: Repository, instance: DagsterInstance, settings: Settings
) -> None:
    result = run(instance, since="2014-01-01")
    assert result.success
    metadata = next(event.step_output_data.metadata for event in result.all_events if event.is_successful_output)
    shown = [metadata[name].value for name in ("records", "pages", "deleted")]
    assert shown == [6, 2, 1]
    [all_sets] = rows(metadata["sets"])
    assert (all_sets["set"], all_sets["since"], all_sets["through"]) == ("all sets", "2014-01-01", "2016-03-09")
    [file] = rows(metadata["files"])
    assert file == {"file": "harvest/arxiv-2016-03-09.xml", "records": 6}
    [gone] = rows(metadata["deleted records"])
    last = repository.records[-1]
    assert (f"oai:arXiv.org:{gone['id']}", gone["datestamp"]) == (last.id, last.datestamp)
    assert len(papers_in(read_folder(settings.home.parent / "metadata"))) == 5


def test_the_job_goes_on_where_the_last_harvest_ended(repository: Repository, instance: DagsterInstance) -> None:
    assert run(instance, since="2014-01-01").success
    assert run(instance).success
    assert [asked.get("from") for asked in repository.lists_asked] == ["2014-01-01", "2016-03-07"]


def test_a_harvest_that_cannot_be_fails_with_its_sentence_and_is_not_tried_again(
    repository: Repository, instance: DagsterInstance
) -> None:
    with pytest.raises(Failure, match=r"set cs: No harvest of set cs into .*: give --since") as caught:
        harvest_directly(instance, set="cs")
    assert not caught.value.allow_retries
    assert repository.asked == []


def test_where_nothing_was_harvested_before_it_says_how_to_begin(
    repository: Repository, instance: DagsterInstance
) -> None:
    with pytest.raises(Failure, match=r"run `arxiv-embed harvest --since DATE \[--set SET\] .*` once\.$") as caught:
        harvest_directly(instance)
    assert not caught.value.allow_retries
    assert repository.asked == []


def test_without_config_it_goes_on_with_every_set_that_was_harvested(
    repository: Repository, instance: DagsterInstance
) -> None:
    for name in SETS:
        assert run(instance, set=name, since="2014-01-01").success
    before = len(repository.lists_asked)
    repository.records = [
        Record(one.id, "2016-03-08", (SETS[number % 2],), one.xml) for number, one in enumerate(repository.records)
    ]
    result = run(instance)
    assert result.success
    asked = [(one["set"], one["from"]) for one in repository.lists_asked[before:]]
    assert asked == [(name, "2016-03-07") for name in SETS]
    metadata = next(event.step_output_data.metadata for event in result.all_events if event.is_successful_output)
    assert [(row["set"], row["records"]) for row in rows(metadata["sets"])] == [(f"set {name}", 3) for name in SETS]
    assert [metadata[name].value for name in ("records", "pages", "deleted")] == [6, 2, 1]
    assert [row["records"] for row in rows(metadata["files"])] == [3, 3]
    assert len(rows(metadata["deleted records"])) == 1


def harvest_both_and_forget_the_first(instance: DagsterInstance, settings: Settings) -> None:
    """What is noted of its end is damaged."""
    for name in SETS:
        assert run(instance, set=name, since="2014-01-01").success
    [note] = (settings.home / "harvest").glob("arxiv-physics-nucl-ex-*/done/*.json")
    note.write_text("{")


def test_a_set_that_fails_keeps_no_other_from_its_turn(
    repository: Repository, instance: DagsterInstance, settings: Settings
) -> None:
    harvest_both_and_forget_the_first(instance, settings)
    with pytest.raises(Failure, match=r"^set physics:nucl-ex: No harvest of set .*: give --since\.$") as caught:
        harvest_directly(instance)
    assert not caught.value.allow_retries
    assert [row["set"] for row in rows(caught.value.metadata["sets"])] == ["set physics:nucl-th"]
    assert repository.lists_asked[-1]["set"] == "physics:nucl-th"


def test_each_reason_is_told_and_one_that_passes_is_a_reason_to_try_again(
    repository: Repository, instance: DagsterInstance, settings: Settings
) -> None:
    harvest_both_and_forget_the_first(instance, settings)
    repository.trouble, repository.retry_after = (lambda number: "busy"), "90000"
    with pytest.raises(Failure) as caught:
        harvest_directly(instance)
    first, second = str(caught.value.description).splitlines()
    assert first.startswith("set physics:nucl-ex: No harvest of")
    assert second.startswith(f"set physics:nucl-th: {repository.url} asks to come back in 90,000 s")
    assert caught.value.allow_retries


def test_a_list_that_ends_early_fails_once_and_is_believed_the_next_day(
    repository: Repository, instance: DagsterInstance
) -> None:
    repository.short_by = 1
    with pytest.raises(Failure, match=r"all sets: The list ended before its 7 records.* since=2014-01-01") as caught:
        harvest_directly(instance, since="2014-01-01")
    assert not caught.value.allow_retries
    assert rows(caught.value.metadata["sets"])[0]["through"] == "2014-01-01"
    repository.date = "2016-03-10T04:00:00Z"
    assert run(instance).success


def test_a_repository_that_is_away_is_tried_again(repository: Repository, instance: DagsterInstance) -> None:
    repository.trouble, repository.retry_after = (lambda number: "busy"), "90000"
    with pytest.raises(Failure, match="come back in 90,000 s") as caught:
        harvest_directly(instance, since="2014-01-01")
    assert caught.value.allow_retries


def harvest_directly(instance: DagsterInstance, **config: Any) -> None:
    harvest_new_records(build_op_context(instance=instance), HarvestConfig(**config))


def test_the_schedule_is_off_until_it_is_turned_on_and_asks_for_what_is_new(instance: DagsterInstance) -> None:
    assert harvest_metadata.default_status is DefaultScheduleStatus.STOPPED
    assert (harvest_metadata.cron_schedule, harvest_metadata.execution_timezone) == ("0 6 * * *", "UTC")
    [request] = harvest_metadata.evaluate_tick(build_schedule_context(instance)).run_requests or []
    assert not request.run_config
