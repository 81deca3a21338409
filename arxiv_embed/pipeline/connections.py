"""Connections of a step to Dagster's PostgreSQL: kept, where dagster-postgres opens one for every statement."""

from __future__ import annotations

from typing import Any

from dagster import DagsterInstance

MOST_CONNECTIONS = 4


def keep_connections(instance: DagsterInstance) -> None:
    """For a process that tells Dagster much: an event then takes half as long. One that was cut is made anew."""
    storage: Any = instance.event_log_storage
    if not hasattr(storage, "postgres_url"):
        return
    from dagster_postgres.utils import create_pg_engine

    storage._engine = create_pg_engine(
        storage.postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=1,
        max_overflow=MOST_CONNECTIONS - 1,
        pool_pre_ping=True,
    )
