"""The reporter: what Dagster is told while a run goes on, also when its database is away for a while."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from dagster import AssetCheckEvaluation, AssetKey, AssetMaterialization, AssetObservation, OpExecutionContext
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from arxiv_embed.attempts import PASSING, PAUSE_SECONDS, jittered
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.error_patterns import kind_of
from arxiv_embed.errors import FatalError, Kind, sentence
from arxiv_embed.pipeline.io_manager import damage_observation

MOST_WAITS = {Kind.TRANSIENT: 12, Kind.RESOURCE: 2}
"""Two minutes and more for a database that is away; as long as a run pauses for a full disk."""

LONGEST_WAIT = 15.0

Result = TypeVar("Result")


class DagsterAway(FatalError):
    """Dagster's database did not come back."""


class Reporter:
    """What a step writes to Dagster's events. Lines that cannot be written are kept until the database is back;
    `on_trouble` is given what is met meanwhile, its kind, and what is done about it."""

    def __init__(self, context: OpExecutionContext) -> None:
        self._context = context
        self._unsaid: list[str] = []
        self._is_waiting = False
        self.on_trouble: Callable[[Exception, Kind, str], object] = lambda error, kind, action: None

    def say(self, line: str) -> None:
        """A line of the step's log."""
        self._unsaid.append(line)
        self._say_what_is_unsaid()

    def tag(self, tags: Mapping[str, str]) -> None:
        """Tags of the run, if they can be written now."""
        with contextlib.suppress(Exception):
            self._context.instance.add_run_tags(self._context.run_id, tags)

    def log(self, event: AssetMaterialization | AssetObservation | AssetCheckEvaluation) -> None:
        """An event of an asset."""
        told: Any = event  # a check's evaluation is taken as well, though not declared
        self.ask(lambda: self._context.log_event(told))

    def damaged(self, damage: Damage) -> None:
        """A file of a checkpoint that did not verify."""
        self.log(damage_observation(damage))

    def plan(self, shard: str, assets: Sequence[str]) -> None:
        """That assets of a shard are about to be made: where the run fails before they are, Dagster shows them as
        failed."""
        for asset in assets:
            event = DagsterEvent.build_asset_materialization_planned_event(
                self._context.job_name,
                self._context.get_step_execution_context().step.key,
                AssetMaterializationPlannedData(AssetKey(asset), partition=shard),
            )
            self.ask(partial(self._context.instance.report_dagster_event, event, self._context.run_id))

    def ask(self, act: Callable[[], Result]) -> Result:
        """What `act` returns, which uses Dagster's database and may be done again."""
        result = patiently(act, self._wait)
        self._say_what_is_unsaid()
        return result

    def _say_what_is_unsaid(self) -> None:
        while self._unsaid and not self._is_waiting:
            patiently(lambda: self._context.log.info(self._unsaid[0]), self._wait)
            self._unsaid.pop(0)

    def _wait(self, error: Exception, kind: Kind, seconds: float) -> None:
        self._is_waiting = True
        try:
            self.on_trouble(error, kind, f"again in {seconds:.0f} s")
            time.sleep(seconds)
        finally:
            self._is_waiting = False


def wait_in_silence(error: Exception, kind: Kind, seconds: float) -> None:
    time.sleep(seconds)


def patiently(
    act: Callable[[], Result],
    wait: Callable[[Exception, Kind, float], None] = wait_in_silence,
    most_waits: Mapping[Kind, int] = MOST_WAITS,
) -> Result:
    """What `act` returns, once Dagster's database lets it; `wait` is given what it raised, that error's kind, and how
    many seconds to wait before it is tried again. Raises `DagsterAway` where the database does not come back."""
    waits = 0
    while True:
        try:
            return act()
        except Exception as error:
            kind = kind_of(error)
            if kind not in PASSING:
                raise
            if waits >= most_waits[kind]:
                raise DagsterAway(
                    f"Dagster's database cannot be used ({sentence(error)}): mend that and run the same command "
                    "again; what was finished is saved."
                ) from error
            wait(error, kind, jittered(PAUSE_SECONDS if kind is Kind.RESOURCE else min(LONGEST_WAIT, 2.0**waits)))
            waits += 1
