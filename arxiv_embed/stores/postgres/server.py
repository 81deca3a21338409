"""The server: connections to a PostgreSQL, and what goes wrong on the way, told in sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from arxiv_embed.checkpoint.atomic import NoSpace, NotWritable
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.errors import ArxivEmbedError, masked
from arxiv_embed.stores.protocol import StoreAway, StoreError, TooSlow

Connection: TypeAlias = psycopg.Connection[TupleRow]

LONGEST_REASON = 200

PATIENCE = {
    "connect_timeout": "10",
    # A machine that vanished says nothing: without these a write would wait for it for hours.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}

_REFUSALS = {
    "password authentication failed": "its user or password is wrong: {password}",
    "no password supplied": "it asks for a password: {password}",
    "no pg_hba.conf entry": "it does not let this user in from here: add a line for it to the server's pg_hba.conf",
    "database": "there is no such database: make it with `createdb`, or name another with --db-name",
    "role": "there is no such user: make it with `createuser`, or name another with --db-user",
}
_PASSWORD = "put it into PGPASSWORD, ~/.pgpass or the URL"
_UNDEFINED = ('" does not exist', "is not permitted to log in")


class ServerAway(StoreAway):
    """The server does not answer, or has ended the connection; it may be back in a moment."""


class Server:
    """A database of a server, by URL; `name` is the URL as people may see it. Connections keep settings, locks and
    temporary tables: a pooler between must leave each of them its session."""

    def __init__(self, url: str) -> None:
        self.name = masked("".join(url.split()))  # alone a URL is masked to its end, also beyond a space
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            given = None
        if given is None or _is_torn(given):
            # Why is not said: it would name a part of the password.
            raise StoreError(
                f"'{self.name}' is no URL of a PostgreSQL database: write it as postgresql://user@host:5432/database, "
                "with %XX for what is special in a password, or better put that into PGPASSWORD or ~/.pgpass."
            )
        self.conninfo = make_conninfo(url, **{key: value for key, value in PATIENCE.items() if key not in given})

    def connect(self, application: str = "arxiv-embed") -> Connection:
        """A connection that commits each statement by itself; raises `StoreError` with the reason where there is none,
        `ServerAway` where there may be one later."""
        try:
            return psycopg.connect(
                self.conninfo, autocommit=True, prepare_threshold=None, fallback_application_name=application
            )
        except psycopg.Error as error:
            raise self._refusal(error) from error

    @contextlib.contextmanager
    def faults(self, doing: str) -> Iterator[None]:
        """Turns what the server says into sentences; `doing` is "read" or "written"."""
        try:
            yield
        except psycopg.Error as error:
            raise self._fault(error, doing) from error

    def _refusal(self, error: psycopg.Error) -> StoreError:
        reason = _reason(error)
        for words, meaning in _REFUSALS.items():
            if words in reason and (" " in words or any(end in reason for end in _UNDEFINED)):
                return StoreError(f"The store {self.name} cannot be opened, {meaning.format(password=_PASSWORD)}.")
        return ServerAway(
            self.name, f"does not answer ({reason}): start its server, or mend the way to it, and run the same command"
        )

    def _fault(self, error: psycopg.Error, doing: str) -> ArxivEmbedError:
        reason = _reason(error)
        if is_lost(error):
            return ServerAway(
                self.name, f"has ended the connection ({reason}): look after its server and run the same command"
            )
        match error:
            case pg.DiskFull():
                return NoSpace(
                    f"No space is left on the server of {self.name} ({reason}): free some and run the same command "
                    "again; what was finished is saved."
                )
            case pg.InsufficientPrivilege() if doing == "read":
                return StoreError(
                    f"The store {self.name} may not be read ({reason}): have its owner grant USAGE on the schema "
                    "arxiv_embed and SELECT on all tables in it."
                )
            case pg.InsufficientPrivilege() | pg.ReadOnlySqlTransaction():
                return NotWritable(
                    f"Nothing can be written to the store {self.name} ({reason}): give a user and a server that may "
                    "write, or name another store."
                )
            case pg.QueryCanceled():
                return TooSlow(self.name, reason)
            case pg.LockNotAvailable() | pg.DeadlockDetected() | pg.SerializationFailure():
                return Locked(f"The store {self.name}", f"another connection ({reason})")
        return StoreError(
            f"The store {self.name} cannot be {doing} ({reason}): mend that, or name another store; checkpoints fill "
            "a new one."
        )


def _is_torn(given: Mapping[str, Any]) -> bool:
    """Whether a special character of a password has made the rest of it a part of another word."""
    ports = str(given.get("port", "")).split(",")
    return any(not port.isdigit() for port in ports if port) or any(
        "@" in str(given.get(name, "")) for name in ("host", "dbname")
    )


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection ended, and not a statement."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    state = error.sqlstate
    return state is None or state.startswith("08") or (state.startswith("57P"))


def _reason(error: Any) -> str:
    """The first line of what the driver says, without the place of the server, which the URL names."""
    first = (masked(str(error)).strip().splitlines() or [type(error).__name__])[0]
    return first.rpartition("FATAL: ")[2].removeprefix("connection failed: ").strip()[:LONGEST_REASON]
