"""The sensor `new_metadata`: asks for a run when the metadata folder has something new, and says what is gone.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dagster import (
    AssetObservation,
    DagsterInstance,
    RunRequest,
    RunsFilter,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    sensor,
)
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
from dagster._core.storage.tags import SENSOR_NAME_TAG

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.cuts import Unfinished
from arxiv_embed.metadata.reading import shown
from arxiv_embed.metadata.shards import Source, list_sources, shards_of
from arxiv_embed.metadata.watch import Known, Look, Removal, look_at, taken
from arxiv_embed.pipeline.jobs import embed_pending
from arxiv_embed.pipeline.partitions import METADATA_FILES, metadata_files
from arxiv_embed.pipeline.states import States
from arxiv_embed.settings import DEFAULT_SHARD_PAPERS, Settings, settings_from_environment, store_folders

NAME = "new_metadata"
EVERY_SECONDS = 30
CUTTING_SECONDS = 15.0
"""Of the 60 that Dagster gives a tick; listing 400,000 files takes a few more."""
MOST_ADDED = 1_000
"""Partitions that a tick adds, as Dagster looks each up by itself; the run adds the others."""
MOST_REMOVED = 500
"""Sources whose removal a tick reports; later ticks report the others."""
NAMED = 3
STAY_IN_STORE = "its papers stay in the store; a command that removes them there is not offered yet."
NOTHING: tuple[str, ...] = ()


@sensor(
    name=NAME,
    job_name=embed_pending.name,
    minimum_interval_seconds=EVERY_SECONDS,
    description="Asks for a run of embed_pending when files of ARXIV_EMBED_METADATA_DIR are new or changed, and are "
    "written no more; reports what was removed.",
)
def new_metadata(context: SensorEvaluationContext) -> SensorResult | SkipReason:
    """One look at the metadata folder. What it finds counts from when Dagster has recorded its cursor."""
    settings = settings_from_environment()
    folder = settings.metadata_dir
    if folder is None:
        return SkipReason("No metadata folder is named: set ARXIV_EMBED_METADATA_DIR where Dagster is started.")
    states = States(settings.home / "watch", folder)
    before = states.load(context.cursor)
    if before.lost:
        context.log.warning(before.lost)
    passed_over: list[str] = []
    unread: dict[str, str] = {}
    written = [settings.home, settings.checkpoints, *store_folders(settings.store)]
    sources = list_sources(folder, without=written, passed_over=passed_over, unread=unread)
    try:
        look = look_at(before.known, sources, time.time(), MOST_REMOVED, unread)
    except ArxivEmbedError as refused:
        return SkipReason(str(refused))
    run = _run_under_way(context.instance) if look.ready else None
    cut, closed = ({}, []) if run else _cut(look.ready, folder, settings)
    asked = [source for source in look.ready if cut.get(source.key, NOTHING) != NOTHING]
    emptied = [key for key, shards in cut.items() if shards == NOTHING and before.known[key].holds_metadata]
    registered = context.instance.get_dynamic_partitions(METADATA_FILES) if asked or emptied or look.removed else []
    passed_over.extend(f"{path} ({reason})" for path, reason in unread.items())
    said = _said(look, before.known, cut, asked, emptied, closed, passed_over, run)
    context.log.info(said)
    events = _told(look.removed, emptied, registered)
    for text in dict.fromkeys(event.description for event in events):
        context.log.warning(text)
    cursor = states.keep(before, taken(look.known, {key: shards != NOTHING for key, shards in cut.items()}))
    if not asked:
        return SensorResult(skip_reason=said, cursor=cursor, asset_events=events)
    new = sorted({key for shards in cut.values() for key in shards or NOTHING}.difference(registered))[:MOST_ADDED]
    return SensorResult(
        run_requests=[RunRequest(run_key=_run_key(before.cursor, asked))],
        dynamic_partitions_requests=[metadata_files.build_add_request(new)] if new else [],
        cursor=cursor,
        asset_events=events,
    )


def _run_under_way(instance: DagsterInstance) -> str | None:
    """The run that was asked for last, unless it has ended: what is new since then waits for its end, as the devices
    do one run at a time, and a run of it all is cheaper than one of each. The sensor `killed_runs` ends dead ones."""
    unfinished = RunsFilter(statuses=NOT_FINISHED_STATUSES, tags={SENSOR_NAME_TAG: NAME})
    return next((run.run_id for run in instance.get_runs(unfinished, limit=1)), None)


def _cut(
    ready: Sequence[Source], folder: Path, settings: Settings
) -> tuple[dict[str, tuple[str, ...] | None], list[str]]:
    """The keys of the shards of each source, and None for one that the run has to cut; and the files that cannot be
    read, with the reason. Those for which the time does not suffice are in neither."""
    deadline = time.monotonic() + CUTTING_SECONDS
    cut: dict[str, tuple[str, ...] | None] = {}
    closed: list[str] = []
    for source in ready:
        try:
            shards = shards_of(
                source, folder, shard_papers=DEFAULT_SHARD_PAPERS, index=settings.index, deadline=deadline
            )
            cut[source.key] = tuple(shard.key for shard in shards)
        except Unfinished as unfinished:
            if not unfinished.goes_on:
                cut[source.key] = None
        except OSError as error:
            closed.append(f"{source.files[0]} ({error.strerror})")
        if time.monotonic() >= deadline:
            break
    return cut, closed


def _run_key(cursor: str, asked: Sequence[Source]) -> str:
    """Of the state before and of what is asked for: a tick that Dagster did not record asks under the same key."""
    digest = hashlib.sha256(cursor.encode())
    for source in asked:
        digest.update(f"{source.key}\0{source.signature}\n".encode())
    return digest.hexdigest()[:32]


def _told(removed: Iterable[Removal], emptied: Iterable[str], registered: Iterable[str]) -> list[AssetObservation]:
    """Observations of the papers of each shard whose file, or some of them, are gone or hold no metadata any more."""
    pieces: dict[str, list[str]] = {}
    for key in registered:
        pieces.setdefault(key.partition("@")[0], []).append(key)
    tidings = [(removal.key, _text_of(removal), {"removed": len(removal.files) or 1}) for removal in removed]
    tidings += [(key, f"{key} holds no metadata any more: {STAY_IN_STORE}", {"emptied": 1}) for key in emptied]
    return [
        AssetObservation("papers", partition=shard, description=text, metadata=numbers)
        for key, text, numbers in tidings
        for shard in pieces.get(key, [key])
    ]


def _text_of(removal: Removal) -> str:
    if not removal.files:
        return f"{removal.key} was removed from the metadata folder: {STAY_IN_STORE}"
    return (
        f"Removed from {removal.key}: {len(removal.files):,} ({_named(removal.files)}); the next run reads it again, "
        "and papers that no other file holds leave the store."
    )


def _named(names: Sequence[str]) -> str:
    """A few of these."""
    return ", ".join([*map(shown, names[:NAMED]), *(["…"] if len(names) > NAMED else [])])


def _said(
    look: Look,
    before: Mapping[str, Known],
    cut: Mapping[str, tuple[str, ...] | None],
    asked: Sequence[Source],
    emptied: Sequence[str],
    closed: Sequence[str],
    passed_over: Sequence[str],
    run: str | None,
) -> str:
    """What a tick has found, in one line."""
    new = changed = 0
    for source in asked:
        number = len(cut[source.key] or (source.key,))
        if before[source.key].holds_metadata:
            changed += number
        else:
            new += number
    shards = "shard" if new == 1 else "shards"
    removed = sum(len(removal.files) or 1 for removal in look.removed)
    said = f"{new:,} new {shards}, {changed:,} changed, {look.writing:,} still being written, {removed:,} removed"
    if look.first_seen:
        said += f"; {look.first_seen:,} seen for the first time, to be looked at once more"
    if waiting := len(look.ready) - len(cut) - len(closed):
        said += f"; {waiting:,} wait for run {run[:8]} to end" if run else f"; {waiting:,} still to be cut"
    if emptied:
        said += f"; {len(emptied):,} without metadata now"
    if closed:
        said += f"; {len(closed):,} cannot be read: {_named(closed)}"
    if passed_over:
        said += f"; passed over: {_named(sorted(passed_over))}"
    return said
