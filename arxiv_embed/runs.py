"""Runs: their records in a home, the last one, and those that were killed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from arxiv_embed.checkpoint.atomic import write_atomically
from arxiv_embed.checkpoint.lock import FileLock, is_held
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.events import RunFinished
from arxiv_embed.progress import RunProgress
from arxiv_embed.record import RECORD, ProgressReader, ProgressWriter, has_ended, progress_path
from arxiv_embed.settings import Settings
from arxiv_embed.soundness import event_of

LOCK = "process.lock"
LAST = "last"
REPORT = "report.html"
LOOKED_AT_SECONDS = 5.0
"""Whoever looks whether a lock is held, holds it for a moment."""


RUNS_NAMED = 5
"""Of the last ones, where none has the name that was asked for."""


class NoRun(ArxivEmbedError):
    """There is no run to show."""


@dataclass(frozen=True)
class KilledRun:
    """A run whose process is gone without a word; `progress` is as far as it had come."""

    run_id: str
    progress: RunProgress

    def __str__(self) -> str:
        if not self.progress.started:
            return f"Run {self.run_id} was killed before it had begun."
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.progress.started))
        done = f"{self.progress.papers_done:,} of {self.progress.papers:,} papers"
        return f"The run begun {began} was killed after {done}: this run goes on from what it had saved."


def report_path(settings: Settings, run_id: str) -> Path:
    """Where a run's report is, once there is one."""
    return settings.runs / run_id / REPORT


def hold_run(settings: Settings, run_id: str) -> FileLock:
    """Held by a run of the command line while its process lives, and removed at its orderly end."""
    return FileLock(settings.runs / run_id / LOCK, f"Run {run_id}", LOOKED_AT_SECONDS)


def release_run(settings: Settings, run_id: str) -> None:
    """For whoever holds the run, at its orderly end, or has found it killed."""
    (settings.runs / run_id / LOCK).unlink(missing_ok=True)


def note_as_last(settings: Settings, run_id: str) -> None:
    """So that it is the last one whatever the clock says."""
    write_atomically(settings.runs / LAST, run_id.encode())


def last_run(settings: Settings) -> RunProgress | None:
    """The run that was begun last, its state "killed" where its process is gone without a word."""
    record = last_record(settings)
    return look_at(record, ProgressReader(record)) if record else None


def look_at(record: Path, reader: ProgressReader) -> RunProgress:
    """What the reader of a run's record reads by now; the state is "killed" where its process is gone without a
    word."""
    held = is_held(record)  # asked first: whoever ends in order in between has said so
    progress = reader.poll()
    if held or progress.state not in ("starting", "running"):
        return progress
    return replace(progress, state="killed")


def last_record(settings: Settings) -> Path | None:
    """That of the run that was begun last."""
    with contextlib.suppress(OSError, ValueError):
        record = progress_path(settings, (settings.runs / LAST).read_text("utf-8"))
        if record.exists():
            return record
    return next(iter(recorded_runs(settings)), None)


def recorded_runs(settings: Settings) -> list[Path]:
    """The records of all runs, that of the one begun last first."""
    return sorted(settings.runs.glob(f"*/{RECORD}"), key=_begun, reverse=True)


def find_record(settings: Settings, named: str | None = None) -> Path:
    """The record of the run of that id, or of the one id that begins so; of the last run where none is named. Raises
    `NoRun` where there is none."""
    runs = recorded_runs(settings)
    if not runs:
        raise NoRun(f"There has been no run in {settings.home}: start one with `arxiv-embed run --metadata-dir DIR`.")
    if named is None:
        return last_record(settings) or runs[0]
    found = [record for record in runs if record.parent.name == named]
    found = found or [record for record in runs if named and record.parent.name.startswith(named)]
    if len(found) != 1:
        what = f"{len(found)} runs begin with {named!r}" if found else f"There is no run {named!r}"
        names = ", ".join(record.parent.name for record in (found or runs)[:RUNS_NAMED])
        raise NoRun(f"{what} in {settings.home}: name one of the last, {names}.")
    return found[0]


def killed_runs(settings: Settings) -> Iterator[KilledRun]:
    """Those that nobody has closed yet (`close_record`)."""
    for folder in sorted(settings.runs.glob("*")):
        record, lock = folder / RECORD, folder / LOCK
        if lock.exists():
            gone = not is_held(lock) and lock.exists()  # one that has just ended in order has removed it
        else:
            gone = record.exists() and not has_ended(record) and not is_held(record) and is_gone(record)
        if gone:
            yield KilledRun(folder.name, ProgressReader(record).poll())


def is_gone(record: Path) -> bool:
    """Whether the process that a run's record names has ended."""
    process = ProgressReader(record).poll().process
    return process is not None and process.is_gone


def close_record(settings: Settings, killed: KilledRun) -> None:
    """Says in a killed run's record that it was, so that it is noticed once."""
    record = progress_path(settings, killed.run_id)
    if record.exists() and not has_ended(record):
        progress = killed.progress
        with ProgressWriter(record) as writer:
            writer.write(RunFinished("killed", "its process was killed", max(0.0, progress.updated - progress.started)))
    release_run(settings, killed.run_id)


def _begun(record: Path) -> float:
    with record.open("rb") as file:
        first = file.readline()
    try:
        return float(event_of(first)["time"])
    except (ValueError, RecursionError):  # cut off by a full disk, or damaged
        return 0.0
