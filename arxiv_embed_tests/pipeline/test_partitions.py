"""Partitions: shards become partition keys once, in order, however many they are."""

from __future__ import annotations

from dagster import DagsterInstance

from arxiv_embed.pipeline.partitions import METADATA_FILES, register_shards


def test_shards_are_registered_once_and_in_order() -> None:
    with DagsterInstance.ephemeral() as instance:
        assert register_shards(instance, ["b.jsonl", "a.jsonl@0001", "a.jsonl@0000"]) == 3
        assert register_shards(instance, ["b.jsonl", "month:2401"]) == 1
        assert instance.get_dynamic_partitions(METADATA_FILES) == [
            "a.jsonl@0000",
            "a.jsonl@0001",
            "b.jsonl",
            "month:2401",
        ]


def test_more_shards_than_sqlite_takes_in_one_statement_are_registered() -> None:
    keys = [f"snapshot.jsonl@{number:05d}" for number in range(40_000)]
    with DagsterInstance.local_temp() as instance:
        assert register_shards(instance, keys) == len(keys)
        assert instance.get_dynamic_partitions(METADATA_FILES) == keys
