"""Rows: what a store holds of a shard, made from its checkpoints' two tables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.stores.protocol import PAPER_CHUNK


def row_schema(dimensions: int) -> pa.Schema:
    """A stored row. `key` is the paper and the chunk: with the space, which is a table of its own, a row's key.

    Title, authors and abstract stand on the row of the whole paper only, and so does `cut_tokens`, how many tokens of
    its text are beyond the limit and not embedded; what filters need stands on every row. `tokens` and `cut_tokens`
    are null in rows of older stores. `subjects` are the categories and their archives in small letters, which is what
    filters ask for.
    """
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            ("paper_id", pa.string()),
            ("chunk_index", pa.int32()),
            ("start_char", pa.int32()),
            ("end_char", pa.int32()),
            ("tokens", pa.int32()),
            ("cut_tokens", pa.int32()),
            ("vector", pa.list_(pa.float32(), dimensions)),
            ("space", pa.string()),
            ("text_sha256", pa.string()),
            ("shard", pa.string()),
            ("run_id", pa.string()),
            ("title", pa.string()),
            ("authors", pa.string()),
            ("abstract", pa.string()),
            ("categories", pa.list_(pa.string())),
            ("subjects", pa.list_(pa.string())),
            ("published", pa.string()),
            ("updated", pa.string()),
            ("version", pa.int32()),
            ("withdrawn", pa.bool_()),
        ]
    )


def stored_rows(papers: pa.Table, vectors: pa.Table, *, space: str, shard: str, run_id: str) -> pa.Table:
    """Joins the tables `papers` and `vectors` of a shard's checkpoints to rows of `row_schema`, in the order of
    `vectors`."""
    place = pc.index_in(vectors["paper_id"], papers["paper_id"])
    whole = pc.equal(vectors["chunk_index"], PAPER_CHUNK)
    on_paper_row = pc.if_else(whole, place, None)
    chunk = vectors["chunk_index"].cast(pa.string())
    columns = {
        "key": pc.binary_join_element_wise(vectors["paper_id"], chunk, "#"),
        "space": _constant(space, vectors.num_rows),
        "shard": _constant(shard, vectors.num_rows),
        "run_id": _constant(run_id, vectors.num_rows),
    }
    for name in ("paper_id", "chunk_index", "start_char", "end_char", "tokens", "vector", "text_sha256"):
        columns[name] = vectors[name]
    columns["cut_tokens"] = pc.if_else(whole, vectors["cut_tokens"], None)
    for name in ("title", "authors", "abstract"):
        columns[name] = papers[name].take(on_paper_row)
    columns["subjects"] = _subjects(papers["categories"]).take(place)
    for name in ("categories", "published", "updated", "version", "withdrawn"):
        columns[name] = papers[name].take(place)
    schema = row_schema(vectors.schema.field("vector").type.list_size)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def vectors_in(rows: pa.Table) -> npt.NDArray[np.float32]:
    """float32 [rows, dimensions]."""
    column = rows["vector"].combine_chunks()
    flat: npt.NDArray[np.float32] = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    return flat.astype(np.float32, copy=False).reshape(len(column), column.type.list_size)


def _constant(value: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value), count)


def _subjects(categories: pa.ChunkedArray) -> pa.Array:
    """["math.CO", "cs.DM"] → ["math.co", "cs.dm", "math", "cs"]."""
    lists = []
    for names in categories.to_pylist():
        exact = [name.lower() for name in names]
        lists.append(list(dict.fromkeys([*exact, *(name.partition(".")[0] for name in exact)])))
    return pa.array(lists, pa.list_(pa.string()))
