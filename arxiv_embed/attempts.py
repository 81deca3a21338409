"""Attempts: every shard through its steps; what fails for a passing reason is tried again, later and not for ever."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.checks import CheckFailed, CheckResult
from arxiv_embed.error_patterns import kind_of
from arxiv_embed.errors import ArxivEmbedError, FatalError, Kind
from arxiv_embed.run import Report, Run

STEPS: Mapping[str, Callable[[Run, str], Report]] = {
    "papers": Run.read,
    "embeddings": Run.embed,
    "vector_store": Run.store,
}
"""What makes each asset of a shard, in order."""

PASSING = (Kind.TRANSIENT, Kind.RESOURCE)
FIRST_WAIT, LONGEST_WAIT = 2.0, 60.0
PAUSE_SECONDS = 15.0
"""How long a run waits, each time, for a full disk to be given space."""


@dataclass(frozen=True)
class FailedAttempt:
    """An attempt that failed: at which asset, why, and which attempt it was, counted from 1."""

    shard: str
    asset: str
    error: Exception
    kind: Kind
    attempt: int


@dataclass(frozen=True)
class _Turn:
    """A shard's next attempt; `due` by the monotonic clock."""

    shard: str
    attempt: int
    due: float = 0.0


class Listener(Protocol):
    """Who is told of attempts."""

    def begun(self, shard: str, assets: Sequence[str]) -> None:
        """These assets of a shard are about to be made."""

    def made(self, report: Report) -> None:
        """A step is done; its report says what it made."""

    def checked(self, asset: str, shard: str, results: Sequence[CheckResult]) -> None:
        """What a shard has of an asset was looked at."""

    def failed(self, attempt: FailedAttempt) -> None: ...


class Attempts:
    """`before` says how often a shard has failed already. With `check_only` nothing is made, only checked."""

    def __init__(self, run: Run, before: Mapping[str, int], listener: Listener, *, check_only: bool = False) -> None:
        self._run = run
        self._most = run.options.attempts
        self._failures = dict(before)
        self._listener = listener
        self._check_only = check_only
        self._begun: set[str] = set()
        self._pauses = 0

    def take(self, shards: Iterable[str], assets: Sequence[str]) -> list[str]:
        """Takes the shards through what makes these assets; returns those that have gone through.

        A failed one is tried again after all others, and one that another process holds is looked at again; what is
        still held then is left to that process. Raises what every shard would meet (`FatalError`), if it does not pass.
        """
        self._begun.clear()
        fresh = deque(_Turn(shard, self._failures.get(shard, 0) + 1) for shard in shards)
        again: deque[_Turn] = deque()
        held: deque[_Turn] = deque()
        gone_through = []
        while fresh or again or held:
            if not fresh and again:
                fresh.append(again.popleft())
                time.sleep(max(0.0, fresh[0].due - time.monotonic()))
            last_look = not fresh
            turn = fresh.popleft() if fresh else held.popleft()
            try:
                with self._run.claim(turn.shard):
                    retry = self._take_turn(turn, assets)
            except Locked as refusal:
                self._run.journal.leave(turn.shard, refusal)
                if not last_look:
                    held.append(turn)
                continue
            except FatalError as error:
                self._pause(turn.shard, error)
                fresh.appendleft(turn)
                continue
            except (ArxivEmbedError, OSError) as error:  # the lock itself could not be used
                retry = self._after(FailedAttempt(turn.shard, assets[0], error, kind_of(error), turn.attempt))
            self._pauses = 0
            if retry is not None:
                again.append(retry)
            elif turn.shard not in self._run.journal.failed:
                gone_through.append(turn.shard)
        return gone_through

    def _take_turn(self, turn: _Turn, assets: Sequence[str]) -> _Turn | None:
        """Takes a shard through its steps; returns when it is to be tried again, if it failed and may be."""
        shard = turn.shard
        if shard not in self._begun:
            self._begun.add(shard)
            self._listener.begun(shard, assets)
        for asset, step in STEPS.items():
            if asset not in assets:
                continue
            try:
                if not self._check_only:
                    self._listener.made(step(self._run, shard))
                self._check(asset, shard)
            except FatalError:
                raise
            except Exception as error:  # noqa: BLE001 - listed, and raised at the end
                return self._after(FailedAttempt(shard, asset, error, kind_of(error), turn.attempt))
        return None

    def _check(self, asset: str, shard: str) -> None:
        """Raises `CheckFailed` where what was made of a shard is not to be built on."""
        results = self._run.check(asset, shard, thorough=self._check_only)
        self._listener.checked(asset, shard, results)
        failed = [result for result in results if not result.passed]
        if stops := [result for result in failed if result.check.blocking]:
            raise CheckFailed(shard, stops)
        for result in failed:
            self._run.journal.tell(f"{shard}: {result.why} (check {result.check.name} of {asset})")

    def _after(self, failure: FailedAttempt) -> _Turn | None:
        self._failures[failure.shard] = failure.attempt
        may_pass = failure.kind in PASSING and failure.attempt < self._most
        wait = jittered(FIRST_WAIT * 2 ** (failure.attempt - 1)) if may_pass else 0.0
        action = f"again in {wait:.0f} s (attempt {failure.attempt + 1} of {self._most})" if may_pass else "given up"
        self._run.journal.met(failure.shard, failure.error, failure.kind, action)
        self._listener.failed(failure)
        if not may_pass:
            self._run.journal.fail(failure.shard, failure.error)
            return None
        return _Turn(failure.shard, failure.attempt + 1, time.monotonic() + wait)

    def _pause(self, shard: str, error: FatalError) -> None:
        """Waits for what all shards meet to pass; raises `error` where it does not."""
        if error.kind not in PASSING or self._pauses >= self._most - 1:
            self._run.journal.met(shard, error, error.kind, "stopped")
            raise error
        self._pauses += 1
        wait = jittered(PAUSE_SECONDS)
        self._run.journal.met(shard, error, error.kind, f"paused, again in {wait:.0f} s")
        time.sleep(wait)


def jittered(seconds: float) -> float:
    """Half to one and a half times as long, so that those who wait for one thing do not all come back at once."""
    return random.uniform(0.5, 1.5) * min(seconds, LONGEST_WAIT)
