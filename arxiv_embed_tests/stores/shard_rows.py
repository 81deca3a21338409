"""A shard's rows as a store gets them, made from a few words on each paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from arxiv_embed.embed import papers_table
from arxiv_embed.encoding.space import Space
from arxiv_embed.metadata.paper import Paper
from arxiv_embed.stores.protocol import StoreError, VectorStore
from arxiv_embed.stores.rows import stored_rows
from arxiv_embed.vectors import vectors_schema
from arxiv_embed_tests.fake_pool import vectors_of

SPACE = Space("tiny", "r1", "retrieval", "", "mean", True, "sentences:128", 1, 512, 0, 0, 256, 8, "title", "")
OTHER_SPACE = Space("tiny", "r1", "retrieval", "", "mean", True, "whole", 0, 512, 0, 0, 256, 8, "title", "")


@dataclass(frozen=True)
class Record:
    """One shard's record of a paper; `text` is its abstract, `chunks` how many that makes, `cut` its tokens beyond the
    limit."""

    id: str
    updated: str = "2020-01-01"
    version: int = 1
    text: str = "an abstract"
    chunks: int = 2
    title: str = "A title"
    categories: tuple[str, ...] = ("cs.LG",)
    published: str = "2019-05-06"
    cut: int = 0
    authors: str = "A. Author"
    withdrawn: bool = False

    @property
    def paper(self) -> Paper:
        return Paper(
            id=self.id,
            version=self.version,
            title=self.title,
            abstract=self.text,
            authors=self.authors,
            categories=self.categories,
            published=self.published,
            updated=self.updated,
            withdrawn=self.withdrawn,
        )


def vectors_table(records: Iterable[Record], dimensions: int = SPACE.dimensions) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for record in records:
        text = record.paper.text
        vectors = np.resize(vectors_of(text, dimensions), (1 + record.chunks, dimensions))
        size = -(-len(text) // record.chunks)
        spans = [(0, len(text)), *((n * size, min((n + 1) * size, len(text))) for n in range(record.chunks))]
        rows.extend(
            {
                "paper_id": record.id,
                "chunk_index": place - 1,
                "start_char": start,
                "end_char": end,
                "tokens": 1,
                "cut_tokens": 0 if place else record.cut,
                "vector": vectors[place].tolist(),
                "text_sha256": record.paper.text_sha256,
            }
            for place, (start, end) in enumerate(spans)
        )
    return pa.Table.from_pylist(rows, schema=vectors_schema(dimensions))


def shard_rows(shard: str, records: Iterable[Record], space: Space = SPACE, run_id: str = "run") -> pa.Table:
    records = list(records)
    papers = papers_table([record.paper for record in records])
    vectors = vectors_table(records, space.dimensions)
    return stored_rows(papers, vectors, space=space.fingerprint, shard=shard, run_id=run_id)


def held(store: VectorStore, space: Space = SPACE) -> list[dict[str, Any]]:
    """Every row, sorted by its key; where it was written last does not count."""
    try:
        rows = [row for batch in store.scan(space.fingerprint) for row in batch.to_pylist()]
    except StoreError:
        return []
    return sorted(rows, key=lambda row: row["key"])


def write(store: VectorStore, shard: str, *records: Record, identity: str | None = None) -> tuple[str, ...]:
    """Returns the shards that are to be written again."""
    return store.write_shard(SPACE, shard, shard_rows(shard, records), identity or repr(records)).uncovered


def papers_held(store: VectorStore) -> Mapping[str, tuple[str, str, int]]:
    """Paper → the shard, date and version of the record that the store has of it; checks its chunks for wholeness."""
    rows = held(store)
    assert len({row["key"] for row in rows}) == len(rows)
    found = {}
    for row in rows:
        if row["chunk_index"] == -1:
            found[row["paper_id"]] = (row["shard"], row["updated"], row["version"])
    for row in rows:
        assert found[row["paper_id"]] == (row["shard"], row["updated"], row["version"])
    return found
