"""Runs of the jobs within a test: the project's own definitions against an instance of the test's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import AssetKey, AssetRecordsFilter, DagsterInstance, ExecuteInProcessResult

from arxiv_embed.definitions import defs
from arxiv_embed.pipeline.resources import resource_config
from arxiv_embed.settings import RunOptions, Settings

SHARDS = ["first.jsonl", "second.jsonl"]
"""What the fixture `small_folder` holds."""


def options_for(folder: Path, model: Path, settings: Settings) -> RunOptions:
    return RunOptions(
        metadata_dir=folder,
        store=settings.store,
        checkpoints=settings.checkpoints,
        model=str(model),
        devices="cpu:1",
        dtype="float32",
    )


def execute(
    job: str,
    options: RunOptions,
    instance: DagsterInstance,
    *,
    shards: Sequence[str] = (),
    assets: Sequence[str] | None = None,
) -> ExecuteInProcessResult:
    """Runs a job in this process over a range of shards; a failure is a result, not an exception."""
    tags = {}
    if shards:
        tags = {
            "dagster/asset_partition_range_start": shards[0],
            "dagster/asset_partition_range_end": shards[-1],
        }
    return defs.resolve_job_def(job).execute_in_process(
        run_config={"resources": resource_config(options)},
        instance=instance,
        tags=tags,
        asset_selection=[AssetKey(name) for name in assets] if assets else None,
        raise_on_error=False,
    )


def materialized(instance: DagsterInstance, asset: str) -> set[str]:
    return instance.get_materialized_partitions(AssetKey(asset))


def latest_metadata(instance: DagsterInstance, asset: str, shard: str) -> Mapping[str, Any]:
    """The metadata of an asset's newest materialization for a shard, as plain values."""
    of_shard = AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=[shard])
    [record] = instance.fetch_materializations(of_shard, limit=1).records
    materialization = record.asset_materialization
    assert materialization is not None
    return {name: value.value for name, value in materialization.metadata.items()}
