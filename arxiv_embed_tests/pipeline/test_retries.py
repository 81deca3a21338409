"""Retries: counted by Dagster's records over all runs, each attempt doing only what remains; colours tell the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from dagster import (
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    ReexecutionOptions,
    execute_job,
)
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

import arxiv_embed.attempts
import arxiv_embed.equipment
import arxiv_embed.pipeline.failures
import arxiv_embed.pipeline.reporter
import arxiv_embed.pipeline.work
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.history import history_path, load_history
from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.pipeline.partitions import metadata_files, register_shards
from arxiv_embed.pipeline.reporter import Reporter
from arxiv_embed.pipeline.resources import resource_config
from arxiv_embed.plan import embeddings_key
from arxiv_embed.progress import RunProgress
from arxiv_embed.record import ProgressReader
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.damage import flip
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, materialized
from arxiv_embed_tests.pipeline.test_reporter import away

IN_FIRST = "Sparsity-certifying"


@pytest.fixture
def pool(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> FakePool:
    """Fails on the first shard, which is tried again at once."""
    pool.fail_on = IN_FIRST
    monkeypatch.setattr(arxiv_embed.attempts, "FIRST_WAIT", 0.0)
    return pool


def last_record(settings: Settings) -> RunProgress:
    [*_, last] = sorted(settings.runs.glob("*/progress.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    return ProgressReader(last).poll()


def failed_partitions(instance: DagsterInstance, asset: str) -> set[str]:
    """Those that the UI shows as failed."""
    value = get_and_update_asset_status_cache_value(instance, AssetKey(asset), metadata_files)
    assert value is not None
    return set(value.deserialize_failed_partition_subsets(metadata_files).get_partition_keys())


def attempts_in_all(pool: FakePool) -> int:
    """How often the first shard was tried: the second is embedded once."""
    return len(pool.urgent) - 1


def test_a_failing_shard_is_tried_three_times_in_all_and_then_listed(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings
) -> None:
    once = replace(options, attempts=1)
    assert not execute("embed_pending", once, instance).success
    assert attempts_in_all(pool) == 1
    assert not execute("embed_pending", replace(options, attempts=3), instance).success
    assert attempts_in_all(pool) == 3
    result = execute("embed_pending", replace(options, attempts=3), instance)
    assert not result.success
    assert attempts_in_all(pool) == 3
    assert list(last_record(settings).given_up) == ["first.jsonl"]
    failure = result.failure_data_for_node("embed_what_remains")
    assert failure is not None
    assert failure.error is not None
    assert "1 of 1 shards failed: RuntimeError: the device fell over" in failure.error.message
    assert materialized(instance, "vector_store") == {"second.jsonl"}

    history = load_history(history_path(settings, options.store))
    assert history is not None
    failed = history.failed_files["first.jsonl"]
    assert (failed.attempts, failed.given_up, failed.kind) == (3, True, "transient")
    assert failed.error == "RuntimeError: the device fell over"
    assert list(history.processed_files) == ["second.jsonl"]


def test_asked_to_what_was_given_up_is_tried_again_and_its_success_ends_the_count(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings
) -> None:
    assert not execute("embed_pending", options, instance).success
    assert not execute("embed_pending", options, instance).success
    assert attempts_in_all(pool) == 3
    pool.fail_on = ""
    assert execute("embed_pending", replace(options, retry_failed=True), instance).success
    assert materialized(instance, "vector_store") == set(SHARDS)
    history = load_history(history_path(settings, options.store))
    assert history is not None
    assert history.failed_files == {}

    pool.fail_on = IN_FIRST
    source = options.metadata_dir / "first.jsonl"
    assert execute("embed_pending", options, instance).success
    touched = source.read_text().replace("Sparsity-certifying", "Sparsity-certifying, again")
    source.write_text(touched)
    before = len(pool.urgent)
    assert not execute("embed_pending", options, instance).success
    assert len(pool.urgent) - before == 3


def test_a_shard_that_failed_and_went_through_in_one_run_has_not_failed(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reporter, "log", _mending(pool, Reporter.log))
    assert execute("embed_pending", options, instance).success
    assert attempts_in_all(pool) == 2
    history = load_history(history_path(settings, options.store))
    assert history is not None
    assert history.failed_files == {}
    assert [pattern.count for pattern in history.error_patterns.patterns()] == [1]


def _mending(pool: FakePool, log: Callable[..., None]) -> Callable[..., None]:
    """The shard is well again as soon as its failure is told."""

    def logged(reporter: Reporter, event: AssetMaterialization | AssetObservation) -> None:
        log(reporter, event)
        if isinstance(event, AssetObservation):
            pool.fail_on = ""

    return logged


def test_a_changed_source_begins_the_count_anew(options: RunOptions, instance: DagsterInstance, pool: FakePool) -> None:
    assert not execute("embed_pending", options, instance).success
    assert attempts_in_all(pool) == 3
    source = options.metadata_dir / "first.jsonl"
    source.write_bytes(source.read_bytes() + b"\n")
    assert not execute("embed_pending", options, instance).success
    assert attempts_in_all(pool) == 6


def test_shards_that_somebody_chose_are_tried_however_often_they_have_failed(
    options: RunOptions, instance: DagsterInstance, pool: FakePool
) -> None:
    assert not execute("embed_pending", options, instance).success
    assert not execute("embed_shards", options, instance, shards=SHARDS[:1]).success
    assert attempts_in_all(pool) == 6
    pool.fail_on = ""
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    assert len(pool.embedded) == 11  # no paper twice: each run did only what remained


@pytest.mark.parametrize("job", ["embed_pending", "embed_shards"])
def test_the_colours_of_partitions_tell_the_truth(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, job: str
) -> None:
    chosen = SHARDS if job == "embed_shards" else ()
    assert not execute(job, options, instance, shards=chosen).success
    for asset in ("embeddings", "vector_store"):
        assert failed_partitions(instance, asset) == {"first.jsonl"}
        assert materialized(instance, asset) == {"second.jsonl"}
    assert failed_partitions(instance, "papers") == set()
    assert materialized(instance, "papers") == set(SHARDS)
    pool.fail_on = ""
    assert execute(job, replace(options, retry_failed=True), instance, shards=chosen).success
    for asset in ("papers", "embeddings", "vector_store"):
        assert failed_partitions(instance, asset) == set()
        assert materialized(instance, asset) == set(SHARDS)


def space(options: RunOptions):
    return space_of(resolve_model(options.model), options.chunker)


def test_a_run_that_gives_a_shard_up_says_so_and_has_failed(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings
) -> None:
    assert not execute("embed_pending", options, instance).success
    result = execute("embed_pending", options, instance)
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any(message.startswith("first.jsonl failed 3 times and is not tried again: ") for message in messages)
    assert last_record(settings).state == "failed"


def test_failures_in_one_space_do_not_count_in_another(
    options: RunOptions, instance: DagsterInstance, pool: FakePool
) -> None:
    assert not execute("embed_pending", options, instance).success
    assert attempts_in_all(pool) == 3
    other = replace(options, chunker="whole", store=f"{options.store}-whole")
    before = len(pool.urgent)
    assert not execute("embed_pending", other, instance).success
    assert len(pool.urgent) - before == 4  # three times the first shard, once the second


def test_a_failure_is_found_among_however_many_observations(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.fail_on = ""
    pool.fail_after = 0
    assert not execute("embed_pending", options, instance).success  # three observations of each shard
    monkeypatch.setattr(arxiv_embed.pipeline.failures, "AT_ONCE", 1)
    before = len(pool.urgent)
    assert not execute("embed_pending", options, instance).success
    assert len(pool.urgent) == before


def test_a_step_that_is_tried_again_counts_what_it_tried_before(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, left = arxiv_embed.pipeline.work._keep_history, [1]

    def crash_once(*arguments: Any) -> None:
        keep(*arguments)
        if left[0]:
            left[0] -= 1
            raise RuntimeError("the step crashed")

    monkeypatch.setattr(arxiv_embed.pipeline.work, "_keep_history", crash_once)
    result = execute("embed_shards", options, instance, shards=SHARDS)
    assert not result.success
    assert DagsterEventType.STEP_UP_FOR_RETRY in {event.event_type for event in result.all_events}
    assert attempts_in_all(pool) == 3


def test_a_shard_that_was_given_up_does_not_make_the_step_be_tried_again(
    options: RunOptions, instance: DagsterInstance, pool: FakePool
) -> None:
    result = execute("embed_shards", options, instance, shards=SHARDS)
    assert not result.success
    assert DagsterEventType.STEP_UP_FOR_RETRY not in {event.event_type for event in result.all_events}


def test_a_history_that_cannot_be_written_fails_no_run(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **how: Any) -> None:
        raise OSError(5, "Input/output error")

    pool.fail_on = ""
    monkeypatch.setattr(arxiv_embed.pipeline.work, "refresh_history", refuse)
    result = execute("embed_pending", options, instance)
    assert result.success
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("The history could not be written" in message for message in messages)


@pytest.mark.parametrize("job", ["embed_pending", "embed_shards"])
def test_a_run_that_leaves_a_shard_to_another_process_has_not_done_all(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, job: str
) -> None:
    pool.fail_on = ""
    with CheckpointStore(options.checkpoints).hold(embeddings_key("first.jsonl", space(options))):
        result = execute(job, options, instance, shards=SHARDS if job == "embed_shards" else ())
    assert not result.success
    failure = result.failure_data_for_node("embed_metadata" if job == "embed_shards" else "embed_what_remains")
    assert failure is not None
    assert "Others are at work on first.jsonl" in str(failure.error)
    assert materialized(instance, "vector_store") == {"second.jsonl"}


def test_a_database_that_is_away_is_an_error_of_the_run(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = pool.encode

    def encode_while_it_goes_away(*arguments: Any, **how: Any) -> Any:
        yield from encode(*arguments, **how)
        away(monkeypatch, instance, times=2)

    pool.fail_on = ""
    monkeypatch.setattr(pool, "encode", encode_while_it_goes_away)
    monkeypatch.setattr(arxiv_embed.pipeline.reporter.time, "sleep", lambda seconds: None)
    assert execute("embed_pending", options, instance).success
    assert any("OperationalError" in pattern.example for pattern in last_record(settings).errors.patterns())


def test_damage_that_a_run_finds_is_told_to_dagster(
    options: RunOptions, instance: DagsterInstance, pool: FakePool, settings: Settings
) -> None:
    pool.fail_on = ""
    assert execute("embed_pending", options, instance).success
    [data] = options.checkpoints.glob("papers/-/first.jsonl/g*.papers.arrow")
    flip(data)
    assert execute("embed_shards", options, instance, shards=SHARDS[:1]).success
    of_shard = AssetRecordsFilter(asset_key=AssetKey("papers"), asset_partitions=["first.jsonl"])
    [record] = instance.fetch_observations(of_shard, limit=10).records
    assert record.asset_observation is not None
    assert data.name in str(record.asset_observation.metadata["damaged"].value)
    assert len(last_record(settings).damages) == 1


def test_what_is_executed_again_from_its_failure_does_only_what_remains(
    options: RunOptions, pool: FakePool, settings: Settings
) -> None:
    job = ReconstructableRepository.for_module("arxiv_embed.definitions", "defs").get_reconstructable_job(
        "embed_shards"
    )
    config = {"execution": {"config": {"in_process": {}}}, "resources": resource_config(options)}
    tags = {"dagster/asset_partition_range_start": SHARDS[0], "dagster/asset_partition_range_end": SHARDS[1]}
    with open_instance(settings) as instance:
        register_shards(instance, SHARDS)
        failed = execute_job(job, instance, run_config=config, tags=tags)
        assert not failed.success
        assert materialized(instance, "vector_store") == {"second.jsonl"}
        pool.fail_on = ""
        again = ReexecutionOptions.from_failure(failed.run_id, instance)
        assert execute_job(job, instance, run_config=config, tags=tags, reexecution_options=again).success
        assert materialized(instance, "vector_store") == set(SHARDS)
        assert failed_partitions(instance, "vector_store") == set()
    assert len(pool.embedded) == 11  # no paper twice
