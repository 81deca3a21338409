"""The indexes of a LanceDB table of rows: which there are, when one is built anew, and how the vectors' is asked.

The figures are of 316,000 rows of 384 dimensions on two cores: IVF-RQ of two bits a dimension is built in 6.5 s, where
IVF-HNSW-SQ takes minutes; it finds 997 of a thousand nearest papers in 8 ms a query, where comparing every vector takes
240 ms (docs/decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from lancedb.index import FTS, Bitmap, BTree, IvfFlat, IvfRq, LabelList

TEXT_COLUMNS = ("title", "abstract")
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(TEXT_COLUMNS, FTS),
    **dict.fromkeys(("paper_id", "text_sha256", "published", "updated"), BTree),
    **dict.fromkeys(("chunk_index", "shard", "withdrawn"), Bitmap),
    "subjects": LabelList,
}

LEAST_ROWS = 20_000
"""Of fewer every vector is compared, in some 15 ms."""

PARTITION_ROWS, MOST_SMALL_PARTITIONS, LARGE_PARTITION_ROWS = 2_048, 256, 8_192
"""A table is split into small partitions, of which the nearest are looked at, until it is large: to find the centroids
of so many would take longer than it saves."""
OUTGROWN = 3
"""Times as many rows as when the index was built: its centroids are then those of another corpus."""

LEAST_PROBES, PROBED_SHARE = 75, 1 / 16
"""Of its partitions so many are looked at, or such a share where there are more."""

BITS = 2
"""A dimension in the index: one takes 300 whole vectors for the same recall, and these are what costs time."""

REFINED, LEAST_REFINED = 2, 100
"""For each row asked for so many are compared by their whole vectors, and so many at least."""

KEPT_VERSIONS = timedelta(hours=1)
"""A reader goes on reading the version that it has begun with; no query, and no export, takes so long."""
COMPACTION = timedelta(hours=1)
"""No compaction takes so long. Lance counts a version's age when it is through with one."""


def keep_indexes(table: Any) -> None:
    """Joins small files, forgets old versions and takes new rows into the indexes; builds those that are missing, and
    the vectors' anew where the table has outgrown it."""
    held = table.list_indices()
    for column in _missing(table, held):
        table.create_index(column, config=COLUMNS[column]())
    compact(table)
    rows = table.count_rows()
    if _is_outgrown(held, rows):
        for index in held:
            if "vector" in index.columns:
                table.drop_index(index.name)
        _index_vectors(table, rows)


def has_indexes(table: Any) -> bool:
    """Whether `keep_indexes` has nothing to build, and no row to take into an index."""
    held = table.list_indices()
    if _missing(table, held) or _is_outgrown(held, table.count_rows()):
        return False
    return not any(table.index_stats(index.name).num_unindexed_rows for index in held)


def _missing(table: Any, held: Sequence[Any]) -> list[str]:
    """The columns that lack an index; a table of an older version may lack the column."""
    indexed = {column for index in held for column in index.columns}
    return [column for column in COLUMNS if column in table.schema.names and column not in indexed]


def _is_outgrown(held: Sequence[Any], rows: int) -> bool:
    indexed = next((_rows_when_built(index.name) for index in held if "vector" in index.columns), 0)
    return rows >= max(LEAST_ROWS, OUTGROWN * indexed)


def compact(table: Any) -> None:
    begun = [version["timestamp"] for version in table.list_versions()]
    table.optimize(cleanup_older_than=age_forgotten(begun, datetime.now()))


def age_forgotten(begun: Sequence[datetime], now: datetime) -> timedelta:
    """The age from which on a table's versions, which began then, are read by nobody. A reader has begun with the one
    that was the last at the time, however old that was: so the one that was it `KEPT_VERSIONS` ago stays."""
    ages = [now - time for time in begun]
    return min((age for age in ages if age >= KEPT_VERSIONS), default=KEPT_VERSIONS) + COMPACTION


def asked(query: Any, limit: int, rows: int) -> Any:
    """The query for the `limit` nearest of a table's `rows`, with as much search as good recall takes."""
    probes = max(LEAST_PROBES, round(_partitions(rows) * PROBED_SHARE))
    return query.nprobes(probes).refine_factor(max(REFINED, -(-LEAST_REFINED // limit)))


def _partitions(rows: int) -> int:
    return max(min(rows // PARTITION_ROWS, MOST_SMALL_PARTITIONS), rows // LARGE_PARTITION_ROWS, 1)


def _index_vectors(table: Any, rows: int) -> None:
    """Under a name that says how many rows the table has."""
    dimensions, partitions = table.schema.field("vector").type.list_size, _partitions(rows)
    config: IvfRq | IvfFlat
    if dimensions % 8 == 0:
        config = IvfRq(distance_type="cosine", num_partitions=partitions, num_bits=BITS)
    else:
        config = IvfFlat(distance_type="cosine", num_partitions=partitions)
    table.create_index("vector", config=config, name=f"vector_of_{rows}_rows")


def _rows_when_built(name: str) -> int:
    """0 for an index that is not ours, or of an older version's kind: it is built anew."""
    match = re.fullmatch(r"vector_of_(\d+)_rows", name)
    return int(match[1]) if match else 0
