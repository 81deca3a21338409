"""Rows as PostgreSQL takes and gives them: Arrow tables to COPY, and records to Arrow batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, LiteralString

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pgvector import HalfVector, Vector
from psycopg import sql

from arxiv_embed.stores.postgres.schema import vector_type
from arxiv_embed.stores.postgres.server import Connection
from arxiv_embed.stores.rows import row_schema, vectors_in

COPIED_ROWS = 2_000

TEXT, INTEGER, TEXTS, BOOLEAN = "text", "int4", "text[]", "bool"
COLUMNS: dict[str, LiteralString] = {
    "paper_id": TEXT,
    "chunk_index": INTEGER,
    "start_char": INTEGER,
    "end_char": INTEGER,
    "tokens": INTEGER,
    "cut_tokens": INTEGER,
    "vector": "vector",
    "text_sha256": TEXT,
    "shard": TEXT,
    "run_id": TEXT,
    "title": TEXT,
    "authors": TEXT,
    "abstract": TEXT,
    "categories": TEXTS,
    "subjects": TEXTS,
    "published": TEXT,
    "updated": TEXT,
    "version": INTEGER,
    "withdrawn": BOOLEAN,
}
"""What a row is given, in this order, with its types."""

NAMES = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))

NO_TEXT, REPLACEMENT = "\x00", "\ufffd"
"""The one character that PostgreSQL's text cannot hold, and what stands for it, as long as it."""


def copy_in(connection: Connection, rows: pa.Table, table: sql.Composable) -> None:
    """Adds rows (`row_schema`) to a table, by a binary COPY."""
    dimensions = rows.schema.field("vector").type.list_size
    types = [vector_type(dimensions) if name == "vector" else type_ for name, type_ in COLUMNS.items()]
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(table, NAMES)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for record in _records(rows, HalfVector if vector_type(dimensions) == "halfvec" else Vector):
            copy.write_row(record)


def _records(rows: pa.Table, kind: type[Vector | HalfVector]) -> Iterator[tuple[Any, ...]]:
    for start in range(0, rows.num_rows, COPIED_ROWS):
        part = rows.slice(start, COPIED_ROWS)
        columns = {name: _values(part[name]) for name in COLUMNS if name != "vector"}
        columns["vector"] = [kind(vector) for vector in vectors_in(part)]
        yield from zip(*(columns[name] for name in COLUMNS), strict=True)


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_string(column.type):
        column = pc.replace_substring(column, NO_TEXT, REPLACEMENT)
    values: list[Any] = column.to_pylist()
    if pa.types.is_list(column.type):
        return [values and [storable(value) for value in values] for values in values]
    return values


def storable(text: str) -> str:
    """The text as PostgreSQL can hold it."""
    return text.replace(NO_TEXT, REPLACEMENT).encode("utf-8", "replace").decode()


def selected(space: str, names: Sequence[str]) -> sql.Composable:
    """Columns of `row_schema` as a query selects them; the table's name stands for the space, and `key` for two."""
    made = {
        "key": sql.SQL("paper_id || '#' || chunk_index"),
        "space": sql.Literal(space),
    }
    return sql.SQL(", ").join(made.get(name, sql.Identifier(name)) for name in names)


def arrow_table(records: Sequence[tuple[Any, ...]], names: Sequence[str], dimensions: int) -> pa.Table:
    """Records as columns of `row_schema`."""
    schema = pa.schema([row_schema(dimensions).field(name) for name in names])
    columns = dict(zip(names, zip(*records, strict=True), strict=True)) if records else dict.fromkeys(names, ())
    return pa.table(
        [
            _vectors(columns[field.name], dimensions)
            if field.name == "vector"
            else pa.array(columns[field.name], field.type)
            for field in schema
        ],
        schema=schema,
    )


def _vectors(values: Iterable[Any], dimensions: int) -> pa.Array:
    arrays = [value.to_numpy() for value in values]
    flat = np.concatenate(arrays).astype(np.float32) if arrays else np.zeros(0, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dimensions)
