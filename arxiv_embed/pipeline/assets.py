"""The assets papers → embeddings → vector_store, which share a step: many shards pay for one process and one model.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence

from dagster import (
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    BackfillPolicy,
    Backoff,
    Failure,
    Jitter,
    Output,
    PreviewWarning,
    RetryPolicy,
    multi_asset,
)
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

from arxiv_embed.attempts import STEPS
from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checks import CHECKS
from arxiv_embed.pipeline.io_manager import IN_SPACE
from arxiv_embed.pipeline.partitions import METADATA_FILES, metadata_files
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.work import embed

SHARDS_PER_RUN = 20
"""Loading the model then stays under 2% of a backfill's run."""

POOL = "gpu"
CHECKPOINTS = "checkpoints"
RETRIES = RetryPolicy(max_retries=2, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""For a step whose process is gone; what fails within a step is tried again there."""


def metadata_assets(code_versions: Mapping[str, str]) -> AssetsDefinition:
    """The assets and their checks; an asset whose newest code version is another than here is shown as stale."""

    @multi_asset(
        specs=[
            AssetSpec(
                "papers",
                skippable=True,
                description="Metadata read: papers, and rejects with their reasons.",
                code_version=code_versions.get("papers"),
            ).with_io_manager_key(CHECKPOINTS),
            AssetSpec(
                "embeddings",
                deps=["papers"],
                skippable=True,
                description="Vectors of every paper and of its chunks.",
                metadata={IN_SPACE: True},
                code_version=code_versions.get("embeddings"),
            ).with_io_manager_key(CHECKPOINTS),
            AssetSpec(
                "vector_store",
                deps=["embeddings"],
                skippable=True,
                description="The rows that search reads.",
                code_version=code_versions.get("vector_store"),
            ),
        ],
        check_specs=_check_specs(),
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
        """Each shard's materialization is logged as soon as it is committed, so that partitions turn green one by one;
        at the end the outputs go through the IO manager. Where only checks are chosen, nothing is made."""
        chosen = {key.to_user_string() for key in context.selected_asset_keys}
        checks = context.selected_asset_check_keys
        looked_at = chosen or {check.asset_key.to_user_string() for check in checks}
        assets = [asset for asset in STEPS if asset in looked_at]
        step, shards = context.op_execution_context, _chosen_shards(context)
        shard_log = embed(step, embedding, gpus, lambda run: shards, assets, check_only=not chosen)
        made = [asset for asset in STEPS if asset in chosen]
        for asset in made:
            yield Output(shard_log.manifests[asset] or None, output_name=asset)
        shard_log.tell_again()
        for check in checks:
            yield Output(None, output_name=context.assets_def.get_output_name_for_asset_check_key(check))

    return embedded_metadata


def _chosen_shards(context: AssetExecutionContext) -> Sequence[str]:
    """The partitions of the run; raises `Failure` where none is chosen, or one is not registered."""
    tags = (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
    named = [context.run.tags[tag] for tag in tags if tag in context.run.tags]
    if not named:
        raise Failure(
            f"No partition is chosen: name one with the tag {PARTITION_NAME_TAG}, or launch embed_pending, which finds "
            "what remains.",
            allow_retries=False,
        )
    known = set(context.instance.get_dynamic_partitions(METADATA_FILES))
    for key in named:
        if key not in known:
            raise Failure(
                f"There is no partition '{key}': launch register_metadata, which registers the shards of the metadata "
                "folder, or embed_pending, which does what remains.",
                allow_retries=False,
            )
    chosen: Sequence[str] = context.partition_keys
    return chosen


def _check_specs() -> list[AssetCheckSpec]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreviewWarning)  # of `partitions_def`; its versions are pinned
        return [
            AssetCheckSpec(
                check.name,
                asset=AssetKey(check.asset),
                description=check.description,
                blocking=check.blocking,
                partitions_def=metadata_files,
            )
            for check in CHECKS
        ]
