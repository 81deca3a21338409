"""Indexes: what a table of rows is given once it is filled, and when it is faster to fill it without."""

from __future__ import annotations

import contextlib
from typing import LiteralString

from psycopg import errors as pg
from psycopg import sql

from arxiv_embed.encoding.space import Space
from arxiv_embed.stores.postgres.schema import WIDEST_HALFVEC, rows_of, vector_type
from arxiv_embed.stores.postgres.server import Connection

INDEX_FROM = 10_000
"""Papers; an exact search of fewer takes no longer than one by index."""
MOST_MEMORY = 1 << 30
"""Bytes that building an index may take, unless the server's own maintenance_work_mem is more. HNSW beyond what it may
take goes on at a tenth of the speed."""
OF_A_PAPER = 2_000
"""Bytes that HNSW needs for a paper besides its vector."""
HNSW = sql.SQL("m = 16, ef_construction = 64")
DROP_WAIT = "1s"
MUCH = 0.1
"""Of the papers in an HNSW index: to add so many to it one by one takes as long as to build it anew. Measured with 384
dimensions and 40,000 papers on two cores: 6 ms a paper one by one, 0.6 ms in a build."""


OF_PAPERS: dict[str, LiteralString] = {
    "words": "USING gin (words)",
    "subjects": "USING gin (subjects)",
    "published": "(published)",
    "texts": "(text_sha256)",
}
"""Indexes of whole papers' rows, besides that of their vectors. Few papers of a category, or of some days, are found at
once, where a walk through the vector index takes long to meet so many of them (20,000 papers, two cores: 3 ms and not
60, 1 ms and not 240)."""


def vector_index(space: str) -> sql.Identifier:
    return sql.Identifier("arxiv_embed", f"rows_{space}_vector")


def drop_for_bulk(connection: Connection, space: str, papers: int) -> None:
    """Drops the vector index where so many new papers have come, with those to come now, that `build` is faster than
    keeping it up: a run's shards are never known together. Until it is built, searches compare with every paper."""
    [(held,)] = connection.execute(
        "SELECT coalesce((SELECT reltuples FROM pg_class WHERE oid = to_regclass(%s)), 0)",
        [vector_index(space).as_string(connection)],
    ).fetchall()
    if 0 < held * MUCH < papers:
        # While it waited for somebody who reads long, whoever reads would wait behind it: then the index is kept up.
        with contextlib.suppress(pg.LockNotAvailable), connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [DROP_WAIT])
            connection.execute(sql.SQL("DROP INDEX {}").format(vector_index(space)))


def build(connection: Connection, space: Space) -> None:
    """Builds what is missing. PostgreSQL keeps it up from then on."""
    rows = rows_of(space.fingerprint)
    # By the writer's connection, which has the time that this takes before there is an index.
    [(papers,)] = connection.execute(sql.SQL("SELECT count(*) FROM {} WHERE chunk_index = -1").format(rows)).fetchall()
    kinds: dict[str, sql.Composable] = {of: sql.SQL(kind) for of, kind in OF_PAPERS.items()}
    if papers >= INDEX_FROM and space.dimensions <= WIDEST_HALFVEC:
        operators = sql.Identifier(f"{vector_type(space.dimensions)}_cosine_ops")
        kinds["vector"] = sql.SQL("USING hnsw (vector {}) WITH ({})").format(operators, HNSW)
    wanted = [
        sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} {} WHERE chunk_index = -1").format(
            sql.Identifier(f"rows_{space.fingerprint}_{of}"), rows, kind
        )
        for of, kind in kinds.items()
    ]
    memory = min(papers * (4 * space.dimensions + OF_A_PAPER), MOST_MEMORY)
    for statement in wanted:
        try:
            _build(connection, statement, memory)
        except pg.DiskFull:
            # Several processes share memory, of which a container has little (64 MB from Docker), and its end looks
            # like that of a disk. A disk that is full says it again.
            _build(connection, statement, memory, "0")
    connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(rows))


def is_built(connection: Connection, space: Space) -> bool:
    """Whether `build` has nothing to build."""
    if not _has(connection, rows_of(space.fingerprint)):
        return True
    names = (sql.Identifier("arxiv_embed", f"rows_{space.fingerprint}_{of}") for of in OF_PAPERS)
    if not all(_has(connection, name) for name in names):
        return False
    if space.dimensions > WIDEST_HALFVEC or _has(connection, vector_index(space.fingerprint)):
        return True
    [(papers,)] = connection.execute(
        sql.SQL("SELECT count(*) FROM (SELECT FROM {} WHERE chunk_index = -1 LIMIT %s) AS papers").format(
            rows_of(space.fingerprint)
        ),
        [INDEX_FROM],
    ).fetchall()
    return bool(papers < INDEX_FROM)


def _has(connection: Connection, name: sql.Identifier) -> bool:
    [(there,)] = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name.as_string(connection)]).fetchall()
    return bool(there)


def _build(connection: Connection, statement: sql.Composed, memory: int, helpers: str | None = None) -> None:
    with connection.transaction():
        connection.execute(
            "SELECT set_config('maintenance_work_mem', %s || 'kB', true)"
            " WHERE pg_size_bytes(current_setting('maintenance_work_mem')) < %s",
            [memory // 1024, memory],
        )
        if helpers is not None:
            connection.execute("SELECT set_config('max_parallel_maintenance_workers', %s, true)", [helpers])
        connection.execute(statement)
