"""The store protocol: where vectors end, whichever database that is.

A store holds spaces side by side and never mixes them. It remembers which checkpoint of which shard it holds, so that
a crash between the checkpoint and the store is repaired by writing the shard again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError, FatalError, Kind, masked

POSTGRESQL, OBJECT_STORAGE = ("postgresql", "postgres"), ("s3", "gs", "az")
"""The kinds of a store's URL."""

PAPER_CHUNK = -1
"""The chunk index of a whole paper's row, the one that carries title, authors, abstract and `cut_tokens`."""

VECTORS = ("paper_id", "chunk_index", "start_char", "end_char", "tokens", "cut_tokens", "vector", "text_sha256")
"""The columns of a row that are those of the checkpoint `embeddings`."""


class StoreError(FatalError):
    """The store cannot do what was asked; the message says what to do."""


class NoStore(StoreError):
    """There is none at that place."""

    def __init__(self, url: str) -> None:
        super().__init__(f"There is no store at {masked(url)}: make one with `arxiv-embed run --metadata-dir DIR`.")


class NewerStore(StoreError):
    """It was written in a format that this version does not know."""

    def __init__(self, url: str, written: int, known: int) -> None:
        super().__init__(
            f"The store {masked(url)} was written by a newer version of arxiv-embed (its format is {written}, known "
            f"here is {known}): upgrade arxiv-embed, or name another store."
        )


class StoreAway(StoreError):
    """A store that was there is not, for the moment perhaps; `why` says what it lacks and what to do."""

    kind = Kind.TRANSIENT

    def __init__(self, url: str, why: str = "was there and is gone: put it back and run the same command") -> None:
        super().__init__(f"The store {masked(url)} {why} again; what was finished is saved.")


class TooSlow(StoreError):
    """It was asked what takes it longer than it may."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"The store {masked(url)} took too long to answer ({reason}): run `arxiv-embed run` again, which brings "
            "its indexes up to date, or ask for less."
        )


@dataclass(frozen=True)
class Filters:
    """`category` is one ("cs.LG") or a whole archive ("cs"); `since` and `until` are ISO dates, both included, of
    publication where known; `withdrawn` says whether those alone or the others alone; `shard` is the one that the
    papers came from. Raises `ArxivEmbedError` for what is no day, and for two in the wrong order."""

    category: str | None = None
    since: str | None = None
    until: str | None = None
    withdrawn: bool | None = None
    shard: str | None = None

    def __post_init__(self) -> None:
        for name, day in (("since", self.since), ("until", self.until)):
            if day is not None and not _is_day(day):
                raise ArxivEmbedError(f"{name} '{day}' is no day: write it as 2024-01-31.")
        if self.since and self.until and self.since > self.until:
            raise ArxivEmbedError(f"Nothing is published from {self.since} until {self.until}: exchange the two days.")


@dataclass(frozen=True)
class Match:
    """A paper that a question found: higher scores are better."""

    paper_id: str
    score: float


@dataclass(frozen=True)
class Chunk:
    """A chunk found: `start` and `end` are its characters in the paper's text."""

    paper_id: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class StoredPaper:
    """`cut_tokens` at the end of its text are beyond the limit and not embedded; None where it was stored before rows
    said so."""

    paper_id: str
    title: str
    abstract: str
    authors: str
    categories: tuple[str, ...]
    published: str
    updated: str
    withdrawn: bool
    cut_tokens: int | None = None


@dataclass(frozen=True)
class WriteReport:
    """`rows` now held for the shard; `skipped_papers` of it are held in a newer record of another shard. `uncovered`
    are the shards to be written again, as this one no longer holds the record that stood in for theirs."""

    rows: int
    skipped_papers: int
    uncovered: tuple[str, ...] = ()


class VectorStore(Protocol):
    """One writer at a time, held by a lock while it writes; any number of readers."""

    url: str

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def spaces(self) -> list[Space]:
        """The spaces held, the one last begun first."""

    def shards(self, space: str) -> Mapping[str, str]:
        """Shard key → identity of the checkpoint that the store holds of it, in the space of that fingerprint; a
        shard that is to be written again is not among them."""

    def count(self, space: str) -> tuple[int, int]:
        """Papers and rows."""

    def keys_of(self, space: str, shard: str) -> pa.Table:
        """The `paper_id` and `chunk_index` of every row that came from a shard."""

    def write_shard(
        self, space: Space, shard: str, rows: pa.Table, identity: str, *, listed: Container[str] | None = None
    ) -> WriteReport:
        """Makes the store hold `rows` (`stores/rows.py`) as all there is of the shard.

        Where another shard holds a paper too, the newest record wins, by update date, version, shard key; of equally
        new ones that of a shard not `listed` any more loses, and is to be written when it is listed again. Writing
        twice leaves what writing once left.
        """

    def drop(self, space: str) -> None:
        """Removes a space with its rows; the others stay. What is interrupted leaves it listed, to be dropped again."""

    def finish(self, space: Space) -> None:
        """Brings indexes up to date after the last shard of a run."""

    def is_finished(self, space: Space) -> bool:
        """Whether all indexes are there and up to date, as `finish` leaves them; told at once."""

    def nearest(
        self,
        space: str,
        vector: npt.NDArray[np.float32],
        limit: int,
        filters: Filters,
        *,
        chunks: bool,
        exact: bool = False,
    ) -> list[Match]:
        """The rows nearest by cosine, whole papers' or chunks' (then a paper comes once a chunk); `exact` compares with
        every one and asks no index."""

    def matching(self, space: str, text: str, limit: int, filters: Filters) -> list[Match]:
        """The papers that a full-text query finds best; any text is a query."""

    def papers(self, space: str, ids: Sequence[str]) -> Mapping[str, StoredPaper]: ...

    def papers_and_chunks(
        self, space: str, ids: Sequence[str], vector: npt.NDArray[np.float32]
    ) -> tuple[Mapping[str, StoredPaper], list[Chunk]]:
        """These papers and every chunk of them, nearest first, as of one moment."""

    def vectors_of_texts(self, space: str, texts: Sequence[str]) -> pa.Table:
        """What is held of these texts (sha256 each, of a few thousand at most), whichever papers have them: all rows of
        one paper a text, as `VECTORS`; of texts whose rows do not say how many tokens they have, nothing."""

    def scan(self, space: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Every row as it was at one moment, a few thousand at a time: those `columns` of `row_schema`, or all."""

    def vector_of(self, space: str, paper_id: str) -> npt.NDArray[np.float32] | None:
        """The whole paper's vector."""


def _is_day(text: str) -> bool:
    with contextlib.suppress(ValueError):
        return date.fromisoformat(text).isoformat() == text
    return False


def open_store(url: str, *, create: bool = False) -> VectorStore:
    """The store at `url`: a folder, a place in object storage (s3://bucket/papers), or a PostgreSQL database
    (postgresql://user@host:5432/database).

    Raises `NoStore` where there is none and `create` is not set, `StoreError` where the URL is of a kind unknown here
    or the store cannot be opened, and `NotWritable` where it cannot be made.
    """
    kind, is_url, _ = url.partition("://")
    if kind in POSTGRESQL and is_url:
        from arxiv_embed.stores.postgres.store import PostgresStore

        return PostgresStore(url, create=create)
    if is_url and kind not in OBJECT_STORAGE:
        raise StoreError(
            f"A store of kind {kind}:// is not supported in this version: give a folder, --db-name, or a URL as "
            "postgresql://user@host:5432/database or s3://bucket/papers."
        )
    from arxiv_embed.stores.lance.place import SPACES_TABLE, place_of

    place = place_of(url)
    if not create and not place.has(SPACES_TABLE):
        raise NoStore(place.url)
    from arxiv_embed.stores.lance.store import LanceStore

    return LanceStore(place.url)
