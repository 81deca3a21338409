"""Conditions: what filters say, in SQL; what a user gave stands in parameters only."""

from __future__ import annotations

from typing import Any, LiteralString

from psycopg import sql

from arxiv_embed.stores.postgres.rows import storable
from arxiv_embed.stores.protocol import Filters

PAPERS: LiteralString = "chunk_index = -1"
CHUNKS: LiteralString = "chunk_index <> -1"


def where(kind: LiteralString, filters: Filters) -> tuple[sql.Composable, dict[str, Any]]:
    """A condition for rows of a kind, and its parameters."""
    conditions: list[LiteralString] = [kind]
    if filters.category is not None:
        conditions.append("subjects @> ARRAY[%(category)s]::text[]")
    if filters.since is not None:
        conditions.append("(published >= %(since)s OR (published = '' AND updated >= %(since)s))")
    if filters.until is not None:
        conditions.append("((published <> '' AND published <= %(until)s) OR (published = '' AND updated <= %(until)s))")
    if filters.withdrawn is not None:
        conditions.append("withdrawn = %(withdrawn)s")
    if filters.shard is not None:
        conditions.append("shard = %(shard)s")
    given = {
        "category": filters.category and storable(filters.category.lower()),
        "since": filters.since,
        "until": filters.until,
        "withdrawn": filters.withdrawn,
        "shard": filters.shard and storable(filters.shard),
    }
    # An empty category is none that a paper has, and not the lack of a filter.
    return sql.SQL(" AND ").join(map(sql.SQL, conditions)), given
