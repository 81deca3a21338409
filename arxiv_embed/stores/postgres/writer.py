"""The writer: one connection that changes the store, under a lock that dies with it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pgvector.psycopg import register_vector

from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.stores.postgres.schema import migrate, refuse_newer, version_of
from arxiv_embed.stores.postgres.server import Connection, Server, ServerAway
from arxiv_embed.stores.protocol import StoreAway

WRITER_WAIT_SECONDS = 600.0
LOOK_AGAIN_SECONDS = 0.1
LOCK = 0x61727869765F656D
"""The number of the advisory lock, which a database has for every program that uses it: "arxiv_em" in ASCII."""

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before a change is tried again whose connection was lost."""

SESSION = """
    SET statement_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET lock_timeout = '1min';
    SET tcp_keepalives_idle = 30;
    SET tcp_keepalives_interval = 10;
    SET tcp_keepalives_count = 3;
"""
"""The keepalives free the lock of a writer whose machine has vanished."""

APPLICATION = "arxiv-embed "

Result = TypeVar("Result")


class Writer:
    """Threads take turns. `was_there` says whether there has been a store: one that is gone is not begun anew."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Connection | None = None
        self._turn = threading.Lock()
        self.was_there = False

    def change(self, work: Callable[[Connection], Result]) -> Result:
        """What `work` returns, given the connection. It is called again when the connection was lost, so all that it
        changes it changes in one transaction, or may do twice."""
        pauses = iter(PAUSES)
        with self._turn:
            while True:
                try:
                    with self._server.faults("written"), self._session() as connection:
                        return work(connection)
                except ServerAway:
                    self._close()
                    pause = next(pauses, None)
                    if pause is None:
                        raise
                    time.sleep(pause)

    def close(self) -> None:
        with self._turn:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _session(self) -> Iterator[Connection]:
        if self._connection is None:
            self._connection = self._server.connect(f"{APPLICATION}process {os.getpid()} on {socket.gethostname()}")
            self._connection.execute(SESSION)
        connection = self._connection
        self._lock(connection)
        try:
            self._bring_up_to_date(connection)
            yield connection
        finally:
            # Ends the lock too. What was interrupted may have left the connection in the middle of something.
            if connection.closed or connection.info.transaction_status:
                self._close()
            else:
                connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    def _bring_up_to_date(self, connection: Connection) -> None:
        version = version_of(connection)
        refuse_newer(version, self._server.name)
        if version == 0 and self.was_there:
            raise StoreAway(self._server.name)
        migrate(connection, version, self._server.name)
        self.was_there = True
        register_vector(connection)

    def _lock(self, connection: Connection) -> None:
        deadline = time.monotonic() + WRITER_WAIT_SECONDS
        while True:
            [(taken,)] = connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchall()
            if taken:
                return
            if time.monotonic() >= deadline:
                raise Locked(f"The store {self._server.name}", _holder(connection))
            time.sleep(LOOK_AGAIN_SECONDS)


def _holder(connection: Connection) -> str:
    held = connection.execute(
        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND (classid::bigint << 32) | objid::bigint = %s AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())",
        [LOCK],
    ).fetchone()
    return held[0].removeprefix(APPLICATION) if held and held[0] else "another process"
