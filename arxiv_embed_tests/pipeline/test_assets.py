"""The assets: each shard's materializations tell what was really done, and one shard's failure is its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import DagsterInstance

import arxiv_embed.equipment
import arxiv_embed.run
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.events import NOT_PACKED
from arxiv_embed.plan import embeddings_key, papers_key
from arxiv_embed.record import ProgressReader
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.encoding.architectures import save_architecture
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, latest_metadata, materialized

ASSETS = ["papers", "embeddings", "vector_store"]


def test_a_range_of_shards_is_embedded_and_told_shard_by_shard(options: RunOptions, instance: DagsterInstance) -> None:
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    for asset in ASSETS:
        assert materialized(instance, asset) == set(SHARDS)
    papers = latest_metadata(instance, "papers", "second.jsonl")
    assert (papers["papers"], papers["rejects"]) == (5, 1)
    assert papers["first rejects"].records[0].data["position"] == "line 6"
    embeddings = latest_metadata(instance, "embeddings", "second.jsonl")
    for number in ("tokens", "papers/s", "tokens/s"):
        assert embeddings[number] > 0
    assert embeddings["padding ratio"] >= 0
    assert "layout" not in embeddings
    with open_store(options.store) as store:
        [space] = store.spaces()
        papers_stored, rows = store.count(space.fingerprint)
    assert papers_stored == 11
    assert rows == sum(latest_metadata(instance, "vector_store", shard)["rows"] for shard in SHARDS)


def test_dagster_is_told_what_was_reused_apart_from_what_was_embedded(
    options: RunOptions, instance: DagsterInstance
) -> None:
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    told = latest_metadata(instance, "embeddings", "second.jsonl")
    assert (told["papers"], told["embedded papers"], told["reused papers"]) == (5, 5, 0)
    (options.metadata_dir / "second.jsonl").rename(options.metadata_dir / "third.jsonl")
    assert execute("embed_pending", options, instance).success
    told = latest_metadata(instance, "embeddings", "third.jsonl")
    assert (told["papers"], told["embedded papers"], told["reused papers"]) == (5, 0, 5)
    assert (told["reused papers from other checkpoints"], told["reused papers from the store"]) == (5, 0)
    assert "papers/s" not in told


def test_a_model_that_cannot_be_packed_is_said_to_be_computed_padded(
    options: RunOptions, instance: DagsterInstance, settings: Settings, tmp_path: Path
) -> None:
    save_architecture("mpnet, with a bias by distance", tmp_path / "mpnet")
    padded = replace(options, model=str(tmp_path / "mpnet"))
    assert execute("embed_shards", padded, instance, shards=SHARDS).success
    assert latest_metadata(instance, "embeddings", "second.jsonl")["layout"].startswith("computed padded, ")
    [record] = settings.runs.glob("*/progress.jsonl")
    assert ProgressReader(record).poll().notices == [f"{tmp_path / 'mpnet'}: {NOT_PACKED}"]


def test_what_is_done_is_not_done_again(options: RunOptions, instance: DagsterInstance) -> None:
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    with open_store(options.store) as store:
        [space] = store.spaces()
        assert store.count(space.fingerprint)[0] == 11
    manifest = CheckpointStore(options.checkpoints).manifest(embeddings_key("first.jsonl", space))
    assert manifest is not None
    assert manifest.generation == 1


def test_assets_can_be_materialized_one_after_the_other(options: RunOptions, instance: DagsterInstance) -> None:
    for asset in ASSETS:
        assert execute("embed_shards", options, instance, shards=SHARDS[:1], assets=[asset]).success
        assert materialized(instance, asset) == {"first.jsonl"}


def test_embeddings_without_papers_fail_and_say_what_to_do(options: RunOptions, instance: DagsterInstance) -> None:
    result = execute("embed_shards", options, instance, shards=SHARDS[:1], assets=["embeddings"])
    failure = result.failure_data_for_node("embed_metadata")
    assert failure is not None
    assert "Shard 'first.jsonl' has no papers yet: materialize them first." in str(failure.error)


def test_the_pending_job_finds_and_registers_shards_itself(options: RunOptions) -> None:
    with DagsterInstance.ephemeral() as empty:
        assert execute("embed_pending", options, empty).success
        assert empty.get_dynamic_partitions("metadata_files") == SHARDS
        assert materialized(empty, "vector_store") == set(SHARDS)


def test_a_folder_that_is_not_there_is_one_sentence_and_no_retry(
    options: RunOptions, instance: DagsterInstance, tmp_path: Path
) -> None:
    result = execute("embed_pending", replace(options, metadata_dir=tmp_path / "nowhere"), instance)
    failure = result.failure_data_for_node("embed_what_remains")
    assert failure is not None
    assert failure.error is not None
    assert f"There is no metadata folder {tmp_path / 'nowhere'}" in failure.error.message


IN_SECOND = "ids:0704.0007,0704.0010"


def events_of(settings: Settings) -> list[tuple[str, str]]:
    """(event, shard) in the order in which the only run recorded them."""
    [record] = settings.runs.glob("*/progress.jsonl")
    lines = map(json.loads, record.read_text().splitlines())
    return [(line["event"], line["shard"]) for line in lines if line["event"].startswith(("papers_", "shard_stored"))]


def test_shards_with_urgent_papers_are_embedded_first_once_all_are_read(
    options: RunOptions, instance: DagsterInstance, settings: Settings, pool: FakePool
) -> None:
    assert execute("embed_pending", replace(options, priority=(IN_SECOND,)), instance).success
    first, second = SHARDS
    assert events_of(settings) == [
        ("papers_read", first),
        ("papers_read", second),
        ("shard_stored", second),
        ("shard_stored", first),
    ]
    assert pool.urgent == [[True, False, False, True, False], [False] * 6]
    for asset in ASSETS:
        assert materialized(instance, asset) == set(SHARDS)
    assert latest_metadata(instance, "papers", second)["urgent papers"] == 2
    assert latest_metadata(instance, "papers", second)["rejects"] == 1


def test_without_a_priority_each_shard_is_done_before_the_next_is_read(
    options: RunOptions, instance: DagsterInstance, settings: Settings, pool: FakePool
) -> None:
    assert execute("embed_pending", options, instance).success
    assert events_of(settings) == [(event, shard) for shard in SHARDS for event in ("papers_read", "shard_stored")]
    assert pool.urgent == [None, None]
    assert "urgent papers" not in latest_metadata(instance, "papers", SHARDS[0])


@pytest.mark.usefixtures("pool")
def test_with_a_priority_a_shard_that_cannot_be_read_leaves_its_neighbours_alone(
    options: RunOptions, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arxiv_embed.run, "READER_WAIT_SECONDS", 0.0)
    with CheckpointStore(options.checkpoints).hold(papers_key("second.jsonl")):
        result = execute("embed_pending", replace(options, attempts=1, priority=(IN_SECOND,)), instance)
    assert not result.success
    assert materialized(instance, "vector_store") == {"first.jsonl"}
    assert materialized(instance, "embeddings") == {"first.jsonl"}


def test_with_a_priority_a_shard_that_fails_leaves_its_neighbours_alone(
    options: RunOptions, instance: DagsterInstance, pool: FakePool
) -> None:
    pool.fail_on = "Numerical solution of shock"
    result = execute("embed_pending", replace(options, attempts=1, priority=(IN_SECOND,)), instance)
    assert not result.success
    assert materialized(instance, "vector_store") == {"first.jsonl"}
    assert materialized(instance, "papers") == set(SHARDS)


def test_with_a_priority_assets_can_be_materialized_one_after_the_other(
    options: RunOptions, instance: DagsterInstance, pool: FakePool
) -> None:
    urgent = replace(options, priority=(IN_SECOND,))
    for asset in ASSETS:
        assert execute("embed_shards", urgent, instance, shards=SHARDS, assets=[asset]).success
        assert materialized(instance, asset) == set(SHARDS)
    assert [len(mask or ()) for mask in pool.urgent] == [5, 6]


def test_a_priority_that_makes_no_sense_is_one_sentence(options: RunOptions, instance: DagsterInstance) -> None:
    result = execute("embed_pending", replace(options, priority=("soon",)), instance)
    failure = result.failure_data_for_node("embed_what_remains")
    assert failure is not None
    assert failure.error is not None
    assert "--priority 'soon' is not understood: write category:cs.LG" in failure.error.message
