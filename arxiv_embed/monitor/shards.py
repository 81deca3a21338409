"""The shards of a run: how far each is on its way to the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self


class Stage(StrEnum):
    """On its way, or at its end."""

    WAITING = "waiting"
    READING = "reading"
    EMBEDDING = "embedding"
    STORING = "storing"
    DONE = "done"
    FAILED = "failed"
    GIVEN_UP = "given up"
    """It had failed too often before."""
    LEFT = "left"
    """To another process that is at work on it."""


UNDER_WAY = (Stage.READING, Stage.EMBEDDING, Stage.STORING)
ENDED_BADLY = (Stage.FAILED, Stage.GIVEN_UP)


@dataclass
class Shard:
    """`papers` to embed, as estimated until they are read, `done` of them so far; `segments` saved; `why` it is not
    done."""

    name: str
    stage: Stage = Stage.WAITING
    papers: int = 0
    done: int = 0
    segments: int = 0
    why: str = ""


@dataclass
class Shards:
    """By name, in the order of the run; `saved_papers` are those in `segments` saved by this run."""

    found: dict[str, Shard] = field(default_factory=dict)
    segments: int = 0
    saved_papers: int = 0

    def take(self, event: Mapping[str, Any]) -> None:
        """Takes one event of a run's record in."""
        name = event["event"]
        if name == "run_started":
            self.found = {shard: Shard(shard) for shard in event["shards"]}
            self.segments = self.saved_papers = 0
        elif "shard" in event and (change := getattr(self, f"_on_{name}", None)):
            shard = self.found.setdefault(event["shard"], Shard(event["shard"]))
            change(shard, event)

    def _on_shard_started(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage, shard.papers, shard.done, shard.segments, shard.why = Stage.READING, event["records"], 0, 0, ""

    def _on_papers_read(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.papers = event["papers"]

    def _on_texts_waiting(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage = Stage.EMBEDDING

    def _on_batch(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage = Stage.EMBEDDING
        shard.done += event["papers"]

    def _on_segment(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.segments += 1
        self.segments += 1
        self.saved_papers += event["papers"]

    def _on_shard_embedded(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage, shard.papers, shard.done = Stage.STORING, event["papers"], event["papers"]

    def _on_shard_stored(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage, shard.why = Stage.DONE, ""

    def _on_shard_failed(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage, shard.why = Stage.FAILED, event["error"]

    def _on_shard_given_up(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage, shard.why = Stage.GIVEN_UP, event["error"]

    def _on_shard_left(self, shard: Shard, event: Mapping[str, Any]) -> None:
        shard.stage, shard.why = Stage.LEFT, f"worked on by {event['holder']}"

    def copy(self) -> Self:
        """As they are now, for a display that another thread draws."""
        return type(self)(
            {name: replace(shard) for name, shard in self.found.items()}, self.segments, self.saved_papers
        )

    def counts(self) -> Counter[Stage]:
        return Counter(shard.stage for shard in self.found.values())
