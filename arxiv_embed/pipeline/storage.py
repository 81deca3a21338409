"""Dagster's own storage: SQLite under the project's home, or PostgreSQL where its URL is set.

`dagster.yaml` has no conditionals, so it names the classes here. Webserver and daemon load them too: nothing heavy.
"""

from __future__ import annotations

from typing import Any

from dagster._config import UserConfigSchema
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import settings_from_environment

PSYCOPG2 = "postgresql+psycopg2://"


class ProjectStorage(DagsterSqliteStorage):
    """Runs, events and schedules, wherever the settings say."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]
    ) -> DagsterStorage:
        settings = settings_from_environment()
        if settings.postgres_url is None:
            return DagsterSqliteStorage.from_local(str(settings.dagster / "storage"), inst_data)
        from dagster_postgres import DagsterPostgresStorage

        return DagsterPostgresStorage(postgres_url=sqlalchemy_url(settings.postgres_url), inst_data=inst_data)


class ProjectComputeLogs(LocalComputeLogManager):
    """What steps print, under the project's home."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]
    ) -> LocalComputeLogManager:
        return LocalComputeLogManager(str(settings_from_environment().dagster / "logs"), inst_data=inst_data)


class ProjectArtifacts(LocalArtifactStorage):
    """What steps hand on to each other, under the project's home: DAGSTER_HOME may be the repository, or a folder that
    cannot be written to."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(  # type: ignore[override]
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, Any]
    ) -> LocalArtifactStorage:
        return LocalArtifactStorage(str(settings_from_environment().dagster), inst_data=inst_data)


def sqlalchemy_url(url: str) -> str:
    """A PostgreSQL URL as users write it, with the driver that dagster-postgres works with (SQLAlchemy 2.1 would
    take psycopg 3). Raises `ArxivEmbedError` for what is no such URL."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            url = PSYCOPG2 + url.removeprefix(scheme)
    try:
        is_one = make_url(url).get_backend_name() == "postgresql"
    except (ArgumentError, ValueError):
        is_one = False
    if not is_one:
        raise ArxivEmbedError(
            "ARXIV_EMBED_POSTGRES_URL is no PostgreSQL URL: write postgresql://user@host:5432/database."
        )
    return url
