"""Housekeeping: what is done each night where its schedule is turned on, a job of one step for each.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

from datetime import UTC, datetime, timedelta
from functools import partial

from dagster import Failure, OpExecutionContext, ScheduleDefinition, in_process_executor, job, op

from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.checkpoint.quarantine import NEWEST_WHOLE, Damage
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.checks import CHECKSUM, CheckResult
from arxiv_embed.errors import ArxivEmbedError, sentence
from arxiv_embed.history import history_path, load_history
from arxiv_embed.pipeline.materializations import checked_materialization, evaluation
from arxiv_embed.pipeline.notifications import FAILED
from arxiv_embed.pipeline.pruning import (
    give_back_space,
    old_runs,
    prune_run,
    purge_ticks,
    remove_records,
    remove_superseded,
)
from arxiv_embed.pipeline.reporter import Reporter
from arxiv_embed.pipeline.resources import EmbeddingResource
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.stores.protocol import StoreError, open_store

NAMED = 5


@op
def read_all_checkpoints(context: OpExecutionContext, embedding: EmbeddingResource) -> None:
    """Reads every byte of all generations, segments and the history. What is damaged is set aside, as a run that meets
    it does, so that its backup is used; it is an observation of its asset (and a failed check of embeddings, unless it
    was but their backup), and the run fails, so that it is seen."""
    settings = settings_from_environment()
    reporter = Reporter(context)
    damages: list[Damage] = []

    def note(damage: Damage) -> None:
        damages.append(damage)
        reporter.say(str(damage))
        if damage.asset:
            reporter.damaged(damage)
        if damage.asset == CHECKSUM.asset and damage.remedy != NEWEST_WHOLE:
            newest = reporter.ask(lambda: checked_materialization(damage.asset, damage.shard, context.instance))
            failed = CheckResult(CHECKSUM, f"{damage.file} is damaged: {damage.reason}")
            reporter.log(evaluation(failed, damage.shard, damage.space, newest))

    items = read = 0
    try:
        for item in CheckpointStore(embedding.checkpoints(settings), note).verify(repair=True):
            items, read = items + 1, read + item.bytes
        load_history(history_path(settings, embedding.store or settings.store), note)
    except ArxivEmbedError as error:
        raise Failure(sentence(error), allow_retries=False) from error
    context.add_output_metadata({"checkpoints": items, "bytes": read})
    if damages:
        raise Failure(_damaged(damages), metadata={FAILED: _reasons(damages)}, allow_retries=False)


def _damaged(damages: list[Damage]) -> str:
    names = list(dict.fromkeys(damage.checkpoint for damage in damages))
    some = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return f"Damaged, and set aside: {some}. `embed_pending` does again what has no backup."


def _reasons(damages: list[Damage]) -> dict[str, str]:
    """By shard."""
    return {damage.shard: f"{damage.file}: {damage.reason}" for damage in damages if damage.shard}


@op
def optimize_store(context: OpExecutionContext, embedding: EmbeddingResource) -> None:
    """Joins the store's small files, forgets its old versions and brings its indexes up to date. A store that a run is
    writing to is left alone."""
    settings = settings_from_environment()
    try:
        store = open_store(embedding.store or settings.store)
    except StoreError as error:
        context.log.warning(sentence(error))
        return
    try:
        with store:
            for space in store.spaces():
                store.finish(space)
            counts = [store.count(space.fingerprint) for space in store.spaces()]
    except Locked as refusal:
        context.log.info(f"Nothing is done, as there is a run: {refusal}")
        return
    except ArxivEmbedError as error:
        raise Failure(sentence(error), allow_retries=False) from error
    context.add_output_metadata(
        {"papers": sum(papers for papers, _ in counts), "rows": sum(rows for _, rows in counts)}
    )


@op
def prune_old_records(context: OpExecutionContext) -> None:
    """Removes what is kept of runs, ticks and logs that are older than ARXIV_EMBED_KEEP_DAYS, but for what says how
    partitions and attempts stand."""
    settings, instance, reporter = settings_from_environment(), context.instance, Reporter(context)
    before = datetime.now(UTC) - timedelta(days=settings.keep_days)
    try:
        runs = reporter.ask(lambda: old_runs(instance, before))
        superseded = reporter.ask(lambda: remove_superseded(instance, runs, before))
        removed = [reporter.ask(partial(prune_run, instance, run)) for run in runs]
        reporter.ask(lambda: purge_ticks(instance, before))
        if superseded or any(one.rows or one.whole for one in removed):
            reporter.ask(lambda: give_back_space(instance))
        records = remove_records(settings, before)
    except ArxivEmbedError as error:
        raise Failure(sentence(error), allow_retries=False) from error
    numbers = {
        "runs deleted": sum(one.whole for one in removed),
        "superseded events": superseded,
        "lines": sum(one.rows for one in removed),
        "records of runs": records,
    }
    context.add_output_metadata(numbers)


@job(executor_def=in_process_executor, description="Reads every byte of all checkpoints; fails where one is damaged.")
def verify_checkpoints() -> None:
    read_all_checkpoints()


@job(executor_def=in_process_executor, description="Compacts the vector store and brings its indexes up to date.")
def tend_store() -> None:
    optimize_store()


@job(executor_def=in_process_executor, description="Removes the records of old runs, but for what is of use.")
def prune_records() -> None:
    prune_old_records()


schedules = [
    ScheduleDefinition(name="verify_checkpoints", job=verify_checkpoints, cron_schedule="0 2 * * *"),
    ScheduleDefinition(name="tend_store", job=tend_store, cron_schedule="0 4 * * *"),
    ScheduleDefinition(name="prune_records", job=prune_records, cron_schedule="0 5 * * *"),
]
"""Stopped until somebody turns them on; the times are UTC."""
