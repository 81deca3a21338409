"""The work of a step: shards through their steps, told to Dagster as it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from dagster import Failure, OpExecutionContext
from dagster._core.definitions.metadata import RawMetadataMapping

from arxiv_embed.attempts import STEPS, Attempts, FailedAttempt
from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.errors import ArxivEmbedError, sentence
from arxiv_embed.events import ShardStored
from arxiv_embed.history import refresh_history
from arxiv_embed.pipeline.failures import failed_shards, observation_of, success_after_failures
from arxiv_embed.pipeline.killed import report_killed_runs
from arxiv_embed.pipeline.materializations import materialization
from arxiv_embed.pipeline.reporter import Reporter
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.plan import no_shard
from arxiv_embed.run import Report, Run
from arxiv_embed.settings import Settings, settings_from_environment

REASONS_SHOWN = 5


@dataclass
class Done:
    """What a step has made: of each asset the shards' manifests (the store has none), and what Dagster was told."""

    manifests: dict[str, dict[str, Manifest]] = field(default_factory=lambda: {asset: {} for asset in STEPS})
    metadata: dict[str, dict[str, RawMetadataMapping]] = field(default_factory=lambda: {asset: {} for asset in STEPS})

    def take(self, report: Report, reporter: Reporter, run: Run) -> None:
        """Tells Dagster of a shard that an asset has now."""
        event = materialization(report, run)
        asset = event.asset_key.to_user_string()
        manifest = run.manifest(asset, report.shard)
        if manifest is not None:
            self.manifests[asset][report.shard] = manifest
        self.metadata[asset][report.shard] = event.metadata
        reporter.log(event)


def embed(
    context: OpExecutionContext,
    embedding: EmbeddingResource,
    gpus: GpuResource,
    shards_of: Callable[[Run], Sequence[str]],
    assets: Sequence[str] = tuple(STEPS),
    *,
    finds: bool = False,
) -> Done:
    """Takes each shard through the steps of the assets, those with urgent papers first: to know them, all are read
    before. `finds` is for a job that finds its shards itself: it tells Dagster what it is going to make, and does not
    try what has failed too often in other runs, where one whose shards were chosen counts its own attempts only.

    One that fails does not stop the others, and raises `Failure` at the end; what every shard would meet stops the run.
    """
    settings = settings_from_environment()
    reporter = Reporter(context)
    run: Run | None = None
    try:
        reporter.ask(lambda: report_killed_runs(context.instance, settings, reporter.say, but=context.run_id))
        options = embedding.options(gpus, settings)
        with Run(options, settings, context.run_id, reporter.say, reporter.damaged) as run:
            reporter.on_trouble = partial(run.journal.met, "")
            failed = reporter.ask(lambda: failed_shards(context.instance, run))
            counts = finds and not options.retry_failed
            before = {key: f.attempts for key, f in failed.items() if counts or f.run_id == context.run_id}
            chosen = reporter.ask(lambda: shards_of(run))
            there = [key for key in chosen if run.plan.has(key)]
            shards = [key for key in there if before.get(key, 0) < options.attempts]
            if finds:
                run.keep_fresh_start()
            run.start(shards)
            for key in sorted(set(there) - set(shards)):
                run.journal.give_up(key, before[key], failed[key].error)
            for key in sorted(set(chosen) - set(there)):
                run.journal.fail(key, no_shard(key))
            done = Done()
            ever_failed = set(failed)

            def take(report: Report) -> None:
                done.take(report, reporter, run)
                if isinstance(report, ShardStored) and report.shard in ever_failed:
                    reporter.log(success_after_failures(report.shard, run))

            def note(attempt: FailedAttempt) -> None:
                ever_failed.add(attempt.shard)
                reporter.log(observation_of(attempt, run))

            begin = reporter.plan if finds else lambda shard, assets: None
            attempts = Attempts(run, before, begin, report=take, failed=note)
            if options.priority and "papers" in assets:
                shards = attempts.take(shards, ["papers"])
                assets = [asset for asset in assets if asset != "papers"]
            attempts.take(run.urgent_first(shards), assets)
            if finds:
                run.end_fresh_start()
    except ArxivEmbedError as error:
        raise Failure(sentence(error), allow_retries=False) from error
    finally:
        if run is not None:
            _keep_history(context, settings, run)
    if run.journal.failed or run.journal.given_up:
        reasons = {**run.journal.failed, **run.journal.given_up}
        some = "; ".join(list(reasons.values())[:REASONS_SHOWN])
        raise Failure(
            f"{len(reasons)} of {len(chosen)} shards failed: {some}", metadata={"failed": reasons}, allow_retries=False
        )
    if run.journal.left:
        raise Failure(
            f"Others are at work on {', '.join(run.journal.left)}, which are left to them.",
            metadata={"left": run.journal.left},
        )
    return done


def _keep_history(context: OpExecutionContext, settings: Settings, run: Run) -> None:
    """Brings the history document up to date; it can be made again at any time, so that it fails stops nothing."""
    try:
        refresh_history(
            settings,
            store_url=run.options.store,
            checkpoints=CheckpointStore(run.options.checkpoints),
            space=run.space.fingerprint,
            failed=failed_shards(context.instance, run),
        )
    except Exception as error:  # noqa: BLE001
        context.log.warning(f"The history could not be written ({error}): the next run makes it again.")
