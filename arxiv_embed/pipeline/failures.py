"""Failures: how often each shard has failed, by Dagster's own records.

Each attempt that fails is an observation of the asset that was to be made, with its number; so is the success after it.
The newest says how often a shard has failed, in one space, from one state of its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from dagster import AssetKey, AssetObservation, DagsterInstance, EventLogRecord

from arxiv_embed.attempts import STEPS, FailedAttempt
from arxiv_embed.errors import sentence
from arxiv_embed.history import FailedShard
from arxiv_embed.run import Run

ATTEMPT, ERROR, KIND, SPACE, SOURCE = "failed attempt", "error", "kind", "space", "source"
AT_ONCE = 500


def observation_of(failure: FailedAttempt, run: Run) -> AssetObservation:
    """What Dagster keeps of an attempt that failed."""
    metadata = {ERROR: sentence(failure.error), KIND: failure.kind.value}
    return _observation(failure.asset, failure.shard, failure.attempt, run, metadata)


def success_after_failures(shard: str, run: Run) -> AssetObservation:
    """What ends the count of a shard's failures."""
    return _observation("vector_store", shard, 0, run, {})


def failed_shards(instance: DagsterInstance, run: Run) -> dict[str, FailedShard]:
    """Every shard of the run's plan that has failed since it last went through, its source being as it was then."""
    sources = {plan.shard.key: plan.shard.signature for plan in run.plan.shards}
    found: dict[str, FailedShard] = {}
    seen: set[str] = set()
    for record in _newest_first(instance):
        shard = record.partition_key or ""
        metadata = _metadata(record)
        if shard in seen or metadata[SPACE] != run.space.fingerprint:
            continue
        seen.add(shard)
        if metadata[ATTEMPT] and metadata[SOURCE] == sources.get(shard):
            found[shard] = FailedShard(
                error=metadata[ERROR],
                kind=metadata[KIND],
                attempts=metadata[ATTEMPT],
                last=datetime.fromtimestamp(record.timestamp, UTC).isoformat(timespec="seconds"),
                run_id=record.run_id,
                signature=metadata[SOURCE],
                given_up=metadata[ATTEMPT] >= run.options.attempts,
            )
    return found


def _observation(asset: str, shard: str, attempt: int, run: Run, metadata: Mapping[str, str]) -> AssetObservation:
    about: dict[str, Any] = {ATTEMPT: attempt, SPACE: run.space.fingerprint, SOURCE: run.plan.of(shard).shard.signature}
    return AssetObservation(asset_key=asset, partition=shard, metadata={**about, **metadata})


def _newest_first(instance: DagsterInstance) -> Iterator[EventLogRecord]:
    """The observations that are of attempts."""
    found: list[EventLogRecord] = []
    for asset in STEPS:
        cursor, has_more = None, True
        while has_more:
            page = instance.fetch_observations(AssetKey(asset), limit=AT_ONCE, cursor=cursor)
            found.extend(record for record in page.records if ATTEMPT in _metadata(record))
            cursor, has_more = page.cursor, page.has_more
    return iter(sorted(found, key=lambda record: record.storage_id, reverse=True))


def _metadata(record: EventLogRecord) -> dict[str, Any]:
    observation = record.asset_observation
    return {} if observation is None else {name: value.value for name, value in observation.metadata.items()}
