"""The assets papers → embeddings → vector_store, which share a step: many shards pay for one process and one model.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

from collections.abc import Iterator, Sequence

from dagster import (
    AssetExecutionContext,
    AssetSpec,
    BackfillPolicy,
    Backoff,
    Failure,
    Jitter,
    OpExecutionContext,
    Output,
    RetryPolicy,
    multi_asset,
)

from arxiv_embed.embed import Run
from arxiv_embed.pipeline.materializations import materialization
from arxiv_embed.pipeline.partitions import metadata_files
from arxiv_embed.pipeline.resources import EmbeddingResource
from arxiv_embed.settings import ArxivEmbedError, FatalError, settings_from_environment

SHARDS_PER_RUN = 20
"""Loading the model then stays under 2% of a backfill's run."""

POOL = "gpu"
RETRIES = RetryPolicy(max_retries=2, delay=2, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
STEPS = ("papers", "embeddings", "vector_store")


@multi_asset(
    specs=[
        AssetSpec("papers", skippable=True, description="Metadata read: papers, and rejects with their reasons."),
        AssetSpec(
            "embeddings", deps=["papers"], skippable=True, description="Vectors of every paper and of its chunks."
        ),
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
def embedded_metadata(context: AssetExecutionContext, embedding: EmbeddingResource) -> Iterator[Output[None]]:
    """Each shard's materialization is logged as soon as it is committed, so nothing is left to hand out at the end."""
    selected = {key.to_user_string() for key in context.selected_asset_keys}
    with opened_run(context.op_execution_context, embedding) as run:
        work_through(context.op_execution_context, run, context.partition_keys, selected)
    yield from ()


def opened_run(context: OpExecutionContext, embedding: EmbeddingResource) -> Run:
    """Raises `Failure` without retries where the run cannot begin."""
    settings = settings_from_environment()
    try:
        return Run(embedding.options(settings), settings, context.run_id)
    except ArxivEmbedError as error:
        raise Failure(str(error), allow_retries=False) from error


def work_through(context: OpExecutionContext, run: Run, shards: Sequence[str], steps: set[str] | None = None) -> None:
    """Takes each shard through the steps; one that fails does not stop the others, and raises `Failure` at the end."""
    try:
        run.start(shards)
        for shard in shards:
            try:
                _work_on(context, run, shard, steps or set(STEPS))
            except FatalError:
                raise
            except Exception as error:  # noqa: BLE001 - recorded, listed, and raised at the end
                context.log.error(f"{shard}: {run.fail(shard, error)}")
    except ArxivEmbedError as error:
        raise Failure(str(error), allow_retries=False) from error
    if run.failed:
        raise Failure(
            f"{len(run.failed)} of {len(shards)} shards failed: {'; '.join(run.failed.values())}",
            metadata={"failed": dict(run.failed)},
        )


def _work_on(context: OpExecutionContext, run: Run, shard: str, steps: set[str]) -> None:
    for name, step in (("papers", run.read), ("embeddings", run.embed), ("vector_store", run.store)):
        if name in steps:
            context.log_event(materialization(step(shard), run))
