"""The tables of a LanceDB store: opened once, looked at anew where another has written, their faults as sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pyarrow as pa
from lancedb import AsyncTable

from arxiv_embed.stores.lance.event_loop import answered
from arxiv_embed.stores.lance.filters import DERIVED
from arxiv_embed.stores.lance.place import SPACES_TABLE, place_of
from arxiv_embed.stores.protocol import NewerStore, StoreAway, StoreError

LONGEST_REASON = 200

FORMAT = 1
"""What a store is written in; one that says nothing is of the first."""
FORMAT_KEY = b"arxiv_embed.format"


class Tables:
    """Of the store at a folder's path or a URL; refuses one that a newer version has written."""

    def __init__(self, url: str) -> None:
        self._place = place_of(url)
        self.url = self._place.url
        self.merges = self._place.merges
        self.database = self._place.connect()
        self._open: dict[str, Any] = {}
        self._columns: dict[str, frozenset[str]] = {}
        self._asked: dict[str, AsyncTable] = {}
        self._was_there = self._place.has(SPACES_TABLE)
        self._refuse_newer()

    def close(self) -> None:
        self._open.clear()
        self._asked.clear()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Two writers that add the same new keys at once leave duplicates: so there is one."""
        self._check_it_is_there()
        with self._place.writing():
            try:
                self._look_again()
                self._refuse_newer()
                yield
                self._was_there = True
            except (OSError, RuntimeError) as error:
                if "No space left" in str(error):
                    raise
                self._check_it_is_there()
                raise self._fault("written", error) from error

    def _look_again(self) -> None:
        """At what others have written, or dropped, since the tables were opened."""
        self._columns.clear()
        for name, table in list(self._open.items()):
            if self._place.has(name):
                table.checkout_latest()
            else:
                del self._open[name]

    def _refuse_newer(self) -> None:
        table = self.get(SPACES_TABLE)
        written = int((table.schema.metadata or {}).get(FORMAT_KEY, FORMAT)) if table is not None else FORMAT
        if written > FORMAT:
            raise NewerStore(self.url, written, FORMAT)

    def get(self, name: str) -> Any:
        """The table, or None where the store has none of that name."""
        if name in self._open and self._place.lost(name):
            self._open.pop(name, None)  # another has dropped it
        if name not in self._open:
            if not self._place.has(name):
                self._check_it_is_there()
                return None
            with self.reading():
                self._open[name] = self.database.open_table(name)
                self._columns.pop(name, None)
                self._asked.pop(name, None)
        return self._open[name]

    def columns(self, name: str) -> frozenset[str]:
        """Of a table of the store; Lance makes a schema anew each time that it is asked."""
        table = self.get(name)
        if name not in self._columns:
            self._columns[name] = frozenset(table.schema.names)
        return self._columns[name]

    def ask(self, name: str, question: Callable[[AsyncTable], Awaitable[pa.Table]]) -> pa.Table:
        """What a table of the store answers. LanceDB's other interface goes through its event loop eight times a
        question, some milliseconds in all; this goes through ours once."""

        async def answer() -> pa.Table:
            if name not in self._asked:
                self._asked[name] = await (await self._place.connect_async()).open_table(name)
            return await question(self._asked[name])

        with self.reading():
            return answered(answer())

    def read(self, query: Any) -> pa.Table:
        with self.reading():
            return query.to_arrow()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            self._open.clear()  # another may have dropped one and made it anew: the next question opens that
            self._check_it_is_there()
            raise self._fault("read", error) from error

    def _check_it_is_there(self) -> None:
        """A folder that is gone is not begun anew: it may be a disk that comes back."""
        if self._was_there and not self._place.has(SPACES_TABLE):
            raise StoreAway(self.url)

    def _fault(self, what: str, error: Exception) -> StoreError:
        # Lance ends its messages with the place in its own source.
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(", /")[0][:LONGEST_REASON]
        return StoreError(
            f"The store {self.url} cannot be {what} ({reason}): move it away and run again; checkpoints fill a new one."
        )

    def made(self, name: str, schema: pa.Schema, key: str) -> Any:
        """The table, made where the store has none of that name. One of an older version is given the columns that it
        lacks, null in the rows that it has; these are not written again for that."""
        table = self.get(name)
        self._columns.pop(name, None)
        if table is None:
            table = self._open[name] = self.database.create_table(name, schema=schema)
            table.set_unenforced_primary_key(key)
        elif lacking := [field for field in schema if field.name not in table.schema.names]:
            derived = {field.name: DERIVED[field.name] for field in lacking if field.name in DERIVED}
            if derived:
                table.add_columns(derived)
            if others := [field for field in lacking if field.name not in derived]:
                table.add_columns(others)
        return table

    def drop(self, name: str) -> None:
        self.database.drop_table(name)
        self._open.pop(name, None)
