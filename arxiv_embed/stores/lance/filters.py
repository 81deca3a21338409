"""Filters as the SQL that LanceDB takes; what a user gave stands in literals only."""

from __future__ import annotations

from collections.abc import Collection

from lancedb.expr import Expr, col, lit

from arxiv_embed.stores.protocol import Filters

_JOINED = "lower(array_to_string(categories, ' '))"
DERIVED = {
    "subjects": f"array_distinct(array_concat(string_to_array({_JOINED}, ' '), "
    f"string_to_array(regexp_replace({_JOINED}, '\\.[^ ]*', '', 'g'), ' ')))"
}
"""Columns of a row that can be told from its others, for rows that were stored without."""


def where(kind: Expr, filters: Filters, columns: Collection[str]) -> str:
    """Of the rows of that kind those that the filters let through, in a table of these columns."""
    conditions = [kind.to_sql()]
    if filters.category is not None:
        subjects = "subjects" if "subjects" in columns else DERIVED["subjects"]
        conditions.append(f"array_has_any({subjects}, [{_literal(filters.category.lower()).to_sql()}])")
    if filters.since is not None:
        unknown = (col("published") == lit("")) & (col("updated") >= lit(filters.since))
        conditions.append(((col("published") >= lit(filters.since)) | unknown).to_sql())
    if filters.until is not None:
        known = (col("published") != lit("")) & (col("published") <= lit(filters.until))
        unknown = (col("published") == lit("")) & (col("updated") <= lit(filters.until))
        conditions.append((known | unknown).to_sql())
    if filters.withdrawn is not None:
        conditions.append((col("withdrawn") == lit(filters.withdrawn)).to_sql())
    if filters.shard is not None:
        conditions.append((col("shard") == _literal(filters.shard)).to_sql())
    return " AND ".join(f"({condition})" for condition in conditions)


def _literal(text: str) -> Expr:
    """Of any text: a terminal's stray bytes come as lone surrogates, which no column holds."""
    return lit(text.encode("utf-8", "replace").decode())
