"""The reader: connections that many threads share, which change nothing and wait for nothing long."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pgvector.psycopg import register_vector
from psycopg import errors as pg
from psycopg_pool import ConnectionPool, PoolTimeout

from arxiv_embed.stores.postgres.schema import refuse_newer, require_extension, version_of
from arxiv_embed.stores.postgres.server import Connection, Server
from arxiv_embed.stores.protocol import NoStore, StoreAway, StoreError

MOST_CONNECTIONS = 8
CONNECTION_WAIT_SECONDS = 15.0

SESSION = """
    SET default_transaction_read_only = on;
    SET statement_timeout = '60s';
    SET lock_timeout = '20s';
    SET jit = off;
    SET hnsw.ef_search = 300;
    SET hnsw.iterative_scan = strict_order;
    SET hnsw.max_scan_tuples = 50000;
"""


class HoldsNothing(StoreError):
    """A space that the store has no rows of."""

    def __init__(self, url: str) -> None:
        super().__init__(f"The store {url} holds nothing in this space: run with the same model first.")


class Reader:
    """`was_there` says whether there has been a store."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pool: ConnectionPool[Connection] | None = None
        self._opening = threading.Lock()
        self.was_there = False

    def look(self) -> None:
        """Raises `NoStore` where there is none, and `StoreError` where it cannot be read, or begun."""
        with self._server.faults("read"), self._server.connect() as connection:
            version = version_of(connection)
            refuse_newer(version, self._server.name)
            if version == 0:
                require_extension(connection, self._server.name)
                raise NoStore(self._server.name)
            self.was_there = True

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """One that commits each statement by itself, this thread's for the time. Raises `HoldsNothing` where there is
        no store yet, or no table that is asked, and `StoreAway` where there is no store any more."""
        with self._server.faults("read"):
            try:
                with self._opened().connection() as connection:
                    yield connection
            except PoolTimeout:
                self._server.connect().close()  # says what is wrong, where something is
                raise StoreError(
                    f"The store {self._server.name} is asked by too many at once ({MOST_CONNECTIONS} connections): "
                    "ask again later."
                ) from None
            except (pg.UndefinedTable, pg.InvalidSchemaName):
                self._require_that_it_is_there()
                raise HoldsNothing(self._server.name) from None
            except NoStore:
                raise HoldsNothing(self._server.name) from None

    def close(self) -> None:
        with self._opening:
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    def _opened(self) -> ConnectionPool[Connection]:
        with self._opening:
            if self._pool is None:
                if not self.was_there:
                    self.look()
                self._pool = ConnectionPool(
                    self._server.conninfo,
                    kwargs={
                        "autocommit": True,
                        "prepare_threshold": None,
                        "fallback_application_name": "arxiv-embed",
                    },
                    configure=_configure,
                    check=ConnectionPool.check_connection,
                    min_size=0,
                    max_size=MOST_CONNECTIONS,
                    timeout=CONNECTION_WAIT_SECONDS,
                    open=True,
                )
            return self._pool

    def _require_that_it_is_there(self) -> None:
        with contextlib.suppress(NoStore):
            self.look()
            return
        raise StoreAway(self._server.name)


def _configure(connection: Connection) -> None:
    register_vector(connection)
    connection.execute(SESSION)
