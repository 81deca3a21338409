"""A run's journal: what does not go as planned, recorded, told to whoever watches, and summed up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from arxiv_embed.checkpoint.atomic import disk_faults_as_sentences
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.error_patterns import ErrorPatterns
from arxiv_embed.errors import FatalError, Kind, sentence
from arxiv_embed.events import (
    DamageFound,
    ErrorMet,
    Event,
    HealthReported,
    RunFinished,
    ShardFailed,
    ShardGivenUp,
    ShardLeft,
)
from arxiv_embed.log.lines import INFO, LogLine
from arxiv_embed.log.writer import RunLog
from arxiv_embed.record import ProgressWriter, progress_path
from arxiv_embed.settings import DEFAULT_LOG_LEVEL, Settings


class Journal:
    """A context manager that keeps the run's record and its share of the log open; `tell` is given a line for whoever
    watches, `on_damage` what did not verify of a checkpoint, `on_health` each report of the devices' health, by the
    thread that recorded it.

    `failed`, `given_up` and `left` say of shards why they are not done; `damages` are the (asset, shard) of which a
    file was damaged.
    """

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        tell: Callable[[str], object],
        on_damage: Callable[[Damage], object],
        on_health: Callable[[HealthReported], object] = lambda report: None,
        log_level: str = DEFAULT_LOG_LEVEL,
    ) -> None:
        self._tell = tell
        self.failed: dict[str, str] = {}
        self.given_up: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.damages: set[tuple[str, str]] = set()
        self._home = settings.home
        self._on_damage = on_damage
        self._on_health = on_health
        self._writer = ProgressWriter(progress_path(settings, run_id))
        self._log = RunLog(settings, run_id, log_level, tell)
        self._errors = ErrorPatterns()
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        with disk_faults_as_sentences(self._home):
            self._writer.__enter__()
        self._log.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._log.__exit__(kind, error, trace)
        self._writer.__exit__(kind, error, trace)

    def record(self, event: Event) -> None:
        """Into the log too, and there first: the log may have room where the record has none."""
        self._log.record(event)
        with disk_faults_as_sentences(self._home):
            self._writer.write(event)
        if isinstance(event, HealthReported):
            with contextlib.suppress(Exception):  # whoever listens does not disturb the watch
                self._on_health(event)

    def tell(self, line: str, *, recorded: bool = False) -> None:
        """Says a line to whoever watches; `recorded` is what an event has said, so that the log has it already."""
        if not recorded:
            self._log.write(LogLine(INFO, "notice", line))
        self._tell(line)

    @property
    def all_is_done(self) -> bool:
        return not (self.failed or self.given_up or self.left)

    def leave(self, shard: str, refusal: Locked) -> None:
        """Another process is at work on a shard."""
        if shard not in self.left:
            self.left[shard] = refusal.holder
            self.record(ShardLeft(shard, refusal.holder))
            self._tell(f"{shard} is worked on by {refusal.holder}: others first")

    def give_up(self, shard: str, attempts: int, error: str) -> None:
        """A shard is not tried, as it has failed too often before."""
        self.given_up[shard] = error
        self.record(ShardGivenUp(shard, attempts, error))
        self._tell(f"{shard} failed {attempts} times and is not tried again: {error}")

    def fail(self, shard: str, error: BaseException) -> None:
        """A shard has failed, and is not tried again in this run."""
        self.failed[shard] = sentence(error)
        self.record(ShardFailed(shard, self.failed[shard]))

    def met(self, shard: str, error: Exception, kind: Kind, action: str) -> None:
        """An error and what is done about it; one that repeats is told again now and then. `shard` is "" for what is
        no shard's fault."""
        message = sentence(error)
        pattern = self._errors.meet(message, kind, time.time(), shard)
        self._tell(f"{shard}: {message} ({kind}: {action})" if shard else f"{message} ({kind}: {action})")
        if pattern.is_worth_telling:
            self._tell(f"{pattern.count} times: {pattern.signature} ({kind})")
        with contextlib.suppress(FatalError):  # what is to be recorded may be that nothing can be
            self.record(ErrorMet(shard, kind, message, action))

    def damaged(self, damage: Damage) -> None:
        """A file of a checkpoint did not verify."""
        self.damages.add((damage.asset, damage.shard))
        with contextlib.suppress(FatalError):
            self.record(DamageFound(damage.checkpoint, damage.file, damage.reason, damage.remedy, damage.place))
        self._tell(str(damage))
        self._on_damage(damage)

    def finish(self, error: BaseException | None) -> None:
        """The run is over; `error` is what ended it before its end."""
        state = "failed" if error is not None or self.failed or self.given_up else "unfinished" if self.left else "done"
        if error is not None and not isinstance(error, Exception):
            state = "interrupted"
        why = sentence(error) if state == "failed" and error is not None else ""
        self.record(RunFinished(state, why, time.monotonic() - self._begun))
