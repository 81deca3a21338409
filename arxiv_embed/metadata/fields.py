"""Fields: what else a record says of its paper, kept as JSON text: its scalars that have no column of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

LONGEST_FIELD = 1000
"""Characters; what is longer is cut."""

WITH_COLUMNS = frozenset(
    {
        "id",
        "title",
        "abstract",
        "authors",
        "authors_parsed",
        "categories",
        "created",
        "published",
        "update_date",
        "updated",
        "versions",
    }
)
"""The fields that a paper's own columns are made of."""

_SCALARS = frozenset({str, int, float, bool})


def fields_text(record: Mapping[str, Any]) -> str:
    """The other scalars of a record, as one JSON object; "" where there are none."""
    kept = {name: value for name, value in record.items() if value is not None and name not in WITH_COLUMNS}
    if not kept:
        return ""
    if _SCALARS.issuperset(map(type, kept.values())):
        try:
            text = orjson.dumps(kept)
        except orjson.JSONEncodeError:
            text = b""  # a number beyond 64 bits, say
        if 0 < len(text) <= LONGEST_FIELD:
            return text.decode()  # the common case: nothing in it can be too long
    return _cut_fields_text(kept)


def _cut_fields_text(record: Mapping[str, Any]) -> str:
    scalars = {name: value for name, value in record.items() if type(value) in _SCALARS}
    cut = {name: value[:LONGEST_FIELD] if type(value) is str else value for name, value in scalars.items()}
    return json.dumps(cut) if cut else ""


def parse_fields(text: str) -> Mapping[str, str | int | float | bool]:
    """What `fields_text` wrote."""
    return json.loads(text) if text else {}
