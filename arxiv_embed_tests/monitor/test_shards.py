"""The shards of a run: each at the stage that its last event says."""

from __future__ import annotations

from dataclasses import asdict

from arxiv_embed.events import (
    Event,
    PapersRead,
    SegmentSaved,
    ShardFailed,
    ShardGivenUp,
    ShardLeft,
    ShardStarted,
    ShardStored,
    TextsWaiting,
)
from arxiv_embed.monitor.shards import Shards, Stage
from arxiv_embed_tests import records


def taken(shards: Shards, *events: Event) -> Shards:
    for event in events:
        shards.take({"time": 1.0, "event": event.name, **asdict(event)})
    return shards


def test_a_shard_goes_from_reading_to_done_with_its_papers_and_segments() -> None:
    shards = taken(Shards(), records.started(["a", "b"], 90, ["cpu:0"]), ShardStarted("a", 60))
    assert (shards.found["a"].stage, shards.found["b"].stage) == (Stage.READING, Stage.WAITING)
    taken(shards, PapersRead("a", 50, 0, 0, 0, 0.1), TextsWaiting("a", 50, 900), records.batch("cpu:0", 20, shard="a"))
    taken(shards, SegmentSaved("a", 20))
    a = shards.found["a"]
    assert (a.stage, a.done, a.papers, a.segments) == (Stage.EMBEDDING, 20, 50, 1)
    assert (shards.segments, shards.saved_papers) == (1, 20)
    assert taken(shards, records.embedded("a", 50)).found["a"].stage == Stage.STORING
    taken(shards, ShardStored("a", 150, 150, 0, 0.1))
    assert shards.counts() == {Stage.DONE: 1, Stage.WAITING: 1}


def test_a_shard_that_is_not_done_says_why_until_it_is_tried_again() -> None:
    shards = taken(Shards(), records.started(["a", "b", "c"], 90, ["cpu:0"]), ShardFailed("a", "It broke."))
    taken(shards, ShardGivenUp("b", 3, "It broke."), ShardLeft("c", "process 7 on desk"))
    assert [shard.why for shard in shards.found.values()] == [
        "It broke.",
        "It broke.",
        "worked on by process 7 on desk",
    ]
    assert taken(shards, ShardStarted("a", 60)).found["a"].why == ""
