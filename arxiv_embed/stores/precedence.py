"""Precedence: of several shards that hold a paper, which one's record a store holds."""

from __future__ import annotations

from collections.abc import Container, Iterable

import pyarrow as pa
import pyarrow.compute as pc


def rivals(
    held: pa.Table, arriving: pa.Table, shard: str, listed: Container[str] | None
) -> tuple[set[str], dict[str, str]]:
    """Of the papers `held` by other shards and `arriving` again: the ids held in newer records, and of the others
    the id and the shard that loses it. Of equally new records, one of a shard that is `listed` no more loses."""
    held = held.filter(pc.is_in(held["paper_id"], arriving["paper_id"]))
    newer: set[str] = set()
    older: dict[str, str] = {}
    if held.num_rows == 0:
        return newer, older
    columns = arriving.select(["paper_id", "updated", "version"]).to_pylist()
    ranks = {row["paper_id"]: (row["updated"], row["version"], True, shard) for row in columns}
    for row in held.to_pylist():
        is_listed = listed is None or row["shard"] in listed
        if (row["updated"], row["version"], is_listed, row["shard"]) > ranks[row["paper_id"]]:
            newer.add(row["paper_id"])
        else:
            older[row["paper_id"]] = row["shard"]
    return newer, older


def given_up(ours: pa.Table, arriving: pa.Table) -> set[str]:
    """Of the papers that a shard has held, those that it holds no longer, or in an older record than before."""
    columns = arriving.select(["paper_id", "updated", "version"]).to_pylist() if ours.num_rows else []
    ranks = {row["paper_id"]: (row["updated"], row["version"]) for row in columns}
    return {
        row["paper_id"]
        for row in ours.to_pylist()
        if row["paper_id"] not in ranks or ranks[row["paper_id"]] < (row["updated"], row["version"])
    }


def unlisted(losers: Iterable[str], listed: Container[str] | None) -> set[str]:
    """Of the shards that lose papers, those that are listed no more: if one comes back, a file renamed there and back
    again, it takes its papers from the shard that will have gone then."""
    return {name for name in losers if listed is not None and name not in listed}
