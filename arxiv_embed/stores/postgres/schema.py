"""The schema: the tables of a store, made by numbered migrations, and a table of rows for each space."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

from arxiv_embed.encoding.space import Space
from arxiv_embed.stores.postgres.server import Connection
from arxiv_embed.stores.protocol import NewerStore, StoreError

SCHEMA = "arxiv_embed"
EXTENSION = "vector"
LEAST_EXTENSION = (0, 8)
"""The first with iterative scans, which make filters keep their promise."""

MIGRATIONS: tuple[LiteralString, ...] = (
    """
    CREATE TABLE arxiv_embed.spaces (
        fingerprint text COLLATE "C" PRIMARY KEY,
        description text NOT NULL,
        begun timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE TABLE arxiv_embed.shards (
        space text COLLATE "C" NOT NULL REFERENCES arxiv_embed.spaces ON DELETE CASCADE,
        shard text COLLATE "C" NOT NULL,
        identity text NOT NULL,
        lacking text[] COLLATE "C" NOT NULL,
        PRIMARY KEY (space, shard)
    );
    COMMENT ON COLUMN arxiv_embed.shards.identity IS 'empty: to be written again';
    COMMENT ON COLUMN arxiv_embed.shards.lacking IS
        'papers of the shard that another shard''s newer record stands in for';
    """,
)
"""Each brings a store of the version before to the next; what is published here is never changed."""

WIDEST_VECTOR = 2_000
"""Dimensions: the most that an HNSW index takes of single-precision numbers."""
WIDEST_HALFVEC = 4_000
"""And of half-precision ones; rows of more are searched without an index."""
WIDEST_INLINE = 1_000
"""Dimensions of a vector that stands in its row. Beyond, two rows would not fit a page of 8 KB."""


def version_of(connection: Connection) -> int:
    """The version of the store, 0 where there is none, or one whose making was interrupted."""
    [(there,)] = connection.execute("SELECT to_regclass('arxiv_embed.migrations') IS NOT NULL").fetchall()
    if not there:
        return 0
    [(version,)] = connection.execute("SELECT coalesce(max(version), 0) FROM arxiv_embed.migrations").fetchall()
    return int(version)


def refuse_newer(version: int, name: str) -> None:
    """Raises `NewerStore` for a store that this version of the package does not know."""
    if version > len(MIGRATIONS):
        raise NewerStore(name, version, len(MIGRATIONS))


def migrate(connection: Connection, version: int, name: str) -> None:
    """Brings a store, or a database that has none, to this version; whoever calls holds the writer's lock."""
    if version >= len(MIGRATIONS):
        return
    require_extension(connection, name)
    with connection.transaction():
        connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(EXTENSION)))
        [(there,)] = connection.execute("SELECT to_regnamespace('arxiv_embed') IS NOT NULL").fetchall()
        if not there:  # IF NOT EXISTS would ask for a right that a user who was given the schema need not have
            connection.execute("CREATE SCHEMA arxiv_embed")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS arxiv_embed.migrations"
            " (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
    for number in range(version + 1, len(MIGRATIONS) + 1):
        with connection.transaction():
            connection.execute(MIGRATIONS[number - 1])
            connection.execute("INSERT INTO arxiv_embed.migrations (version) VALUES (%s)", [number])


def require_extension(connection: Connection, name: str) -> None:
    """Raises `StoreError` where the server has no pgvector, or an old one."""
    found = connection.execute(
        "SELECT coalesce(installed_version, default_version), installed_version IS NOT NULL"
        " FROM pg_available_extensions WHERE name = %s",
        [EXTENSION],
    ).fetchone()
    if found is None:
        raise StoreError(
            f"The server of {name} has no pgvector: install it there (https://github.com/pgvector/pgvector), or use "
            "the image pgvector/pgvector."
        )
    version, installed = found
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_EXTENSION:
        least = ".".join(map(str, LEAST_EXTENSION))
        how = "run ALTER EXTENSION vector UPDATE in the database" if installed else "install a newer one on the server"
        raise StoreError(f"The pgvector of {name} is version {version}, needed is {least} or newer: {how}.")


def rows_of(space: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, f"rows_{space}")


def vector_type(dimensions: int) -> LiteralString:
    return "vector" if dimensions <= WIDEST_VECTOR else "halfvec"


def create_rows(connection: Connection, space: Space) -> None:
    """The table of a space's rows, where there is none.

    Names compare by their bytes (collation "C"): an index in a language's order breaks when its library changes."""
    type_ = sql.SQL("{}({})").format(sql.SQL(vector_type(space.dimensions)), sql.Literal(space.dimensions))
    storage = sql.SQL("PLAIN" if space.dimensions <= WIDEST_INLINE else "EXTERNAL")
    connection.execute(
        sql.SQL(
            """
            CREATE TABLE IF NOT EXISTS {rows} (
                paper_id text COLLATE "C" NOT NULL,
                chunk_index integer NOT NULL,
                start_char integer,
                end_char integer,
                tokens integer,
                cut_tokens integer,
                vector {type} STORAGE {storage} NOT NULL,
                text_sha256 text COLLATE "C",
                shard text COLLATE "C" NOT NULL,
                run_id text,
                title text,
                authors text,
                abstract text,
                categories text[],
                subjects text[] COLLATE "C",
                published text COLLATE "C",
                updated text COLLATE "C",
                version integer,
                withdrawn boolean,
                words tsvector GENERATED ALWAYS AS (
                    CASE WHEN chunk_index = -1 THEN
                        setweight(to_tsvector('pg_catalog.english', left(coalesce(title, ''), 100000)), 'A') ||
                        setweight(to_tsvector('pg_catalog.english', left(coalesce(abstract, ''), 100000)), 'B')
                    END
                ) STORED,
                PRIMARY KEY (paper_id, chunk_index)
            )
            """
        ).format(rows=rows_of(space.fingerprint), type=type_, storage=storage)
    )
    connection.execute(
        sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} (shard)").format(
            sql.Identifier(f"rows_{space.fingerprint}_shard"), rows_of(space.fingerprint)
        )
    )
