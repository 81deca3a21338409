"""The assets papers → embeddings → vector_store, which share a step: many shards pay for one process and one model.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

from collections.abc import Iterator, Mapping

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetSpec,
    BackfillPolicy,
    Backoff,
    Jitter,
    Output,
    RetryPolicy,
    multi_asset,
)

from arxiv_embed.attempts import STEPS
from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.pipeline.io_manager import IN_SPACE
from arxiv_embed.pipeline.partitions import metadata_files
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.work import embed

SHARDS_PER_RUN = 20
"""Loading the model then stays under 2% of a backfill's run."""

POOL = "gpu"
CHECKPOINTS = "checkpoints"
RETRIES = RetryPolicy(max_retries=2, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""For a step whose process is gone; what fails within a step is tried again there."""


@multi_asset(
    specs=[
        AssetSpec(
            "papers", skippable=True, description="Metadata read: papers, and rejects with their reasons."
        ).with_io_manager_key(CHECKPOINTS),
        AssetSpec(
            "embeddings",
            deps=["papers"],
            skippable=True,
            description="Vectors of every paper and of its chunks.",
            metadata={IN_SPACE: True},
        ).with_io_manager_key(CHECKPOINTS),
        AssetSpec("vector_store", deps=["embeddings"], skippable=True, description="The rows that search reads."),
    ],
    name="embed_metadata",
    group_name="arxiv",
    partitions_def=metadata_files,
    can_subset=True,
    backfill_policy=BackfillPolicy.multi_run(max_partitions_per_run=SHARDS_PER_RUN),
    retry_policy=RETRIES,
    pool=POOL,
)
def embedded_metadata(
    context: AssetExecutionContext, embedding: EmbeddingResource, gpus: GpuResource
) -> Iterator[Output[Mapping[str, Manifest] | None]]:
    """Each shard's materialization is logged as soon as it is committed, so that partitions turn green one by one; at
    the end the outputs go through the IO manager, with the same metadata once more."""
    assets = [asset for asset in STEPS if AssetKey(asset) in context.selected_asset_keys]
    done = embed(context.op_execution_context, embedding, gpus, lambda run: context.partition_keys, assets)
    for asset in assets:
        for shard, metadata in done.metadata[asset].items():
            context.add_asset_metadata(metadata, asset_key=asset, partition_key=shard)
        yield Output(done.manifests[asset] or None, output_name=asset)
