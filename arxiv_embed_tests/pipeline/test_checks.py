"""Checks and versions in Dagster: what does not hold stops its shard alone, and what is stale is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from dagster import AssetCheckKey, AssetKey, DagsterInstance, Definitions
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckExecutionResolvedStatus,
)
from huggingface_hub.errors import LocalEntryNotFoundError

from arxiv_embed import checks
from arxiv_embed.checks import CHECKS, CheckResult
from arxiv_embed.definitions import defs
from arxiv_embed.pipeline.assets import metadata_assets
from arxiv_embed.pipeline.partitions import metadata_files
from arxiv_embed.pipeline.resources import resource_config
from arxiv_embed.pipeline.versions import code_versions_by_default
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests import fake_pool
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, materialized

FIRST, SECOND = SHARDS
PASSED, FAILED = AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED
SHOWN_AS_PASSED, SHOWN_AS_FAILED = AssetCheckExecutionResolvedStatus.SUCCEEDED, AssetCheckExecutionResolvedStatus.FAILED


def outcomes(instance: DagsterInstance, shard: str) -> dict[str, AssetCheckExecutionRecordStatus]:
    """What each check said of a shard last."""
    found = {}
    for check in CHECKS:
        key = AssetCheckKey(AssetKey(check.asset), check.name)
        of_shard = PartitionKeyFilter(key=shard)
        for record in instance.event_log_storage.get_asset_check_execution_history(key, 1, partition_filter=of_shard):
            if record.status in (PASSED, FAILED):
                found[f"{check.asset} {check.name}"] = record.status
    return found


def shown(instance: DagsterInstance, shard: str) -> dict[str, AssetCheckExecutionResolvedStatus]:
    """How the asset's page shows a shard, check by check."""
    keys = [AssetCheckKey(AssetKey(check.asset), check.name) for check in CHECKS]
    with partition_loading_context(dynamic_partitions_store=instance):
        states = instance.event_log_storage.get_asset_check_state([(key, metadata_files) for key in keys])
        return {
            f"{key.asset_key.to_user_string()} {key.name}": status
            for key in keys
            for status, subset in states[key].subsets.items()
            if shard in subset.subset_value
        }


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("job", ["embed_shards", "embed_pending"])
def test_every_shard_is_checked_when_it_is_done(job: str, options: RunOptions, instance: DagsterInstance) -> None:
    assert execute(job, options, instance, shards=SHARDS if job == "embed_shards" else ()).success
    for shard in SHARDS:
        assert outcomes(instance, shard) == {f"{check.asset} {check.name}": PASSED for check in CHECKS}
        assert shown(instance, shard) == {f"{check.asset} {check.name}": SHOWN_AS_PASSED for check in CHECKS}


@pytest.mark.usefixtures("pool")
def test_what_a_check_has_found_stays_when_its_shard_has_nothing_to_do(
    options: RunOptions, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as lost:
        lost.setattr(checks, "_found", lambda *seen: CheckResult(checks.FOUND, "a paper cannot be found"))
        assert execute("embed_shards", options, instance, shards=SHARDS).success
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    for shard in SHARDS:
        expected = {f"{check.asset} {check.name}": SHOWN_AS_PASSED for check in CHECKS}
        assert shown(instance, shard) == {**expected, "vector_store found_by_title": SHOWN_AS_FAILED}


@pytest.mark.usefixtures("pool")
def test_vectors_that_are_not_sound_stay_out_of_the_store_and_leave_the_others_alone(
    options: RunOptions, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = fake_pool.vectors_of
    monkeypatch.setattr(
        fake_pool, "vectors_of", lambda text, dimensions: true(text, dimensions) * (2 if "Sparsity" in text else 1)
    )
    result = execute("embed_shards", replace(options, attempts=1), instance, shards=SHARDS)
    failure = result.failure_data_for_node("embed_metadata")
    assert failure is not None
    assert "3 vectors are not finite or not of unit length" in str(failure.error)
    assert outcomes(instance, FIRST)["embeddings vectors_sound"] is FAILED
    assert "vector_store holds_checkpoint" not in outcomes(instance, FIRST)
    assert outcomes(instance, SECOND)["embeddings vectors_sound"] is PASSED
    assert materialized(instance, "vector_store") == {SECOND}


def test_checks_chosen_alone_look_and_make_nothing(
    options: RunOptions, instance: DagsterInstance, pool: FakePool
) -> None:
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    embedded = list(pool.embedded)
    before = instance.fetch_materializations(AssetKey("embeddings"), limit=100).records
    check = AssetCheckKey(AssetKey("embeddings"), "vectors_sound")
    job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection={check})
    result = job.execute_in_process(
        run_config={"resources": resource_config(options)}, instance=instance, tags={"dagster/partition": FIRST}
    )
    assert result.success
    assert len(instance.event_log_storage.get_asset_check_execution_history(check, 10)) == 3
    assert instance.fetch_materializations(AssetKey("embeddings"), limit=100).records == before
    assert pool.embedded == embedded


@pytest.mark.usefixtures("pool")
def test_another_model_makes_the_embeddings_stale_and_leaves_the_papers_as_they_are(
    options: RunOptions, instance: DagsterInstance, tiny_model: Path, settings: Settings
) -> None:
    def status(model: str, asset: str) -> StaleStatus:
        versions = code_versions_by_default(replace(settings, model=model))
        definitions = Definitions(assets=[metadata_assets(versions)], resources=defs.resources)
        graph = definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return resolver.get_status(AssetKey(asset), FIRST)

    assert execute("embed_shards", options, instance, shards=SHARDS).success
    assert [status(str(tiny_model), asset) for asset in ("papers", "embeddings", "vector_store")] == [
        StaleStatus.FRESH
    ] * 3
    assert status("all-MiniLM-L6-v2", "papers") is StaleStatus.FRESH
    assert status("all-MiniLM-L6-v2", "embeddings") is StaleStatus.STALE


@pytest.mark.usefixtures("pool")
def test_a_shard_costs_dagster_forty_rows_at_most(options: RunOptions, instance: DagsterInstance) -> None:
    result = execute("embed_shards", options, instance, shards=SHARDS)
    rows = instance.event_log_storage.get_logs_for_run(result.run_id)
    of_run = [row for row in rows if row.dagster_event is None or row.dagster_event.partition is None]
    assert (len(rows) - len(of_run)) / len(SHARDS) <= 40 - len(of_run) / 20


def test_the_definitions_are_loaded_without_asking_the_hub(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(name: str, *, local_files_only: bool = False, **others: Any) -> str:
        asked.append(local_files_only)
        raise LocalEntryNotFoundError(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", ask)
    assert code_versions_by_default(replace(settings, model="nobody/nothing")) == {}
    assert asked == [True]
