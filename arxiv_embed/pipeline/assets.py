"""The assets papers → embeddings → vector_store, which share a step: many shards pay for one process and one model.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

from collections.abc import Callable, Iterator, Sequence, Set

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

from arxiv_embed.errors import ArxivEmbedError, FatalError
from arxiv_embed.pipeline.materializations import Report, materialization
from arxiv_embed.pipeline.partitions import metadata_files
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.run import Run
from arxiv_embed.settings import settings_from_environment

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
def embedded_metadata(
    context: AssetExecutionContext, embedding: EmbeddingResource, gpus: GpuResource
) -> Iterator[Output[None]]:
    """Each shard's materialization is logged as soon as it is committed, so nothing is left to hand out at the end."""
    selected = {key.to_user_string() for key in context.selected_asset_keys}
    embed(context.op_execution_context, embedding, gpus, lambda run: context.partition_keys, selected)
    yield from ()


def embed(
    context: OpExecutionContext,
    embedding: EmbeddingResource,
    gpus: GpuResource,
    shards_of: Callable[[Run], Sequence[str]],
    steps: Set[str] = frozenset(STEPS),
) -> None:
    """Takes each shard through the steps, those with urgent papers first: to know them, all are read before. One that
    fails does not stop the others, and raises `Failure` at the end; what every shard would meet stops the run, and is
    not retried."""
    settings = settings_from_environment()
    try:
        with Run(embedding.options(gpus, settings), settings, context.run_id, context.log.info) as run:
            shards = shards_of(run)
            run.start(shards)
            order = shards
            if run.options.priority:
                read, steps = steps & {"papers"}, steps - {"papers"}
                order = run.urgent_first([shard for shard in shards if _goes_through(context, run, shard, read)])
            for shard in order:
                _goes_through(context, run, shard, steps)
    except ArxivEmbedError as error:
        raise Failure(str(error), allow_retries=False) from error
    if run.failed:
        raise Failure(
            f"{len(run.failed)} of {len(shards)} shards failed: {'; '.join(run.failed.values())}",
            metadata={"failed": dict(run.failed)},
        )


def _goes_through(context: OpExecutionContext, run: Run, shard: str, steps: Set[str]) -> bool:
    """Whether the shard has gone through the steps; one that fails is listed, and raised at the end."""
    does: tuple[Callable[[str], Report], ...] = (run.read, run.embed, run.store)
    try:
        for name, step in zip(STEPS, does, strict=True):
            if name in steps:
                context.log_event(materialization(step(shard), run))
    except FatalError:
        raise
    except Exception as error:  # listed, and raised at the end
        context.log.error(f"{shard}: {run.fail(shard, error)}", exc_info=error)
        return False
    return True
