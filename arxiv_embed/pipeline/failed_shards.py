"""The sensor `failed_shards`: what failed for a passing reason is asked for again, after growing waits, not for ever.

A run has tried each shard several times by then. What is asked for is one run of `embed_pending`, over all that is due
and nothing else; after a run that was stopped as a whole, over all that remains.
Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.storage.dagster_run import FINISHED_STATUSES, NOT_FINISHED_STATUSES

from arxiv_embed.attempts import PASSING
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.pipeline.failures import newest_failures
from arxiv_embed.pipeline.jobs import embed_pending, embed_shards
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.work import STOPPED_FOR
from arxiv_embed.plan import list_shards_of
from arxiv_embed.settings import Settings, settings_from_environment

JOBS = (embed_pending.name, embed_shards.name, IMPLICIT_ASSET_JOB_NAME)
"""That of all shards, and those of chosen ones; the last is what a backfill and "Materialize" run."""

OP = "embed_what_remains"
WAITS = (600.0, 3600.0, 6 * 3600.0)
"""Seconds before each time that something is asked for; after the last it is not asked for any more."""

SHARDS_AT_ONCE = 1_000
NAMED = 5
LOOK_AGAIN_SECONDS = 60
HOW_TO = "`arxiv-embed run --resume` or a changed file tries them again"


@dataclass(frozen=True)
class Case:
    """What may be asked for again: a shard in a space, or with both "" all that a stopped run has left. `since` is when
    it last failed (seconds since the epoch); with another `state` it is another case, and the count begins anew."""

    space: str
    shard: str
    state: str
    since: float

    @property
    def key(self) -> str:
        return f"{self.space} {self.shard}".strip()


@dataclass(frozen=True)
class Asked:
    """How many `times` a case was asked for, and when `last`."""

    state: str
    times: int
    last: float


NEVER = Asked("", 0, 0.0)


@sensor(
    name="failed_shards",
    job_name=embed_pending.name,
    minimum_interval_seconds=LOOK_AGAIN_SECONDS,
    description=f"Asks again for what failed for a passing reason, {len(WAITS)} times, after growing waits.",
)
def failed_shards(context: SensorEvaluationContext) -> SensorResult:
    """The cursor says what was asked for, as long as it is failed."""
    settings = settings_from_environment()
    if settings.metadata_dir is None:
        return SensorResult(skip_reason="Set ARXIV_EMBED_METADATA_DIR: without it a run finds nothing to do.")
    instance = context.instance
    if run_id := _under_way(instance):
        return SensorResult(skip_reason=f"Run {run_id} is under way: what it leaves undone is looked at after it.")
    failures = list(newest_failures(instance))
    cases = [
        Case(failure.space, failure.shard, failure.signature, failure.time)
        for failure in failures
        if failure.kind in PASSING
    ]
    cases.extend(_left_by_a_stopped_run(instance))
    now = time.time()
    asked = _asked(context.cursor, cases)
    due = _due(cases, asked, now)
    there = _there(due, settings)
    for case in due:
        before = asked.get(case.key, NEVER)
        asked[case.key] = Asked(case.state, before.times + (case in there), now)
    cursor = json.dumps({key: [count.state, count.times, count.last] for key, count in asked.items()})
    lasting = sum(failure.kind not in PASSING for failure in failures)
    said = _summary(cases, asked, due, there, lasting)
    if not there:
        return SensorResult(skip_reason=said, cursor=cursor)
    context.log.info(said)
    retry = sorted({case.shard for case in there if case.shard})
    config = {"retry": retry, "nothing_else": all(case.shard for case in cases)}
    request = RunRequest(
        job_name=embed_pending.name,
        run_key=_digest(there, asked),
        run_config={"ops": {OP: {"config": config}}},
    )
    return SensorResult(run_requests=[request], cursor=cursor)


def _under_way(instance: DagsterInstance) -> str | None:
    """A run of the jobs that has not ended, or not begun; the sensor `killed_runs` ends dead ones."""
    for job in JOBS:
        filters = RunsFilter(job_name=job, statuses=NOT_FINISHED_STATUSES)
        for run in instance.get_runs(filters, limit=1):
            return run.run_id
    return None


def _left_by_a_stopped_run(instance: DagsterInstance) -> list[Case]:
    """A case where a run was stopped for a passing reason and none has gone over all shards since."""
    kinds = [kind.value for kind in PASSING]
    finished = RunsFilter(job_name=embed_pending.name, statuses=FINISHED_STATUSES)
    over_all = instance.get_run_records(finished, limit=1)
    stopped = [
        record
        for job in JOBS
        for record in instance.get_run_records(
            RunsFilter(job_name=job, statuses=[DagsterRunStatus.FAILURE], tags={STOPPED_FOR: kinds}), limit=1
        )
    ]
    newest = max((record.storage_id for record in over_all), default=0)
    left = [record for record in stopped if record.storage_id >= newest]
    ended = [record.end_time or record.update_timestamp.timestamp() for record in left]
    return [Case("", "", "", max(ended))] if ended else []


def _there(due: Sequence[Case], settings: Settings) -> list[Case]:
    """Those that a run would find: whose shard is in the folder, and whose space is the one that it embeds in."""
    if not due:
        return []
    try:
        options = EmbeddingResource().options(GpuResource(), settings)
        shards = {shard.key for shard in list_shards_of(options, settings).shards}
        space = EmbeddingResource().space(settings, local_only=True)
    except ArxivEmbedError:  # the run of a stopped one says it
        return [case for case in due if not case.shard]
    return [case for case in due if not case.shard or (case.shard in shards and case.space == space.fingerprint)]


def _asked(cursor: str | None, cases: Iterable[Case]) -> dict[str, Asked]:
    """What was asked for of that which is still as it was; what is no cursor of this sensor says nothing."""
    states = {case.key: case.state for case in cases}
    try:
        known = {key: Asked(*count) for key, count in json.loads(cursor or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    return {key: count for key, count in known.items() if states.get(key) == count.state}


def _next_time(case: Case, asked: Mapping[str, Asked]) -> float | None:
    """When a case is to be asked for, in seconds since the epoch; None if not any more."""
    count = asked.get(case.key, NEVER)
    return None if count.times >= len(WAITS) else max(case.since, count.last) + WAITS[count.times]


def _due(cases: Iterable[Case], asked: Mapping[str, Asked], now: float) -> list[Case]:
    due = [case for case in cases if (time := _next_time(case, asked)) is not None and time <= now]
    return sorted(due, key=lambda case: case.key)[:SHARDS_AT_ONCE]


def _digest(due: Iterable[Case], asked: Mapping[str, Asked]) -> str:
    """Names one asking, so that it is done once; what fails again at another time is another."""
    about = [(case.key, case.state, case.since, asked[case.key].times) for case in due]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _summary(
    cases: Iterable[Case], asked: Mapping[str, Asked], due: Sequence[Case], there: Sequence[Case], lasting: int
) -> str:
    """What a tick says."""
    others = {case: _next_time(case, asked) for case in cases if case not in due}
    later = {case: time for case, time in others.items() if time is not None}
    ended = [case for case, time in others.items() if time is None]
    said = []
    if there:
        said.append(f"Asked for again now: {_named(there)}.")
    if gone := [case for case in due if case not in there]:
        said.append(f"Not asked for, as a run would not find them (another folder, another model): {_named(gone)}.")
    if later:
        first = datetime.fromtimestamp(min(later.values()), UTC).isoformat(timespec="seconds")
        said.append(f"Asked for again later: {_named(later)}, the first at {first}.")
    if ended:
        said.append(f"Asked for {len(WAITS)} times, and not any more: {_named(ended)}; {HOW_TO}.")
    if lasting:
        said.append(f"Not asked for, as the reason does not pass: {lasting} in number; {HOW_TO}.")
    return " ".join(said) or "Nothing has failed."


def _named(cases: Collection[Case]) -> str:
    names = [case.shard or "what a stopped run has left" for case in cases]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
