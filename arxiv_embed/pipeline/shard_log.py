"""A shard log: what Dagster is told of each shard of a step, and what of it was made."""

from __future__ import annotations

from collections.abc import Sequence

from dagster import AssetMaterialization, DagsterInstance

from arxiv_embed.attempts import STEPS, FailedAttempt
from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checks import CheckResult
from arxiv_embed.events import ShardStored
from arxiv_embed.pipeline.failures import ever_failed, observation_of, success_after_failures
from arxiv_embed.pipeline.materializations import checked_materialization, evaluation, materialization
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
        self._events: list[AssetMaterialization] = []
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
        self._events.append(event)
        self._reporter.log(event)
        if isinstance(report, ShardStored) and report.shard in self._ever_failed:
            self._reporter.log(success_after_failures(report.shard, self._run))

    def checked(self, asset: str, shard: str, results: Sequence[CheckResult]) -> None:
        """What a shard has of an asset was looked at."""
        about = self._reporter.ask(lambda: checked_materialization(asset, shard, self._instance))
        for result in results:
            self._reporter.log(evaluation(result, shard, about))

    def failed(self, attempt: FailedAttempt) -> None:
        """An attempt at a shard has failed."""
        self._ever_failed.add(attempt.shard)
        self._reporter.log(observation_of(attempt, self._run))

    def tell_again(self) -> None:
        """After the outputs were handed over: Dagster has then logged one data version for all shards of an asset."""
        for event in self._events:
            self._reporter.log(event)
