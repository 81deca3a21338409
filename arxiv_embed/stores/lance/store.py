"""The LanceDB store: one table of rows a space, and two small ones that say what it holds; in a folder or a bucket."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lancedb import AsyncTable
from lancedb.expr import col, lit
from lancedb.query import MultiMatchQuery

from arxiv_embed.encoding.space import Space
from arxiv_embed.stores.lance.difference import difference
from arxiv_embed.stores.lance.filters import where
from arxiv_embed.stores.lance.indexes import TEXT_COLUMNS, asked, compact, has_indexes, keep_indexes
from arxiv_embed.stores.lance.place import SPACES_TABLE
from arxiv_embed.stores.lance.tables import FORMAT, FORMAT_KEY, Tables
from arxiv_embed.stores.precedence import given_up, rivals, unlisted
from arxiv_embed.stores.protocol import (
    PAPER_CHUNK,
    VECTORS,
    Chunk,
    Filters,
    Match,
    StoredPaper,
    StoreError,
    WriteReport,
)
from arxiv_embed.stores.rows import row_schema, vectors_in

LONGEST_QUERY = 2_000
"""Characters of a full-text query that are used; what follows adds nothing to the ranking but time."""

SCAN_ROWS = 4_096
SCAN_PAGE_ROWS = 8 * SCAN_ROWS
"""Rows of one question of a scan: Lance reads ahead of whoever takes them, up to 2 GB."""

MOST_NAMED = 1_000
"""Rows that are deleted by their keys; of more a shard is written whole."""

COMPACT_EVERY = 50
"""Writes; each leaves a fragment in its table, and the next one looks at all of them."""

TO_BE_WRITTEN = ""
"""The identity of a shard whose rows may not be those of any checkpoint."""

PLACES = ("start_char", "end_char")

SPACES = pa.schema(
    [
        pa.field("fingerprint", pa.string(), nullable=False),
        ("description", pa.string()),
        ("begun", pa.string()),
    ],
    metadata={FORMAT_KEY: str(FORMAT).encode()},
)
SHARDS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("space", pa.string()),
        ("shard", pa.string()),
        ("identity", pa.string()),
        # The papers of this shard that another shard's newer record stands in for.
        ("lacking", pa.list_(pa.string())),
    ]
)


class LanceStore:
    """An embedded store; see `VectorStore`."""

    def __init__(self, url: str | Path) -> None:
        self._tables = Tables(str(url))
        self.url = self._tables.url
        self._writes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.close()

    def spaces(self) -> list[Space]:
        table = self._tables.get(SPACES_TABLE)
        if table is None:
            return []
        rows = self._tables.read(table.search()).sort_by([("begun", "descending")])
        return [Space.from_json(text) for text in rows["description"].to_pylist()]

    def shards(self, space: str) -> Mapping[str, str]:
        table = self._tables.get("shards")
        if table is None or self._tables.get(_rows_of(space)) is None:
            return {}
        of_space = (col("space") == lit(space)) & (col("identity") != lit(TO_BE_WRITTEN))
        rows = self._tables.read(table.search().where(of_space).select(["shard", "identity"]))
        return dict(zip(rows["shard"].to_pylist(), rows["identity"].to_pylist(), strict=True))

    def count(self, space: str) -> tuple[int, int]:
        table = self._tables.get(_rows_of(space))
        if table is None:
            return 0, 0
        with self._tables.reading():
            return table.count_rows((col("chunk_index") == lit(PAPER_CHUNK)).to_sql()), table.count_rows()

    def keys_of(self, space: str, shard: str) -> pa.Table:
        query = self._open(space).search().where(col("shard") == lit(shard)).select(["paper_id", "chunk_index"])
        return self._tables.read(query)

    def write_shard(
        self, space: Space, shard: str, rows: pa.Table, identity: str, *, listed: Container[str] | None = None
    ) -> WriteReport:
        with self._tables.writing():
            self._remember_space(space)
            table = self._tables.made(_rows_of(space.fingerprint), row_schema(space.dimensions), "key")
            arriving = rows.filter(pc.equal(rows["chunk_index"], PAPER_CHUNK))
            concerned = (col("shard") == lit(shard)) | col("paper_id").isin(arriving["paper_id"].to_pylist())
            held = self._tables.read(
                table.search()
                .where((col("chunk_index") == lit(PAPER_CHUNK)) & concerned)
                .select(["paper_id", "updated", "version", "shard"])
            )
            ours = held.filter(pc.equal(held["shard"], shard))
            newer, older = rivals(held.filter(pc.not_equal(held["shard"], shard)), arriving, shard, listed)
            uncovered = self._note_losses(space.fingerprint, shard, older, given_up(ours, arriving), listed)
            if newer:
                rows = rows.filter(pc.invert(pc.is_in(rows["paper_id"], pa.array(sorted(newer)))))
            if ours.num_rows == 0 and not older and not self._tables.merges:
                table.add(rows)
            else:
                self._replace(table, shard, rows, sorted(older))
            self._remember_shard(space.fingerprint, shard, identity, sorted(newer))
            self._writes += 1
            if self._writes % COMPACT_EVERY == 0:
                self._compact(table)
        return WriteReport(rows.num_rows, len(newer), uncovered)

    def _replace(self, table: Any, shard: str, rows: pa.Table, older: list[str]) -> None:
        """In one version of the table; rows that are the same stay as they are."""
        of_shard = table.search().where(col("shard") == lit(shard)).select(rows.column_names)
        with self._tables.reading():
            found = difference(of_shard.to_batches(SCAN_ROWS), rows)
        if len(found.gone) > MOST_NAMED:
            arriving, replaced = rows, col("shard") == lit(shard)
        else:
            arriving, replaced = found.changed, col("key").isin(found.gone)
        if older:
            replaced = replaced | col("paper_id").isin(older)
        if arriving.num_rows:
            (
                table.merge_insert("key")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .when_not_matched_by_source_delete(replaced)
                .execute(arriving)
            )
        elif found.gone:
            table.delete(replaced.to_sql())

    def drop(self, space: str) -> None:
        with self._tables.writing():
            if (shards := self._tables.get("shards")) is not None:
                shards.delete((col("space") == lit(space)).to_sql())
            if self._tables.get(_rows_of(space)) is not None:
                self._tables.drop(_rows_of(space))
            if (spaces := self._tables.get(SPACES_TABLE)) is not None:
                spaces.delete((col("fingerprint") == lit(space)).to_sql())

    def finish(self, space: Space) -> None:
        table = self._tables.get(_rows_of(space.fingerprint))
        if table is None:
            return
        with self._tables.writing():
            keep_indexes(table)
            self._compact_shards()

    def is_finished(self, space: Space) -> bool:
        table = self._tables.get(_rows_of(space.fingerprint))
        with self._tables.reading():
            return table is None or has_indexes(table)

    def nearest(
        self,
        space: str,
        vector: npt.NDArray[np.float32],
        limit: int,
        filters: Filters,
        *,
        chunks: bool,
        exact: bool = False,
    ) -> list[Match]:
        rows = self._rows(space)
        kind = col("chunk_index") != lit(PAPER_CHUNK) if chunks else col("chunk_index") == lit(PAPER_CHUNK)
        condition = where(kind, filters, self._tables.columns(rows))
        if filters.shard is not None:
            return self._nearest_in_shard(rows, vector, limit, condition)

        async def near(table: AsyncTable) -> pa.Table:
            query = table.vector_search(vector).column("vector").distance_type("cosine").where(condition)
            query = query.bypass_vector_index() if exact else asked(query, limit, await table.count_rows())
            return await query.select(["paper_id", "_distance"]).limit(limit).to_arrow()

        found = self._tables.ask(rows, near)
        return _matches(found, pc.subtract(1.0, found["_distance"]))

    def _nearest_in_shard(self, rows: str, vector: npt.NDArray[np.float32], limit: int, condition: str) -> list[Match]:
        """Compared here: as long as there is no index, Lance's search reads every shard's vectors for one's."""

        async def held(table: AsyncTable) -> pa.Table:
            return await table.query().where(condition).select(["paper_id", "vector"]).to_arrow()

        found = self._tables.ask(rows, held)
        scores = vectors_in(found) @ vector
        best = np.argsort(-scores, kind="stable")[:limit]
        return _matches(found.take(best), pa.chunked_array([scores[best]]))

    def matching(self, space: str, text: str, limit: int, filters: Filters) -> list[Match]:
        rows = self._rows(space)
        if not text.strip():
            return []
        condition = None
        if filters != Filters():  # only whole papers' rows have text: a condition more is time for nothing
            condition = where(col("chunk_index") == lit(PAPER_CHUNK), filters, self._tables.columns(rows))

        async def match(table: AsyncTable) -> pa.Table:
            query = table.query().nearest_to_text(MultiMatchQuery(text[:LONGEST_QUERY], list(TEXT_COLUMNS)))
            query = query.where(condition) if condition else query
            return await query.select(["paper_id", "_score"]).limit(limit).to_arrow()

        found = self._tables.ask(rows, match)
        return _matches(found, found["_score"])

    def papers(self, space: str, ids: Sequence[str]) -> Mapping[str, StoredPaper]:
        return _papers(self._rows_of_papers(space, ids, self._of_papers(space))) if ids else {}

    def papers_and_chunks(
        self, space: str, ids: Sequence[str], vector: npt.NDArray[np.float32]
    ) -> tuple[Mapping[str, StoredPaper], list[Chunk]]:
        if not ids:
            return {}, []
        found = self._rows_of_papers(space, ids, [*self._of_papers(space), *PLACES, "vector"])
        chunks = found.filter(pc.not_equal(found["chunk_index"], PAPER_CHUNK))
        scores = (vectors_in(chunks) @ vector).tolist()
        places = [chunks[name].to_pylist() for name in ("paper_id", *PLACES)]
        return _papers(found), sorted(map(Chunk, *places, scores), key=lambda chunk: -chunk.score)

    def _of_papers(self, space: str) -> list[str]:
        """The columns of a stored paper that its table has: one of an older version may lack some."""
        held = self._tables.columns(self._rows(space))
        return [field.name for field in fields(StoredPaper) if field.name in held]

    def _rows_of_papers(self, space: str, papers: Sequence[str], names: list[str]) -> pa.Table:
        """Whole papers' and chunks': to tell them apart by another index takes longer than to read a few rows more."""
        condition = col("paper_id").isin(list(papers)).to_sql()

        async def held(table: AsyncTable) -> pa.Table:
            return await table.query().where(condition).select(["chunk_index", *names]).to_arrow()

        return self._tables.ask(self._rows(space), held)

    def vectors_of_texts(self, space: str, texts: Sequence[str]) -> pa.Table:
        table = self._tables.get(_rows_of(space))
        if table is None or not texts or "tokens" not in self._tables.columns(_rows_of(space)):
            return pa.table({name: [] for name in VECTORS})
        found = self._tables.read(
            table.search()
            .where((col("text_sha256").isin(list(texts))).to_sql() + " AND tokens IS NOT NULL")
            .select(list(VECTORS))
        )
        papers = found.filter(pc.equal(found["chunk_index"], PAPER_CHUNK)).select(["paper_id", "text_sha256"])
        one = papers.group_by("text_sha256").aggregate([("paper_id", "min")])["paper_id_min"]
        return found.filter(pc.is_in(found["paper_id"], one))

    def scan(self, space: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        self._open(space)
        with self._tables.reading():
            moment = self._tables.database.open_table(_rows_of(space))
            moment.checkout(moment.version)
            for first in range(0, moment.count_rows(), SCAN_PAGE_ROWS):
                page = moment.search().offset(first).limit(SCAN_PAGE_ROWS)
                yield from (page.select(list(columns)) if columns else page).to_batches(SCAN_ROWS)

    def vector_of(self, space: str, paper_id: str) -> npt.NDArray[np.float32] | None:
        found = self._rows_of_papers(space, [paper_id], ["vector"])
        vectors = found.filter(pc.equal(found["chunk_index"], PAPER_CHUNK))["vector"]
        return np.array(vectors[0].as_py(), np.float32) if len(vectors) else None

    def _open(self, space: str) -> Any:
        return self._tables.get(self._rows(space))

    def _rows(self, space: str) -> str:
        """The name of the table of a space's rows; raises `StoreError` where there is none."""
        if self._tables.get(_rows_of(space)) is None:
            raise StoreError(f"The store {self.url} holds nothing in this space: run with the same model first.")
        return _rows_of(space)

    def _compact(self, rows: Any) -> None:
        compact(rows)
        self._compact_shards()

    def _compact_shards(self) -> None:
        shards = self._tables.get("shards")
        if shards is not None:
            compact(shards)

    def _remember_space(self, space: Space) -> None:
        table = self._tables.made(SPACES_TABLE, SPACES, "fingerprint")
        if table.count_rows((col("fingerprint") == lit(space.fingerprint)).to_sql()) == 0:
            begun = datetime.now(UTC).isoformat()
            table.add(pa.table([[space.fingerprint], [space.to_json()], [begun]], schema=SPACES))

    def _note_losses(
        self, space: str, shard: str, lost: Mapping[str, str], given_up: set[str], listed: Container[str] | None
    ) -> tuple[str, ...]:
        """Before the rows change, so that a crash costs a shard's writing again and never a paper: this shard is to
        be written; others lack the papers that they have `lost` to it, and are to be written when they are `listed`
        again; and those that lack one that it has `given_up` are to be written again, and returned."""
        table = self._tables.get("shards")
        if table is None:
            return ()
        of_space = self._tables.read(table.search().where(col("space") == lit(space)))
        records = {record["shard"]: record for record in of_space.to_pylist()}
        changed = {name for name in (shard, *lost.values()) if name in records}
        uncovered = {name for name, record in records.items() if not given_up.isdisjoint(record["lacking"])} - {shard}
        for paper, loser in lost.items():
            if loser in records:
                records[loser]["lacking"].append(paper)
        for name in uncovered | ({shard} & changed) | unlisted(changed, listed):
            records[name]["identity"] = TO_BE_WRITTEN
        self._upsert_shards([records[name] for name in sorted(changed | uncovered)])
        return tuple(sorted(uncovered))

    def _remember_shard(self, space: str, shard: str, identity: str, lacking: Sequence[str]) -> None:
        """After the rows, so that a crash between the two is seen."""
        self._upsert_shards(
            [
                {
                    "key": f"{space} {shard}",
                    "space": space,
                    "shard": shard,
                    "identity": identity,
                    "lacking": list(lacking),
                }
            ]
        )

    def _upsert_shards(self, records: Sequence[Mapping[str, Any]]) -> None:
        if not records:
            return
        table = self._tables.made("shards", SHARDS, "key")
        rows = pa.Table.from_pylist(list(records), schema=SHARDS)
        table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows)


def _rows_of(space: str) -> str:
    return f"rows_{space}"


def _papers(found: pa.Table) -> Mapping[str, StoredPaper]:
    names = [field.name for field in fields(StoredPaper) if field.name in found.column_names]
    papers = found.filter(pc.equal(found["chunk_index"], PAPER_CHUNK)).select(names).to_pylist()
    return {paper["paper_id"]: StoredPaper(**{**paper, "categories": tuple(paper["categories"])}) for paper in papers}


def _matches(found: pa.Table, scores: pa.ChunkedArray) -> list[Match]:
    return list(map(Match, found["paper_id"].to_pylist(), scores.to_pylist()))
