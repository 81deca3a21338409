"""Export files: rows and vectors of one space, written piece by piece in memory that does not grow with them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_BYTES = 64 << 20
"""Of vectors, in a row group of Parquet."""

ROWS_WITHOUT_VECTORS = 16_384
"""In a row group; while they wait, what the database read with them is held too."""

SPACE_METADATA = "arxiv_embed.space"
"""The key under which a Parquet file's schema says, in JSON, what its vectors mean."""

VECTOR_ELEMENT = "vector.list.element"

VECTORS, ROWS = "vectors.npy", "rows.parquet"


class SpaceFiles(Protocol):
    """The files of one space while they are written; `close` makes them whole and durable, `abandon` does neither."""

    def write(self, rows: pa.RecordBatch) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None: ...


class ParquetFile:
    """A file of rows, their vectors as lists of fixed size where `schema` has a column `vector`.

    The bytes of vectors are stored by their significance: the signs and exponents of real ones then compress, to 0.8 of
    the whole, where they are noise as they stand. That takes 40% longer to write, and no longer to read.
    """

    def __init__(self, path: Path, schema: pa.Schema, space: Mapping[str, Any]) -> None:
        self._schema = schema.with_metadata({SPACE_METADATA: json.dumps(space, ensure_ascii=False)})
        has_vectors = "vector" in schema.names
        scalars = [field.name for field in schema if not pa.types.is_nested(field.type)]
        row_bytes = 4 * schema.field("vector").type.list_size if has_vectors else 0
        self._group_rows = max(1, ROW_GROUP_BYTES // row_bytes) if row_bytes else ROWS_WITHOUT_VECTORS
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=["space", "shard", "run_id", "published", "updated", "categories.list.element"],
            column_encoding={VECTOR_ELEMENT: "BYTE_STREAM_SPLIT"} if has_vectors else None,
            write_statistics=scalars,
        )
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0

    def write(self, rows: pa.RecordBatch) -> None:
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= self._group_rows:
            self._write_group()

    def close(self) -> None:
        if self._waiting_rows:
            self._write_group()
        self._writer.close()
        _close_durably(self._file)

    def abandon(self) -> None:
        for file in (self._writer, self._file):
            with contextlib.suppress(OSError):
                file.close()

    def _write_group(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema), row_group_size=self._waiting_rows)
        self._waiting.clear()
        self._waiting_rows = 0


class NumpyFiles:
    """A folder with a matrix float32 [rows, dimensions] that can be mapped into memory, and beside it what its rows
    are, in the same order."""

    def __init__(self, folder: Path, schema: pa.Schema, space: Mapping[str, Any]) -> None:
        folder.mkdir()
        at = schema.get_field_index("vector")
        self._dimensions = schema.field(at).type.list_size
        self._rows = ParquetFile(folder / ROWS, schema.remove(at), space)
        self._matrix = (folder / VECTORS).open("wb")
        self._count = 0
        self._write_header()

    def write(self, rows: pa.RecordBatch) -> None:
        vectors = rows["vector"].flatten().to_numpy(zero_copy_only=True)
        self._matrix.write(vectors.astype("<f4", copy=False).data)
        self._rows.write(rows.drop_columns(["vector"]))
        self._count += rows.num_rows

    def close(self) -> None:
        self._matrix.seek(0)
        self._write_header()  # NumPy leaves room in it for any number of rows
        _close_durably(self._matrix)
        self._rows.close()

    def abandon(self) -> None:
        self._rows.abandon()
        with contextlib.suppress(OSError):
            self._matrix.close()

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (self._count, self._dimensions)}
        np.lib.format.write_array_header_1_0(self._matrix, header)


def _close_durably(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
