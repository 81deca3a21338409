"""A merge: a shard's rows made all that the store holds of it, in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from arxiv_embed.encoding.space import Space
from arxiv_embed.stores.postgres.indexes import drop_for_bulk
from arxiv_embed.stores.postgres.rows import COLUMNS, NAMES, copy_in
from arxiv_embed.stores.postgres.schema import create_rows, rows_of
from arxiv_embed.stores.postgres.server import Connection
from arxiv_embed.stores.precedence import given_up, rivals, unlisted
from arxiv_embed.stores.protocol import PAPER_CHUNK, WriteReport

TO_BE_WRITTEN = ""
"""The identity of a shard that lacks a paper for another that does not hold it any more."""

STAGING = sql.Identifier("pg_temp", "arxiv_embed_staging")

_HELD = """
    SELECT paper_id, updated, version, shard FROM {rows} WHERE chunk_index = -1 AND shard = %(shard)s
    UNION ALL
    SELECT paper_id, updated, version, shard
    FROM {rows} JOIN unnest(%(papers)s::text[]) AS arriving (paper_id) USING (paper_id)
    WHERE chunk_index = -1 AND shard <> %(shard)s
"""
_HELD_COLUMNS = pa.schema(
    [("paper_id", pa.string()), ("updated", pa.string()), ("version", pa.int32()), ("shard", pa.string())]
)

_REMOVE = """
    DELETE FROM {rows} AS held WHERE (shard = %(shard)s OR paper_id = ANY(%(older)s))
    AND NOT EXISTS (
        SELECT FROM {staging} AS new WHERE new.paper_id = held.paper_id AND new.chunk_index = held.chunk_index
    )
"""
# A row that is the same is left as it is: to write it anew would cost its place in every index.
_UPSERT = """
    INSERT INTO {rows} AS held ({names}) SELECT {names} FROM {staging}
    ON CONFLICT (paper_id, chunk_index) DO UPDATE SET {changes} WHERE ({held}) IS DISTINCT FROM ({new})
"""


def merge(
    connection: Connection,
    space: Space,
    shard: str,
    rows: pa.Table,
    identity: str,
    listed: Container[str] | None,
    uncovered: set[str],
    added: Counter[str],
) -> WriteReport:
    """See `VectorStore.write_shard`. `uncovered` is added to: a merge whose connection ended may have been committed,
    and finds none when it is tried again. `added` counts the papers that have come to each space since it was indexed.
    """
    _remember_space(connection, space)
    arriving = rows.filter(pc.equal(rows["chunk_index"], PAPER_CHUNK))
    held = _held(connection, space.fingerprint, shard, arriving["paper_id"].to_pylist())
    ours = held.filter(pc.equal(held["shard"], shard))
    newer, older = rivals(held.filter(pc.not_equal(held["shard"], shard)), arriving, shard, listed)
    if newer:
        rows = rows.filter(pc.invert(pc.is_in(rows["paper_id"], pa.array(sorted(newer)))))
    added[space.fingerprint] += max(0, arriving.num_rows - len(newer) - len(older) - ours.num_rows)
    drop_for_bulk(connection, space.fingerprint, added[space.fingerprint])
    with connection.transaction():
        if ours.num_rows == 0 and not older:
            copy_in(connection, rows, rows_of(space.fingerprint))
        else:
            _replace(connection, space.fingerprint, shard, rows, sorted(older))
        uncovered |= _note_losses(connection, space.fingerprint, shard, older, given_up(ours, arriving), listed)
        connection.execute(
            "INSERT INTO arxiv_embed.shards (space, shard, identity, lacking) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (space, shard) DO UPDATE SET identity = excluded.identity, lacking = excluded.lacking",
            [space.fingerprint, shard, identity, sorted(newer)],
        )
    return WriteReport(rows.num_rows, len(newer), tuple(sorted(uncovered)))


def _remember_space(connection: Connection, space: Space) -> None:
    known = connection.execute("SELECT FROM arxiv_embed.spaces WHERE fingerprint = %s", [space.fingerprint]).fetchone()
    if known is None:
        with connection.transaction():
            connection.execute(
                "INSERT INTO arxiv_embed.spaces (fingerprint, description) VALUES (%s, %s)",
                [space.fingerprint, space.to_json()],
            )
            create_rows(connection, space)


def _held(connection: Connection, space: str, shard: str, papers: list[str]) -> pa.Table:
    query = sql.SQL(_HELD).format(rows=rows_of(space))
    found = connection.execute(query, {"shard": shard, "papers": papers}).fetchall()
    columns = zip(*found, strict=True) if found else ((),) * len(_HELD_COLUMNS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _HELD_COLUMNS, strict=True)]
    return pa.table(arrays, schema=_HELD_COLUMNS)


def _replace(connection: Connection, space: str, shard: str, rows: pa.Table, older: list[str]) -> None:
    names = {"rows": rows_of(space), "staging": STAGING, "names": NAMES}
    connection.execute(
        sql.SQL("CREATE TEMPORARY TABLE {staging} ON COMMIT DROP AS SELECT {names} FROM {rows} LIMIT 0").format(**names)
    )
    copy_in(connection, rows, STAGING)
    connection.execute(sql.SQL("ANALYZE {}").format(STAGING))
    connection.execute(sql.SQL(_REMOVE).format(**names), {"shard": shard, "older": older})
    changes = [sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in COLUMNS]
    compared = [name for name in COLUMNS if name != "run_id"]  # who wrote a row is no reason to write it anew
    held, new = (sql.SQL(", ").join(sql.Identifier(table, name) for name in compared) for table in ("held", "excluded"))
    connection.execute(sql.SQL(_UPSERT).format(**names, changes=sql.SQL(", ").join(changes), held=held, new=new))


def _note_losses(
    connection: Connection,
    space: str,
    shard: str,
    lost: Mapping[str, str],
    given_up: set[str],
    listed: Container[str] | None,
) -> set[str]:
    """Other shards lack the papers that they have `lost` to this one, and are to be written when they are `listed`
    again; and those that lack one that it has `given_up` are to be written again, and returned."""
    uncovered = connection.execute(
        "UPDATE arxiv_embed.shards SET identity = %s WHERE space = %s AND shard <> %s AND lacking && %s::text[]"
        " RETURNING shard",
        [TO_BE_WRITTEN, space, shard, sorted(given_up)],
    ).fetchall()
    for loser in sorted(set(lost.values())):
        papers = sorted(paper for paper, its in lost.items() if its == loser)
        connection.execute(
            "UPDATE arxiv_embed.shards SET lacking = lacking || %s::text[] WHERE space = %s AND shard = %s",
            [papers, space, loser],
        )
    connection.execute(
        "UPDATE arxiv_embed.shards SET identity = %s WHERE space = %s AND shard = ANY(%s)",
        [TO_BE_WRITTEN, space, sorted(unlisted(lost.values(), listed))],
    )
    return {name for (name,) in uncovered}
