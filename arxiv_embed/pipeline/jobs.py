"""The jobs: `embed_shards` over chosen partitions, `embed_pending` over whatever remains."""

from dagster import Config, Failure, JobDefinition, OpExecutionContext, define_asset_job, job, op
from pydantic import Field

from arxiv_embed.attempts import STEPS
from arxiv_embed.errors import ArxivEmbedError, sentence
from arxiv_embed.pipeline.assets import POOL
from arxiv_embed.pipeline.partitions import METADATA_FILES, register_shards
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.work import embed
from arxiv_embed.plan import list_shards_of
from arxiv_embed.run import Run
from arxiv_embed.settings import settings_from_environment

embed_shards = define_asset_job(
    "embed_shards", selection=list(STEPS), description="Embeds the chosen shards of the metadata folder."
)


class Remaining(Config):
    """Of what remains, what is done."""

    retry: list[str] = Field(default=[], description="Shards that were given up before, to be tried again")
    nothing_else: bool = Field(default=False, description="Do these only; False: whatever has work to do")


class Registration(Config):
    """What is done with partitions beside adding those that are new."""

    forget_removed: bool = Field(
        default=False,
        description="Take away the partitions of shards that are not in the folder any more; their papers stay",
    )


def job_of_what_remains(pool: str | None) -> JobDefinition:
    """The job `embed_pending`, whose step waits for a slot of `pool` where one is given."""

    @op(pool=pool)
    def embed_what_remains(
        context: OpExecutionContext, config: Remaining, embedding: EmbeddingResource, gpus: GpuResource
    ) -> None:
        """Finds the shards, registers them as partitions, and does what is missing."""

        wanted = set(config.retry)

        def pending(run: Run) -> list[str]:
            register_shards(context.instance, [plan.shard.key for plan in run.plan.shards])
            keys = [plan.shard.key for plan in run.plan.pending if plan.shard.key in wanted or not config.nothing_else]
            context.log.info(f"{len(keys)} of {len(run.plan.shards)} shards have work to do")
            return keys

        embed(context, embedding, gpus, pending, finds=True, retry=config.retry)

    @job(description="Finds what is new in the metadata folder and embeds it.")
    def embed_pending() -> None:
        embed_what_remains()

    return embed_pending


embed_pending = job_of_what_remains(POOL)


@op
def list_shards(context: OpExecutionContext, config: Registration, embedding: EmbeddingResource) -> None:
    """Lists the metadata folder and registers its shards as partitions."""
    settings = settings_from_environment()
    try:
        listing = list_shards_of(embedding.options(GpuResource(), settings), settings)
    except ArxivEmbedError as error:
        raise Failure(sentence(error), allow_retries=False) from error
    keys = {shard.key for shard in listing.shards}
    new = register_shards(context.instance, keys)
    context.log.info(f"{len(keys)} shards, {new} of them new")
    gone = [key for key in context.instance.get_dynamic_partitions(METADATA_FILES) if key not in keys]
    if not gone:
        return
    if config.forget_removed and not listing.unread:
        for key in gone:
            context.instance.delete_dynamic_partition(METADATA_FILES, key)
        done = "taken away"
    else:
        done = f"kept, as {next(iter(listing.unread))} cannot be read" if listing.unread else "kept"
    context.log.info(f"{len(gone)} partitions have no shard in the folder any more: {done}")


@job(description="Registers the metadata folder's shards, for a backfill to choose from; embeds nothing.")
def register_metadata() -> None:
    list_shards()
