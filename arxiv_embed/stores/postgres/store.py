"""The PostgreSQL store: a schema `arxiv_embed` with a table of rows for each space, in any database with pgvector."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, LiteralString, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql

from arxiv_embed.encoding.space import Space
from arxiv_embed.stores.postgres.conditions import CHUNKS, PAPERS, where
from arxiv_embed.stores.postgres.indexes import build, is_built
from arxiv_embed.stores.postgres.merge import TO_BE_WRITTEN, merge
from arxiv_embed.stores.postgres.reader import HoldsNothing, Reader
from arxiv_embed.stores.postgres.rows import arrow_table, selected, storable
from arxiv_embed.stores.postgres.schema import rows_of, vector_type
from arxiv_embed.stores.postgres.server import Connection, Server
from arxiv_embed.stores.postgres.words import MOST_RANKED, Vocabulary
from arxiv_embed.stores.postgres.writer import Writer
from arxiv_embed.stores.protocol import (
    VECTORS,
    Chunk,
    Filters,
    Match,
    NoStore,
    StoredPaper,
    WriteReport,
)
from arxiv_embed.stores.rows import row_schema

SCAN_ROWS = 4_096
LEAST_CANDIDATES, MOST_CANDIDATES = 400, 1_000
"""How many pgvector keeps in mind while it walks through an HNSW index."""


class PostgresStore:
    """See `VectorStore`. `url` is without the password. Any number of threads may read at once."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        self._server = Server(url)
        self.url = self._server.name
        self._reader = Reader(self._server)
        self._writer = Writer(self._server)
        self._added: Counter[str] = Counter()
        self._vocabulary = Vocabulary()
        with contextlib.suppress(NoStore) if create else contextlib.nullcontext():
            self._reader.look()
        self._writer.was_there = self._reader.was_there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._writer.close()

    def spaces(self) -> list[Space]:
        with contextlib.suppress(HoldsNothing), self._reader.connection() as connection:
            found = connection.execute("SELECT description FROM arxiv_embed.spaces ORDER BY begun DESC").fetchall()
            return [Space.from_json(description) for (description,) in found]
        return []

    def shards(self, space: str) -> Mapping[str, str]:
        query = "SELECT shard, identity FROM arxiv_embed.shards WHERE space = %s AND identity <> %s"
        with contextlib.suppress(HoldsNothing), self._reader.connection() as connection:
            return dict(connection.execute(query, [storable(space), TO_BE_WRITTEN]).fetchall())
        return {}

    def count(self, space: str) -> tuple[int, int]:
        query = sql.SQL("SELECT count(*) FILTER (WHERE chunk_index = -1), count(*) FROM {}").format(rows_of(space))
        with contextlib.suppress(HoldsNothing), self._reader.connection() as connection:
            [(papers, rows)] = connection.execute(query).fetchall()
            return papers, rows
        return 0, 0

    def keys_of(self, space: str, shard: str) -> pa.Table:
        names = ("paper_id", "chunk_index")
        return self._table(space, names, "shard = %(shard)s", {"shard": storable(shard)})

    def write_shard(
        self, space: Space, shard: str, rows: pa.Table, identity: str, *, listed: Container[str] | None = None
    ) -> WriteReport:
        uncovered: set[str] = set()

        def write(connection: Connection) -> WriteReport:
            report = merge(connection, space, shard, rows, identity, listed, uncovered, self._added)
            self._reader.was_there = True
            return report

        return self._writer.change(write)

    def drop(self, space: str) -> None:
        def remove(connection: Connection) -> None:
            with connection.transaction():
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(rows_of(space)))
                connection.execute("DELETE FROM arxiv_embed.spaces WHERE fingerprint = %s", [space])

        self._writer.change(remove)

    def finish(self, space: Space) -> None:
        if space in self.spaces():
            self._writer.change(lambda connection: build(connection, space))
        del self._added[space.fingerprint]

    def is_finished(self, space: Space) -> bool:
        with contextlib.suppress(HoldsNothing), self._reader.connection() as connection:
            return is_built(connection, space)
        return True

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
        condition, given = where(CHUNKS if chunks else PAPERS, filters)
        query = _by_distance(space, vector, condition)
        given |= {"vector": np.asarray(vector, np.float32), "limit": limit}
        with self._reader.connection() as connection, connection.transaction():
            if not exact:
                candidates = str(min(max(2 * limit, LEAST_CANDIDATES), MOST_CANDIDATES))
                connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [candidates])
                found = connection.execute(query, given).fetchall()
            if exact or len(found) < limit:  # filters that leave little may end the walk through an index early
                connection.execute("SELECT set_config('enable_indexscan', 'off', true)")
                found = connection.execute(query, given).fetchall()
        return [Match(*match) for match in found]

    def matching(self, space: str, text: str, limit: int, filters: Filters) -> list[Match]:
        condition, given = where(PAPERS, filters)
        query = sql.SQL(
            """
            SELECT paper_id, (
                SELECT sum(worth * ts_rank(held.words, word, 1))
                FROM unnest(%(words)s::text[]::tsquery[], %(worth)s::float8[]) AS asked(word, worth)
            ) AS score
            FROM (
                -- A copy of the words: they may lie out of line, and are fetched once so and not for each word asked.
                SELECT paper_id, words || ''::tsvector AS words
                FROM {rows} WHERE {where} AND words @@ %(selecting)s::tsquery LIMIT %(most)s
            ) AS held
            ORDER BY score DESC, paper_id LIMIT %(limit)s
            """
        ).format(rows=rows_of(space), where=condition)
        found: list[tuple[Any, ...]] = []
        with self._reader.connection() as connection:
            asked = self._vocabulary.words_of(connection, space, text)
            given |= {"words": list(asked.words), "worth": list(asked.worth), "limit": limit, "most": MOST_RANKED}
            for selecting in asked.selections():
                found = connection.execute(query, {**given, "selecting": selecting}).fetchall()
                if len(found) == limit:
                    break
        return [Match(*match) for match in found]

    def papers(self, space: str, ids: Sequence[str]) -> Mapping[str, StoredPaper]:
        if not ids:
            return {}
        with self._reader.connection() as connection:
            return _papers(connection, space, ids)

    def papers_and_chunks(
        self, space: str, ids: Sequence[str], vector: npt.NDArray[np.float32]
    ) -> tuple[Mapping[str, StoredPaper], list[Chunk]]:
        if not ids:
            return {}, []
        of_papers = sql.SQL(CHUNKS + " AND paper_id = ANY(%(papers)s)")
        query = _by_distance(space, vector, of_papers, "paper_id, start_char, end_char")
        given = {"papers": list(map(storable, ids)), "vector": np.asarray(vector, np.float32), "limit": None}
        with self._reader.connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            chunks = [Chunk(*chunk) for chunk in connection.execute(query, given).fetchall()]
            return _papers(connection, space, ids), chunks

    def vectors_of_texts(self, space: str, texts: Sequence[str]) -> pa.Table:
        condition = (
            "tokens IS NOT NULL AND paper_id IN ("
            "SELECT min(paper_id) FROM {rows} WHERE chunk_index = -1 AND tokens IS NOT NULL"
            " AND text_sha256 = ANY(%(texts)s) GROUP BY text_sha256)"
        )
        with contextlib.suppress(HoldsNothing):
            return self._table(space, VECTORS, condition, {"texts": list(map(storable, texts))})
        return pa.table({name: [] for name in VECTORS})

    def scan(self, space: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        with self._reader.connection() as connection:
            dimensions = _dimensions(connection, space)
            names = list(columns or row_schema(dimensions).names)
            query = sql.SQL("SELECT {} FROM {}").format(selected(space, names), rows_of(space))
            # The cursor's snapshot is of the moment when it was opened.
            with connection.transaction(), connection.cursor("scan") as cursor:
                cursor.execute(query, binary=True)
                while records := cursor.fetchmany(SCAN_ROWS):
                    yield from arrow_table(records, names, dimensions).to_batches()

    def vector_of(self, space: str, paper_id: str) -> npt.NDArray[np.float32] | None:
        found = self._table(space, ("vector",), PAPERS + " AND paper_id = %(paper)s", {"paper": storable(paper_id)})
        return np.array(found["vector"][0].as_py(), np.float32) if found.num_rows else None

    def _table(self, space: str, names: Sequence[str], condition: LiteralString, given: Mapping[str, Any]) -> pa.Table:
        rows = rows_of(space)
        where_ = sql.SQL(condition).format(rows=rows)
        query = sql.SQL("SELECT {} FROM {} WHERE {}").format(selected(space, names), rows, where_)
        with self._reader.connection() as connection:
            found = connection.execute(query, given, binary=True)
            return arrow_table(found.fetchall(), names, _dimensions(connection, space))


def _papers(connection: Connection, space: str, ids: Sequence[str]) -> Mapping[str, StoredPaper]:
    names = [field.name for field in fields(StoredPaper)]
    query = sql.SQL("SELECT {} FROM {} WHERE chunk_index = -1 AND paper_id = ANY(%s)").format(
        selected(space, names), rows_of(space)
    )
    found = connection.execute(query, [list(map(storable, ids))]).fetchall()
    papers = (dict(zip(names, values, strict=True)) for values in found)
    return {paper["paper_id"]: StoredPaper(**{**paper, "categories": tuple(paper["categories"])}) for paper in papers}


def _by_distance(
    space: str, vector: npt.NDArray[np.float32], condition: sql.Composable, names: LiteralString = "paper_id"
) -> sql.Composed:
    type_ = sql.SQL(vector_type(len(vector)))
    return sql.SQL(
        "SELECT {names}, 1 - (vector <=> %(vector)s::{type}) FROM {rows} WHERE {where}"
        " ORDER BY vector <=> %(vector)s::{type} LIMIT %(limit)s"
    ).format(names=sql.SQL(names), type=type_, rows=rows_of(space), where=condition)


def _dimensions(connection: Connection, space: str) -> int:
    """Of the vectors of a space that the store holds."""
    [(dimensions,)] = connection.execute(
        "SELECT atttypmod FROM pg_attribute WHERE attname = 'vector' AND attrelid = %s::regclass",
        [rows_of(space).as_string(connection)],
    ).fetchall()
    return int(dimensions)
