"""The difference between a shard's rows as they arrive and as a table holds them: what is the same is left as it is.

To write a row anew would cost its place in every index; who wrote it (`run_id`) is no reason to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LIST_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Difference:
    """The rows that the table lacks or holds otherwise, and the keys of those that it holds and that arrive no more."""

    changed: pa.Table
    gone: list[str]


def difference(held: Iterable[pa.RecordBatch], rows: pa.Table) -> Difference:
    """Of the rows of a shard that a table holds, in pieces, to all that arrive of it; both of the same columns."""
    rows = rows.combine_chunks()
    same = np.zeros(rows.num_rows, bool)
    gone: list[str] = []
    for batch in held:
        place = pc.index_in(batch["key"], rows["key"])
        gone += batch["key"].filter(pc.is_null(place)).to_pylist()
        found = place.drop_null()
        same[found.to_numpy()] = _are_equal(batch.filter(pc.is_valid(place)), rows.take(found))
    return Difference(rows.filter(pa.array(~same)), gone)


def _are_equal(held: pa.RecordBatch, arriving: pa.Table) -> npt.NDArray[np.bool_]:
    equal = np.ones(arriving.num_rows, bool)
    for field in arriving.schema:
        if field.name != "run_id":
            equal &= _column_is_equal(held[field.name], arriving[field.name].combine_chunks())
    return equal


def _column_is_equal(held: pa.Array, arriving: pa.Array) -> npt.NDArray[np.bool_]:
    if pa.types.is_fixed_size_list(arriving.type):
        shape = len(arriving), arriving.type.list_size
        numbers = (column.flatten().to_numpy(zero_copy_only=False).reshape(shape) for column in (held, arriving))
        equal_vectors: npt.NDArray[np.bool_] = np.equal(*numbers).all(axis=1)
        return equal_vectors
    if pa.types.is_list(arriving.type):
        held, arriving = (pc.binary_join(column, LIST_SEPARATOR) for column in (held, arriving))
    both_null = pc.and_(pc.is_null(held), pc.is_null(arriving))
    equal: npt.NDArray[np.bool_] = pc.or_(both_null, pc.fill_null(pc.equal(held, arriving), False)).to_numpy(
        zero_copy_only=False
    )
    return equal
