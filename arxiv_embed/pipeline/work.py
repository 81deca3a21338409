"""The work of a step: shards through their steps, told to Dagster as it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from textwrap import shorten
from typing import Any

from dagster import Failure, MetadataValue, OpExecutionContext

from arxiv_embed.attempts import PASSING, STEPS, Attempts
from arxiv_embed.batch_history import keep_batches
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.errors import ArxivEmbedError, FatalError, sentence
from arxiv_embed.history import FailedShard, refresh_history
from arxiv_embed.journal import Journal
from arxiv_embed.pipeline.connections import keep_connections
from arxiv_embed.pipeline.failures import failed_shards
from arxiv_embed.pipeline.gpu_health import HealthTeller
from arxiv_embed.pipeline.killed import report_killed_runs
from arxiv_embed.pipeline.materializations import linked_report
from arxiv_embed.pipeline.notifications import FAILED
from arxiv_embed.pipeline.reporter import Reporter
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.shard_log import ShardLog
from arxiv_embed.run import Run
from arxiv_embed.settings import Settings, settings_from_environment

REASONS_SHOWN = 5
SHORT_REASON = 200
"""Characters of each reason, where there may be thousands."""

STOPPED_FOR = "arxiv_embed/stopped_for"
"""Tag of a run that was stopped as a whole by what may pass: the error's kind."""


def embed(
    context: OpExecutionContext,
    embedding: EmbeddingResource,
    gpus: GpuResource,
    shards_of: Callable[[Run], Sequence[str]],
    assets: Sequence[str] = tuple(STEPS),
    *,
    finds: bool = False,
    retry: Collection[str] = (),
    check_only: bool = False,
) -> ShardLog:
    """Takes each shard through the steps of the assets, those with urgent papers first: to know them, all are read
    before. `finds` is for a job that finds its shards itself: it tells Dagster what it is going to make, and does not
    try what has failed too often in other runs (but for shards to `retry`), where one whose shards were chosen counts
    its own attempts only. With `check_only` nothing is made, and what there is is looked at.

    One that fails does not stop the others, and raises `Failure` at the end; what every shard would meet stops the run.
    """
    settings = settings_from_environment()
    keep_connections(context.instance)
    reporter = Reporter(context)
    run: Run | None = None
    try:
        reporter.ask(lambda: report_killed_runs(context.instance, settings, reporter.say, but=context.run_id))
        _keep_batches(context, settings)
        options = embedding.options(gpus, settings)
        with (
            HealthTeller(context) as health,
            Run(options, settings, context.run_id, reporter.say, reporter.damaged, health.tell) as run,
        ):
            reporter.on_trouble = partial(run.journal.met, "")
            failures = reporter.ask(lambda: failed_shards(context.instance, run))
            if not finds or options.retry_failed:
                failures = _of_run(failures, context.run_id)
            failures = {**_without(failures, retry), **_of_run(failures, context.run_id)}
            chosen = reporter.ask(lambda: shards_of(run))
            if finds:
                run.keep_fresh_start()
            shards = _start(run, chosen, failures)
            shard_log = ShardLog(run, reporter, context.instance, plans=finds)
            before = {key: failure.attempts for key, failure in failures.items()}
            attempts = Attempts(run, before, shard_log, check_only=check_only)
            if options.priority and "papers" in assets:
                shards = attempts.take(shards, ["papers"])
                assets = [asset for asset in assets if asset != "papers"]
            attempts.take(run.urgent_first(shards), assets)
            if found := run.finish_store():
                shard_log.index_checked(found)
            if finds and {plan.shard.key for plan in run.plan.pending} <= set(chosen):
                run.end_fresh_start()
    except ArxivEmbedError as error:
        if isinstance(error, FatalError) and error.kind in PASSING:
            reporter.tag({STOPPED_FOR: error.kind.value})
        raise Failure(sentence(error), allow_retries=False) from error
    finally:
        if run is not None:
            _keep_history(context, settings, run)
            _keep_batches(context, settings)
            if (run.shards or not run.journal.all_is_done) and not check_only:
                _write_report(context, settings, run)
    _raise_what_is_not_done(run.journal, len(chosen), linked_report(run))
    return shard_log


def _of_run(failures: Mapping[str, FailedShard], run_id: str) -> dict[str, FailedShard]:
    return {key: failure for key, failure in failures.items() if failure.run_id == run_id}


def _without(failures: Mapping[str, FailedShard], keys: Collection[str]) -> dict[str, FailedShard]:
    return {key: failure for key, failure in failures.items() if key not in keys}


def _start(run: Run, chosen: Sequence[str], failures: Mapping[str, FailedShard]) -> list[str]:
    """Begins the run's record; returns the chosen shards that are tried: those that are there and not given up."""
    there = [key for key in chosen if run.plan.has(key)]
    given_up = {key for key in there if key in failures and failures[key].attempts >= run.options.attempts}
    shards = [key for key in there if key not in given_up]
    run.start(shards)
    for key in sorted(given_up):
        run.journal.give_up(key, failures[key].attempts, failures[key].error)
    for key in sorted(set(chosen) - set(there)):
        run.journal.fail(
            key,
            ArxivEmbedError(
                f"There is no shard '{key}' in the metadata folder any more: launch register_metadata with "
                "forget_removed, which takes its partition away."
            ),
        )
    return shards


def _raise_what_is_not_done(journal: Journal, chosen: int, about: Mapping[str, MetadataValue[Any]]) -> None:
    """Raises `Failure` where shards failed or were given up, or others are at work on them, with metadata `about` the
    run."""
    if reasons := {**journal.failed, **journal.given_up}:
        some = "; ".join(list(reasons.values())[:REASONS_SHOWN])
        short = {shard: shorten(reason, SHORT_REASON) for shard, reason in reasons.items()}
        raise Failure(
            f"{len(reasons)} of {chosen} shards failed: {some}", metadata={FAILED: short, **about}, allow_retries=False
        )
    if journal.left:
        raise Failure(
            f"Others are at work on {', '.join(journal.left)}, which are left to them.",
            metadata={"left": journal.left, **about},
        )


def _keep_history(context: OpExecutionContext, settings: Settings, run: Run) -> None:
    """Brings the history document up to date; it can be made again at any time, so that it fails stops nothing."""
    try:
        refresh_history(
            settings,
            store_url=run.options.store,
            checkpoints=CheckpointStore(run.options.checkpoints),
            spaces={space.fingerprint for space in (run.space, *run.plan.held)},
            failed=failed_shards(context.instance, run),
        )
    except Exception as error:  # noqa: BLE001
        context.log.warning(f"The history could not be written ({error}): the next run makes it again.")


def _keep_batches(context: OpExecutionContext, settings: Settings) -> None:
    """Before a run, of those that were killed, and after it; what cannot be kept now is kept by a later run."""
    try:
        keep_batches(settings)
    except Exception as error:  # noqa: BLE001
        context.log.warning(f"The history of batches could not be written ({error}): the next run makes it.")


def _write_report(context: OpExecutionContext, settings: Settings, run: Run) -> None:
    """Leaves the run's report beside its record; `arxiv-embed report` makes it at any time, so that it fails stops
    nothing."""
    try:
        from arxiv_embed.report.writing import write_report  # with matplotlib, which no run waits for at its start

        write_report(settings, run.run_id, run.options.checkpoints)
        context.log.info(f"The run's report: {run.report}")
    except Exception as error:  # noqa: BLE001
        with contextlib.suppress(Exception):  # Dagster's database may be away
            context.log.warning(f"The report could not be written ({error}): `arxiv-embed report` makes it again.")
