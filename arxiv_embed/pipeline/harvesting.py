"""Harvesting: the job that takes new metadata from arXiv, and the schedule that runs it every night.

Dagster reads the annotations of `context` and `config` as objects, so they are not postponed here.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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

from arxiv_embed.error_patterns import kind_of
from arxiv_embed.errors import ArxivEmbedError, Kind, masked, sentence
from arxiv_embed.harvest.harvest import harvest as harvest_records
from arxiv_embed.harvest.progress import Harvested, Progress
from arxiv_embed.harvest.request import HarvestRequest, harvests_begun
from arxiv_embed.harvest.source import Source
from arxiv_embed.settings import Settings, settings_from_environment

EVERY_NIGHT = "0 6 * * *"
"""UTC: arXiv announces at 20:00 in New York, which is 00:00 or 01:00, and its metadata follow within some hours."""

RETRIES = RetryPolicy(max_retries=2, delay=600, backoff=Backoff.EXPONENTIAL, jitter=Jitter.PLUS_MINUS)
"""For a repository that does not answer for now; what came is saved."""


class HarvestConfig(Config):
    """What is harvested, and where to; with neither `set` nor `since`, every set that was harvested there before."""

    set: str | None = Field(
        default=None,
        description="A part of arXiv: cs, math, physics:hep-th; by default every one that was harvested before, or, "
        "with `since`, all of arXiv",
    )
    since: str | None = Field(
        default=None, description="First day of change, YYYY-MM-DD; by default where the last complete harvest ended"
    )
    metadata_dir: str | None = Field(
        default=None, description="Folder of arXiv metadata; by default the environment's ARXIV_EMBED_METADATA_DIR"
    )


@op(retry_policy=RETRIES)
def harvest_new_records(context: OpExecutionContext, config: HarvestConfig) -> None:
    """Goes on with the harvests of the sets, one after the other, and writes dated files into the metadata folder.

    A set that fails keeps no other from its turn; the op fails at the end, with each reason.
    """
    settings = settings_from_environment()
    began = time.monotonic()
    done: dict[str, Harvested] = {}
    failed: dict[str, Exception] = {}

    def page(progress: Progress) -> None:
        context.log.info(f"page {len(progress.pages)}: {progress.records:,} records, {progress.deleted:,} deleted")

    def waiting(seconds: float, why: str) -> None:
        context.log.info(f"waiting {seconds:.0f} s: {why}")

    try:
        requests = _requests(config, settings)
        with Source(settings.oai_url, waiting=waiting) as source:
            for request in requests:
                try:
                    harvested = harvest_records(request, source, settings.home, page=page, note=context.log.info)
                except Exception as error:
                    known = isinstance(error, ArxivEmbedError)
                    context.log.error(f"{request}: {sentence(error)}", exc_info=None if known else error)
                    failed[str(request)] = error
                else:
                    done[str(request)] = harvested
                    context.log.info(f"{request}: {_said(harvested)}")
    except ArxivEmbedError as error:
        raise Failure(sentence(error), allow_retries=error.kind is Kind.TRANSIENT) from error
    metadata = _metadata(done, time.monotonic() - began)
    reasons = [f"{name}: {sentence(error)}" for name, error in failed.items()]
    reasons += [
        f"{name}: The list ended before its {harvested.announced:,} records: run again with the same set and "
        f"since={harvested.since}."
        for name, harvested in done.items()
        if harvested.announced
    ]
    if reasons:
        passing = any(kind_of(error) is Kind.TRANSIENT for error in failed.values())
        raise Failure("\n".join(reasons), metadata=metadata, allow_retries=passing)
    context.add_output_metadata(metadata)


def _requests(config: HarvestConfig, settings: Settings) -> list[HarvestRequest]:
    """Raises `ArxivEmbedError` where there is nothing to go on with."""
    folder = Path(config.metadata_dir).expanduser().absolute() if config.metadata_dir else settings.metadata_dir
    if folder is None:
        raise ArxivEmbedError("No metadata folder is named: set ARXIV_EMBED_METADATA_DIR, or the op's metadata_dir.")
    if config.set is not None or config.since is not None:
        return [HarvestRequest(folder, config.set, config.since)]
    begun = harvests_begun(folder, settings.oai_url, settings.home)
    if not begun:
        raise ArxivEmbedError(
            f"No harvest into {folder} from {masked(settings.oai_url)} is complete or under way, so there is none to "
            f"go on with: run `arxiv-embed harvest --since DATE [--set SET] --metadata-dir {folder}` once."
        )
    return begun


@job(description="Harvests new and changed records from arXiv into the metadata folder, of every set harvested before.")
def harvest() -> None:
    harvest_new_records()


harvest_metadata = ScheduleDefinition(
    name="harvest_metadata",
    job=harvest,
    cron_schedule=EVERY_NIGHT,
    execution_timezone="UTC",
    default_status=DefaultScheduleStatus.STOPPED,
    description="Harvests what is new at arXiv, every night, of every set that was harvested into the metadata folder "
    "before; begin with `arxiv-embed harvest --since DATE [--set SET]`.",
)


def _said(harvested: Harvested) -> str:
    deleted, files = len(harvested.deleted), len(harvested.files)
    return f"{harvested.records:,} records, {deleted:,} of them deleted, in {files} files"


def _metadata(done: Mapping[str, Harvested], seconds: float) -> dict[str, Any]:
    """What Dagster shows of the harvests, each by what it was of: the sums, and a table of the sets."""
    sets = [
        TableRecord(
            {
                "set": name,
                "since": one.since,
                "through": one.through,
                "records": one.records,
                "deleted": len(one.deleted),
                "pages": one.pages,
            }
        )
        for name, one in done.items()
    ]
    deleted = [
        TableRecord({"id": record.id, "datestamp": record.datestamp}) for one in done.values() for record in one.deleted
    ]
    files = [
        TableRecord({"file": file, "records": number}) for one in done.values() for file, number in one.files.items()
    ]
    return {
        "records": sum(one.records for one in done.values()),
        "pages": sum(one.pages for one in done.values()),
        "seconds": round(seconds, 1),
        "deleted": len(deleted),
        "sets": Value.table(
            sets, _schema(set="string", since="string", through="string", records="int", deleted="int", pages="int")
        ),
        "deleted records": Value.table(deleted, _schema(id="string", datestamp="string")),
        "files": Value.table(files, _schema(file="string", records="int")),
    }


def _schema(**columns: str) -> TableSchema:
    return TableSchema(columns=[TableColumn(name, type) for name, type in columns.items()])
