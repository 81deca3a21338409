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

from arxiv_embed.pipeline.materializations import Report, materialization
from arxiv_embed.pipeline.partitions import metadata_files
from arxiv_embed.pipeline.resources import EmbeddingResource
from arxiv_embed.run import Run
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
    embed(context.op_execution_context, embedding, lambda run: context.partition_keys, selected)
    yield from ()


def embed(
    context: OpExecutionContext,
    embedding: EmbeddingResource,
    shards_of: Callable[[Run], Sequence[str]],
    steps: Set[str] = frozenset(STEPS),
) -> None:
    """Takes each shard through the steps. One that fails does not stop the others, and raises `Failure` at the end;
    what every shard would meet stops the run, and is not retried."""
    settings = settings_from_environment()
    try:
        with Run(embedding.options(settings), settings, context.run_id) as run:
            shards = shards_of(run)
            run.start(shards)
            for shard in shards:
                try:
                    _work_on(context, run, shard, steps)
                except FatalError:
                    raise
                except Exception as error:  # listed, and raised at the end
                    context.log.error(f"{shard}: {run.fail(shard, error)}", exc_info=error)
    except ArxivEmbedError as error:
        raise Failure(str(error), allow_retries=False) from error
    if run.failed:
        raise Failure(
            f"{len(run.failed)} of {len(shards)} shards failed: {'; '.join(run.failed.values())}",
            metadata={"failed": dict(run.failed)},
        )


def _work_on(context: OpExecutionContext, run: Run, shard: str, steps: Set[str]) -> None:
    does: tuple[Callable[[str], Report], ...] = (run.read, run.embed, run.store)
    for name, step in zip(STEPS, does, strict=True):
        if name in steps:
            context.log_event(materialization(step(shard), run))
