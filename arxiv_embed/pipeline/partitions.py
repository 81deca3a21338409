"""Partitions: one dynamic partition a shard."""

from __future__ import annotations

from collections.abc import Iterable

from dagster import DagsterInstance, DynamicPartitionsDefinition

METADATA_FILES = "metadata_files"
ADDED_AT_ONCE = 5_000
"""SQLite refuses statements of some 36,000 variables."""

metadata_files = DynamicPartitionsDefinition(name=METADATA_FILES)


def register_shards(instance: DagsterInstance, keys: Iterable[str]) -> int:
    """Adds the partitions that are not there yet, sorted, as Dagster keeps them in the order they came; returns how
    many were new."""
    known = set(instance.get_dynamic_partitions(METADATA_FILES))
    new = sorted(set(keys) - known)
    for start in range(0, len(new), ADDED_AT_ONCE):
        instance.add_dynamic_partitions(METADATA_FILES, new[start : start + ADDED_AT_ONCE])
    return len(new)
