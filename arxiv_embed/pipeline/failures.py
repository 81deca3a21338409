"""Failures: how often each shard has failed, by Dagster's own records.

Each attempt that fails is an observation of the asset that was to be made, with its number; so is the success after it.
The newest says how often a shard has failed, in one space, from one state of its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dagster import AssetKey, AssetObservation, DagsterInstance, EventLogRecord

from arxiv_embed.attempts import STEPS, FailedAttempt
from arxiv_embed.errors import Kind, sentence
from arxiv_embed.history import FailedShard
from arxiv_embed.run import Run

ATTEMPT, ERROR, KIND, SPACE, SOURCE = "failed attempt", "error", "kind", "space", "source"
AT_ONCE = 500


@dataclass(frozen=True)
class RecordedFailure:
    """A shard's newest attempt in a space, which failed: from the source of that `signature`, at `time` (seconds since
    the epoch), after so many `attempts`."""

    shard: str
    space: str
    signature: str
    error: str
    kind: Kind
    attempts: int
    time: float
    run_id: str


def observation_of(failure: FailedAttempt, run: Run) -> AssetObservation:
    """What Dagster keeps of an attempt that failed."""
    metadata = {ERROR: sentence(failure.error), KIND: failure.kind.value}
    return _observation(failure.asset, failure.shard, failure.attempt, run, metadata)


def success_after_failures(shard: str, run: Run) -> AssetObservation:
    """What ends the count of a shard's failures."""
    return _observation("vector_store", shard, 0, run, {})


def newest_failures(instance: DagsterInstance) -> Iterator[RecordedFailure]:
    """Every shard that has failed in a space since it last went through there, whatever its source has become."""
    seen: set[tuple[str, str]] = set()
    for record in _newest_first(instance):
        shard = record.partition_key or ""
        metadata = _metadata(record)
        if (shard, metadata[SPACE]) in seen:
            continue
        seen.add((shard, metadata[SPACE]))
        if metadata[ATTEMPT]:
            yield RecordedFailure(
                shard=shard,
                space=metadata[SPACE],
                signature=metadata[SOURCE],
                error=metadata[ERROR],
                kind=Kind(metadata[KIND]),
                attempts=metadata[ATTEMPT],
                time=record.timestamp,
                run_id=record.run_id,
            )


def failed_shards(instance: DagsterInstance, run: Run) -> dict[str, FailedShard]:
    """Every shard of the run's plan that has failed since it last went through, its source being as it was then."""
    sources = {plan.shard.key: plan.shard.signature for plan in run.plan.shards}
    return {
        failure.shard: FailedShard(
            error=failure.error,
            kind=failure.kind.value,
            attempts=failure.attempts,
            last=datetime.fromtimestamp(failure.time, UTC).isoformat(timespec="seconds"),
            run_id=failure.run_id,
            signature=failure.signature,
            given_up=failure.attempts >= run.options.attempts,
        )
        for failure in newest_failures(instance)
        if failure.space == run.space.fingerprint and failure.signature == sources.get(failure.shard)
    }


def ever_failed(instance: DagsterInstance, run: Run) -> set[str]:
    """The shards whose success is to be told, as it ends a count: also where their source has changed since."""
    return {failure.shard for failure in newest_failures(instance) if failure.space == run.space.fingerprint}


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
