"""Tables on disk: Arrow's file format, text compressed, vectors as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from arxiv_embed.checkpoint.atomic import DamagedFile

SUFFIX = ".arrow"
BATCH_ROWS = 4096
"""A table is written in pieces of so many rows, so that it can be read in pieces."""


def to_bytes(table: pa.Table) -> memoryview:
    """One Arrow file. Vectors are noise to a compressor; a table with some is written plain."""
    has_vectors = any(pa.types.is_fixed_size_list(field.type) for field in table.schema)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None if has_vectors else "zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=BATCH_ROWS)
    return memoryview(sink.getvalue())


def from_bytes(content: bytes) -> pa.Table:
    """The table that `to_bytes` wrote; raises `DamagedFile` for what is no such file."""
    try:
        return open_file(pa.BufferReader(content)).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DamagedFile(str(error)) from None


def open_file(source: Any, columns: Sequence[str] | None = None) -> pa.RecordBatchFileReader:
    """A reader of batches, of these columns alone; raises `DamagedFile` for what is no Arrow file."""
    try:
        reader = pa.ipc.open_file(source)
        if columns is None:
            return reader
        fields = [reader.schema.names.index(column) for column in columns]
        return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
    except pa.ArrowException as error:
        raise DamagedFile(str(error)) from None


def glance(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a file, without reading the others; their buffers fit, and their content may be anything. Raises
    `DamagedFile`, `OSError`."""
    try:
        with pa.OSFile(str(path)) as source:
            rows = open_file(source, columns).read_all().select(list(columns))
            rows.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise DamagedFile(str(error)) from None
    return rows


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
