"""A shard log: what Dagster is told of each shard of a step, and what of it was made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dagster import AssetCheckEvaluation, AssetMaterialization, DagsterInstance
from dagster_shared.record import replace

from arxiv_embed.attempts import STEPS, FailedAttempt
from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checks import CHECKS, CheckResult
from arxiv_embed.events import ShardStored
from arxiv_embed.pipeline.failures import ever_failed, observation_of, success_after_failures
from arxiv_embed.pipeline.materializations import (
    checked_materialization,
    evaluation,
    last_evaluation,
    materialization,
)
from arxiv_embed.pipeline.reporter import Reporter
from arxiv_embed.run import Report, Run


class ShardLog:
    """Listens to `Attempts`. `plans` says that Dagster does not know yet what is going to be made; `manifests` are the
    shards' of each asset that was made (the store has none)."""

    def __init__(self, run: Run, reporter: Reporter, instance: DagsterInstance, *, plans: bool) -> None:
        self.manifests: dict[str, dict[str, Manifest]] = {asset: {} for asset in STEPS}
        self._run = run
        self._reporter = reporter
        self._instance = instance
        self._plans = plans
        self._materializations: dict[tuple[str, str], AssetMaterialization] = {}
        self._evaluations: dict[tuple[str, str], list[AssetCheckEvaluation]] = {}
        self._stored: list[str] = []
        self._unchanged: set[str] = set()
        self._ever_failed = reporter.ask(lambda: ever_failed(instance, run))

    def begun(self, shard: str, assets: Sequence[str]) -> None:
        """These assets of a shard are about to be made."""
        if self._plans:
            self._reporter.plan(shard, assets)

    def made(self, report: Report) -> None:
        """A shard has an asset now."""
        event = materialization(report, self._run)
        asset = event.asset_key.to_user_string()
        manifest = self._run.checkpoints.manifest(asset, report.shard)
        if manifest is not None:
            self.manifests[asset][report.shard] = manifest
        if not self._plans:  # of which there are outputs, and few shards
            self._materializations[asset, report.shard] = event
        self._reporter.log(event)
        if isinstance(report, ShardStored):
            self._stored.append(report.shard)
            if not report.rows_written:
                self._unchanged.add(report.shard)
            if report.shard in self._ever_failed:
                self._reporter.log(success_after_failures(report.shard, self._run))

    def checked(self, asset: str, shard: str, results: Sequence[CheckResult]) -> None:
        """What a shard has of an asset was looked at. A check that did not look, as the store's rows are what they
        were, has found what it found before: Dagster forgets that with each materialization."""
        about = self._reporter.ask(lambda: checked_materialization(asset, shard, self._instance))
        space = self._run.space.fingerprint
        evaluations = [evaluation(result, shard, space, about) for result in results]
        looked = {result.check for result in results}
        for check in CHECKS:
            if check.asset == asset and check not in looked and shard in self._unchanged:
                last = self._reporter.ask(partial(last_evaluation, check, shard, space, self._instance))
                evaluations.extend([replace(last, target_materialization_data=about)] if last else [])
        for one in evaluations:
            self._reporter.log(one)
        if (asset, shard) in self._materializations:
            self._evaluations[asset, shard] = evaluations

    def index_checked(self, result: CheckResult) -> None:
        """The store's index was looked at when all was stored, which is said of each shard that is in it."""
        asset, space = result.check.asset, self._run.space.fingerprint
        for shard in self._stored:
            about = self._reporter.ask(partial(checked_materialization, asset, shard, self._instance))
            one = evaluation(result, shard, space, about)
            self._reporter.log(one)
            if (asset, shard) in self._evaluations:
                self._evaluations[asset, shard].append(one)

    def failed(self, attempt: FailedAttempt) -> None:
        """An attempt at a shard has failed."""
        self._ever_failed.add(attempt.shard)
        self._reporter.log(observation_of(attempt, self._run))

    def tell_again(self) -> None:
        """After the outputs were handed over: Dagster has then logged a materialization of each shard, with one data
        version for all of an asset, and counts no check that was about the one before."""
        for (asset, shard), event in self._materializations.items():
            self._reporter.log(event)
            newest = self._reporter.ask(partial(checked_materialization, asset, shard, self._instance))
            for one in self._evaluations[asset, shard]:
                self._reporter.log(replace(one, target_materialization_data=newest))
