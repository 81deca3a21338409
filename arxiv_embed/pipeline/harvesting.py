"""Harvesting: the job that takes new metadata from arXiv, and the schedule that runs it every night.

Dagster reads the annotations of `context` and `config` as objects, so they are not postponed here.
"""

import time
from pathlib import Path

from dagster import (
    Backoff,
    Config,
    DefaultScheduleStatus,
    Failure,
    Jitter,
    OpExecutionContext,
    RetryPolicy,
    ScheduleDefinition,
    TableColumn,
    TableRecord,
    TableSchema,
    job,
    op,
)
from dagster import MetadataValue as Value
from pydantic import Field

from arxiv_embed.errors import ArxivEmbedError, Kind, sentence
from arxiv_embed.harvest.harvest import HarvestRequest
from arxiv_embed.harvest.harvest import harvest as harvest_records
from arxiv_embed.harvest.progress import Harvested, Progress
from arxiv_embed.harvest.source import Source
from arxiv_embed.settings import settings_from_environment

EVERY_NIGHT = "0 6 * * *"
"""UTC: arXiv announces at 20:00 in New York, which is 00:00 or 01:00, and its metadata follow within some hours."""

RETRIES = RetryPolicy(max_retries=2, delay=600, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""For a repository that does not answer for now; what came is saved."""


class HarvestConfig(Config):
    """What is harvested, and where to."""

    set: str | None = Field(default=None, description="A part of arXiv: cs, math, physics:hep-th; by default all")
    since: str | None = Field(
        default=None, description="First day of change, YYYY-MM-DD; by default where the last complete harvest ended"
    )
    metadata_dir: str | None = Field(
        default=None, description="Folder of arXiv metadata; by default the environment's ARXIV_EMBED_METADATA_DIR"
    )


@op(retry_policy=RETRIES)
def harvest_new_records(context: OpExecutionContext, config: HarvestConfig) -> None:
    """Goes on with the harvest that is under way, or begins one, and writes dated files into the metadata folder."""
    settings = settings_from_environment()
    began = time.monotonic()

    def page(progress: Progress) -> None:
        context.log.info(f"page {len(progress.pages)}: {progress.records:,} records, {progress.deleted:,} deleted")

    def waiting(seconds: float, why: str) -> None:
        context.log.info(f"waiting {seconds:.0f} s: {why}")

    try:
        folder = Path(config.metadata_dir).expanduser().absolute() if config.metadata_dir else settings.metadata_dir
        if folder is None:
            raise ArxivEmbedError(
                "No metadata folder is named: set ARXIV_EMBED_METADATA_DIR, or the op's metadata_dir."
            )
        request = HarvestRequest(folder, config.set, config.since)
        with Source(settings.oai_url, waiting=waiting) as source:
            harvested = harvest_records(request, source, settings.home, page=page, note=context.log.info)
    except ArxivEmbedError as error:
        raise Failure(sentence(error), allow_retries=error.kind is Kind.TRANSIENT) from error
    deleted, files = len(harvested.deleted), len(harvested.files)
    context.log.info(f"{harvested.records:,} records, {deleted:,} of them deleted, in {files} files")
    context.add_output_metadata(_metadata(harvested, time.monotonic() - began))
    if harvested.announced:
        raise Failure(
            f"The list ended before its {harvested.announced:,} records: run again with since={harvested.since}.",
            allow_retries=False,
        )


@job(description="Harvests new and changed records from arXiv into the metadata folder.")
def harvest() -> None:
    harvest_new_records()


harvest_metadata = ScheduleDefinition(
    name="harvest_metadata",
    job=harvest,
    cron_schedule=EVERY_NIGHT,
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.STOPPED,
    description="Harvests what is new at arXiv, every night; the first harvest needs `since`, from the launchpad.",
)


def _metadata(harvested: Harvested, seconds: float) -> dict[str, object]:
    """What Dagster shows of a harvest; durations in seconds."""
    deleted = [TableRecord({"id": record.id, "datestamp": record.datestamp}) for record in harvested.deleted]
    files = [TableRecord({"file": file, "records": records}) for file, records in harvested.files.items()]
    return {
        "since": harvested.since,
        "through": harvested.through,
        "records": harvested.records,
        "pages": harvested.pages,
        "seconds": round(seconds, 1),
        "deleted": len(harvested.deleted),
        "deleted records": Value.table(deleted, _schema(id="string", datestamp="string")),
        "files": Value.table(files, _schema(file="string", records="int")),
    }


def _schema(**columns: str) -> TableSchema:
    return TableSchema(columns=[TableColumn(name, type) for name, type in columns.items()])
