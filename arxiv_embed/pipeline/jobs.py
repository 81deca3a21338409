"""The jobs: `embed_shards` over chosen partitions, `embed_pending` over whatever remains."""

from dagster import Config, JobDefinition, OpExecutionContext, define_asset_job, job, op
from pydantic import Field

from arxiv_embed.attempts import STEPS
from arxiv_embed.pipeline.assets import POOL
from arxiv_embed.pipeline.partitions import register_shards
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.work import embed
from arxiv_embed.plan import list_shards_of
from arxiv_embed.run import Run
from arxiv_embed.settings import settings_from_environment

embed_shards = define_asset_job(
    "embed_shards", selection=list(STEPS), description="Embeds the chosen shards of the metadata folder."
)


class Retry(Config):
    """What is done beside what is missing."""

    retry: list[str] = Field(default=[], description="Shards that were given up before, to be tried again")


def job_of_what_remains(pool: str | None) -> JobDefinition:
    """The job `embed_pending`, whose step waits for a slot of `pool` where one is given."""

    @op(pool=pool)
    def embed_what_remains(
        context: OpExecutionContext, config: Retry, embedding: EmbeddingResource, gpus: GpuResource
    ) -> None:
        """Finds the shards, registers them as partitions, and does what is missing."""

        def pending(run: Run) -> list[str]:
            register_shards(context.instance, [plan.shard.key for plan in run.plan.shards])
            keys = [plan.shard.key for plan in run.plan.pending]
            context.log.info(f"{len(keys)} of {len(run.plan.shards)} shards have work to do")
            return keys

        embed(context, embedding, gpus, pending, finds=True, retry=config.retry)

    @job(description="Finds what is new in the metadata folder and embeds it.")
    def embed_pending() -> None:
        embed_what_remains()

    return embed_pending


embed_pending = job_of_what_remains(POOL)


@op
def list_shards(context: OpExecutionContext, embedding: EmbeddingResource) -> None:
    """Lists the metadata folder and registers its shards as partitions."""
    settings = settings_from_environment()
    listing = list_shards_of(embedding.options(GpuResource(), settings), settings)
    new = register_shards(context.instance, [shard.key for shard in listing.shards])
    context.log.info(f"{len(listing.shards)} shards, {new} of them new")


@job(description="Registers the metadata folder's shards, for a backfill to choose from; embeds nothing.")
def register_metadata() -> None:
    list_shards()
