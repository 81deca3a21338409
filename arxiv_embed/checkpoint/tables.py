"""Tables on disk: Arrow's file format, text compressed, vectors as they are."""

from __future__ import annotations

import hashlib

import pyarrow as pa

SUFFIX = ".arrow"


def to_bytes(table: pa.Table) -> memoryview:
    """One Arrow file. Vectors are noise to a compressor; a table with some is written plain."""
    has_vectors = any(pa.types.is_fixed_size_list(field.type) for field in table.schema)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=None if has_vectors else "zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def from_bytes(content: bytes) -> pa.Table:
    """The table that `to_bytes` wrote; raises `pyarrow.ArrowInvalid` for what is no such file."""
    return pa.ipc.open_file(pa.BufferReader(content)).read_all()


def sha256(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
