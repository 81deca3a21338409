"""Where a LanceDB store lies: a folder here, or a prefix of object storage."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from arxiv_embed.checkpoint.atomic import NoSpace, disk_faults_as_sentences
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.errors import masked
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.stores.protocol import StoreError

if TYPE_CHECKING:
    from lancedb import AsyncConnection  # takes a second to import, which is for those only who find a store

SPACES_TABLE = "spaces"
"""The first table of a store, and the last to go: where it is, there is a store."""

WRITER_WAIT_SECONDS = 600.0

SEEN_LATEST, SEEN_SOON = timedelta(0), timedelta(seconds=5)
"""How old what a reader sees may be: to look again takes a millisecond in a folder, and a request in a bucket."""


class Place(Protocol):
    """`merges` is whether rows must be merged by key even where all are new, as writers elsewhere are kept from them by
    nothing but that."""

    url: str
    merges: bool

    def connect(self) -> Any: ...

    async def connect_async(self) -> AsyncConnection: ...

    def has(self, table: str) -> bool:
        """Whether there is a whole table of that name."""

    def lost(self, table: str) -> bool:
        """Whether one that was opened is there no more, as far as that can be told without a request."""

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """One writer at a time; raises `Locked` where another goes on for `WRITER_WAIT_SECONDS`."""


class Folder:
    merges = False

    def __init__(self, path: Path) -> None:
        self.url = str(path)
        self._path = path

    def connect(self) -> Any:
        with disk_faults_as_sentences(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        import lancedb

        return lancedb.connect(self._path, read_consistency_interval=SEEN_LATEST)

    async def connect_async(self) -> AsyncConnection:
        import lancedb

        return await lancedb.connect_async(self._path, read_consistency_interval=SEEN_LATEST)

    def has(self, table: str) -> bool:
        """Without a version it is one whose making was interrupted."""
        return any((self._path / f"{table}.lance" / "_versions").glob("*"))

    def lost(self, table: str) -> bool:
        return not self.has(table)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        lock = FileLock(self._path / "writer.lock", f"The store {self._path}", WRITER_WAIT_SECONDS)
        with lock, disk_faults_as_sentences(self._path):
            try:
                yield
            except (OSError, RuntimeError) as error:
                if "No space left" in str(error):
                    raise NoSpace(
                        f"No space is left in {self._path}: free some and run the same command again; "
                        "what was finished is saved."
                    ) from error
                raise


class Bucket:
    """Credentials, region and endpoint are those of the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, …).
    Writers of one home wait for each other; those of two homes are kept apart by the key of the rows alone, and the
    one that loses tries again."""

    merges = True

    def __init__(self, url: str) -> None:
        self.url = url

    def connect(self) -> Any:
        import lancedb

        with self._faults():
            return lancedb.connect(self.url, read_consistency_interval=SEEN_SOON)

    async def connect_async(self) -> AsyncConnection:
        import lancedb

        return await lancedb.connect_async(self.url, read_consistency_interval=SEEN_SOON)

    def has(self, table: str) -> bool:
        database = self.connect()
        with self._faults():
            try:
                database.open_table(table)
            except ValueError as error:
                if "not found" not in str(error):
                    raise
                return False
        return True

    def lost(self, table: str) -> bool:
        return False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        locks = settings_from_environment().locks
        name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        with FileLock(locks / f"{name}.lock", f"The store {masked(self.url)}", WRITER_WAIT_SECONDS):
            yield

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            raise StoreError(
                f"The store {masked(self.url)} cannot be reached: look at its bucket, its endpoint (AWS_ENDPOINT) and "
                "its credentials."
            ) from error


def place_of(url: str) -> Place:
    """Of a folder's path, or a URL of object storage."""
    return Bucket(url) if "://" in url else Folder(Path(url).expanduser().absolute())
