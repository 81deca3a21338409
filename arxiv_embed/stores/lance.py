"""The LanceDB store: a folder with one table of rows a space, and two small ones that say what it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import Expr, col, func, lit
from lancedb.index import FTS
from lancedb.query import MultiMatchQuery

from arxiv_embed.checkpoint.atomic import NoSpace, full_disk_as_sentence
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.encoding.space import Space
from arxiv_embed.stores.protocol import PAPER_CHUNK, Filters, Match, StoredPaper, StoreError, WriteReport
from arxiv_embed.stores.rows import row_schema

TEXT_COLUMNS = ("title", "abstract")
LONGEST_QUERY = 2_000
"""Characters of a full-text query that are used; what follows adds nothing to the ranking but time."""

WRITER_WAIT_SECONDS = 600.0

SPACES = pa.schema(
    [
        pa.field("fingerprint", pa.string(), nullable=False),
        ("description", pa.string()),
        ("begun", pa.string()),
    ]
)
SHARDS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("space", pa.string()),
        ("shard", pa.string()),
        ("identity", pa.string()),
        # Whether another shard's newer record stands in for one of this shard's papers.
        ("incomplete", pa.bool_()),
    ]
)


class LanceStore:
    """An embedded store; see `VectorStore`."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder)
        self._folder = folder
        with full_disk_as_sentence(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._database = lancedb.connect(folder)
        self._tables: dict[str, Any] = {}

    @staticmethod
    def is_at(folder: Path) -> bool:
        return (folder / "spaces.lance").is_dir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tables.clear()

    def spaces(self) -> list[Space]:
        table = self._table("spaces")
        if table is None:
            return []
        rows = table.search().to_arrow().sort_by([("begun", "descending")])
        return [Space.from_json(text) for text in rows["description"].to_pylist()]

    def shards(self, space: str) -> Mapping[str, str]:
        table = self._table("shards")
        if table is None:
            return {}
        rows = table.search().where(col("space") == lit(space)).select(["shard", "identity"]).to_arrow()
        return dict(zip(rows["shard"].to_pylist(), rows["identity"].to_pylist(), strict=True))

    def count(self, space: str) -> tuple[int, int]:
        table = self._table(_rows_of(space))
        if table is None:
            return 0, 0
        return table.count_rows((col("chunk_index") == lit(PAPER_CHUNK)).to_sql()), table.count_rows()

    def write_shard(self, space: Space, shard: str, rows: pa.Table, identity: str) -> WriteReport:
        with self._writing():
            self._remember_space(space)
            table = self._table(_rows_of(space.fingerprint)) or self._create(
                _rows_of(space.fingerprint), row_schema(space.dimensions), "key"
            )
            held = (
                table.search()
                .where(col("chunk_index") == lit(PAPER_CHUNK))
                .select(["paper_id", "updated", "version", "shard"])
                .to_arrow()
            )
            arriving = rows.filter(pc.equal(rows["chunk_index"], PAPER_CHUNK))
            newer, older = _rivals(held.filter(pc.not_equal(held["shard"], shard)), arriving, shard)
            ours = held.filter(pc.equal(held["shard"], shard))
            gone = ours.num_rows - ours.filter(pc.is_in(ours["paper_id"], arriving["paper_id"])).num_rows
            if newer:
                rows = rows.filter(pc.invert(pc.is_in(rows["paper_id"], pa.array(sorted(newer)))))
            replaced = col("shard") == lit(shard)
            if older:
                replaced = replaced | col("paper_id").isin(sorted(older))
            (
                table.merge_insert("key")
                .when_matched_update_all()
                .when_not_matched_insert_all()
                .when_not_matched_by_source_delete(replaced)
                .execute(rows)
            )
            self._remember_shard(
                space.fingerprint, shard, identity, bool(newer), set(older.values()), uncovered=gone > 0
            )
        return WriteReport(rows.num_rows, len(newer))

    def finish(self, space: Space) -> None:
        table = self._table(_rows_of(space.fingerprint))
        if table is None:
            return
        with self._writing():
            indexed = {column for index in table.list_indices() for column in index.columns}
            for column in TEXT_COLUMNS:
                if column not in indexed:
                    table.create_index(column, config=FTS())
            table.optimize()

    def nearest(
        self, space: str, vector: npt.NDArray[np.float32], limit: int, filters: Filters, *, chunks: bool
    ) -> list[Match]:
        kind = col("chunk_index") != lit(PAPER_CHUNK) if chunks else col("chunk_index") == lit(PAPER_CHUNK)
        return self._nearest(space, vector, limit, kind & _condition(filters))

    def matching(self, space: str, text: str, limit: int, filters: Filters) -> list[Match]:
        table = self._open(space)
        if not text.strip():
            return []
        found = (
            table.search(MultiMatchQuery(text[:LONGEST_QUERY], list(TEXT_COLUMNS)), query_type="fts")
            .where((col("chunk_index") == lit(PAPER_CHUNK)) & _condition(filters))
            .select(["paper_id", "chunk_index", "start_char", "end_char", "_score"])
            .limit(limit)
            .to_arrow()
        )
        return _matches(found, found["_score"].to_pylist())

    def chunks_of(self, space: str, papers: Sequence[str], vector: npt.NDArray[np.float32]) -> list[Match]:
        if not papers:
            return []
        of_papers = (col("chunk_index") != lit(PAPER_CHUNK)) & col("paper_id").isin(list(papers))
        return self._nearest(space, vector, 10_000, of_papers)

    def papers(self, space: str, ids: Sequence[str]) -> Mapping[str, StoredPaper]:
        if not ids:
            return {}
        rows = (
            self._open(space)
            .search()
            .where((col("chunk_index") == lit(PAPER_CHUNK)) & col("paper_id").isin(list(ids)))
            .select(
                [
                    "paper_id",
                    "title",
                    "abstract",
                    "authors",
                    "categories",
                    "published",
                    "updated",
                    "withdrawn",
                ]
            )
            .to_arrow()
            .to_pylist()
        )
        return {row["paper_id"]: StoredPaper(**{**row, "categories": tuple(row["categories"])}) for row in rows}

    def vector_of(self, space: str, paper_id: str) -> npt.NDArray[np.float32] | None:
        rows = (
            self._open(space)
            .search()
            .where((col("chunk_index") == lit(PAPER_CHUNK)) & (col("paper_id") == lit(paper_id)))
            .select(["vector"])
            .to_arrow()
        )
        return np.array(rows["vector"][0].as_py(), np.float32) if rows.num_rows else None

    def _nearest(self, space: str, vector: npt.NDArray[np.float32], limit: int, condition: Expr) -> list[Match]:
        found = (
            self._open(space)
            .search(vector, vector_column_name="vector")
            .distance_type("cosine")
            .where(condition)
            .select(["paper_id", "chunk_index", "start_char", "end_char", "_distance"])
            .limit(limit)
            .to_arrow()
        )
        return _matches(found, [1.0 - distance for distance in found["_distance"].to_pylist()])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Two writers that merge the same new keys at once leave duplicates: so there is one."""
        lock = FileLock(self._folder / "writer.lock", f"The store {self._folder}", WRITER_WAIT_SECONDS)
        with lock, full_disk_as_sentence(self._folder):
            for table in self._tables.values():
                table.checkout_latest()
            try:
                yield
            except (OSError, RuntimeError) as error:
                if "No space left" in str(error):
                    raise NoSpace(
                        f"No space is left in {self._folder}: free some and run the same command again; "
                        "what was finished is saved."
                    ) from error
                raise

    def _table(self, name: str) -> Any:
        """The table, or None where the store has none of that name."""
        if name not in self._tables:
            if not (self._folder / f"{name}.lance").is_dir():
                return None
            try:
                self._tables[name] = self._database.open_table(name)
            except (ValueError, OSError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise StoreError(
                    f"The store {self._folder} cannot be read ({reason}): move it away and run again; "
                    "checkpoints fill a new one."
                ) from None
        return self._tables[name]

    def _open(self, space: str) -> Any:
        table = self._table(_rows_of(space))
        if table is None:
            raise StoreError(f"The store {self._folder} holds nothing in this space: run with the same model first.")
        return table

    def _create(self, name: str, schema: pa.Schema, key: str) -> Any:
        table = self._database.create_table(name, schema=schema, exist_ok=True)
        table.set_unenforced_primary_key(key)
        self._tables[name] = table
        return table

    def _remember_space(self, space: Space) -> None:
        table = self._table("spaces") or self._create("spaces", SPACES, "fingerprint")
        if table.count_rows((col("fingerprint") == lit(space.fingerprint)).to_sql()) == 0:
            begun = datetime.now(UTC).isoformat()
            table.add(pa.table([[space.fingerprint], [space.to_json()], [begun]], schema=SPACES))

    def _remember_shard(
        self, space: str, shard: str, identity: str, incomplete: bool, displaced: set[str], *, uncovered: bool
    ) -> None:
        """After the rows, so that a crash between the two is seen. A shard with a paper displaced is `incomplete`;
        when papers leave this shard (`uncovered`), an incomplete one may hold them, and so is to be written again."""
        table = self._table("shards") or self._create("shards", SHARDS, "key")
        known = self.shards(space)
        states = {shard: (identity, incomplete)}
        states.update({other: (known[other], True) for other in displaced if other in known})
        rows = [
            {"key": f"{space} {name}", "space": space, "shard": name, "identity": held, "incomplete": lacking}
            for name, (held, lacking) in states.items()
        ]
        table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(
            pa.Table.from_pylist(rows, schema=SHARDS)
        )
        if uncovered:
            stale = (col("space") == lit(space)) & (col("shard") != lit(shard)) & (col("incomplete") == lit(True))
            table.delete(stale.to_sql())


def _rows_of(space: str) -> str:
    return f"rows_{space}"


def _rivals(held: pa.Table, arriving: pa.Table, shard: str) -> tuple[set[str], dict[str, str]]:
    """Of the papers `held` by other shards and `arriving` again: the ids held in newer records, and of the others
    the id and the shard that loses it."""
    held = held.filter(pc.is_in(held["paper_id"], arriving["paper_id"]))
    newer: set[str] = set()
    older: dict[str, str] = {}
    if held.num_rows == 0:
        return newer, older
    columns = arriving.select(["paper_id", "updated", "version"]).to_pylist()
    ranks = {row["paper_id"]: (row["updated"], row["version"], shard) for row in columns}
    for row in held.to_pylist():
        if (row["updated"], row["version"], row["shard"]) > ranks[row["paper_id"]]:
            newer.add(row["paper_id"])
        else:
            older[row["paper_id"]] = row["shard"]
    return newer, older


def _condition(filters: Filters) -> Expr:
    condition = lit(True)
    if filters.category is not None:
        listed = func("concat", lit(" "), func("array_to_string", col("categories"), lit(" ")), lit(" ")).lower()
        name = filters.category.lower()
        condition = condition & (listed.contains(f" {name} ") | listed.contains(f" {name}."))
    if filters.since is not None:
        unknown = (col("published") == lit("")) & (col("updated") >= lit(filters.since))
        condition = condition & ((col("published") >= lit(filters.since)) | unknown)
    return condition


def _matches(found: pa.Table, scores: Sequence[float]) -> list[Match]:
    rows = found.select(["paper_id", "chunk_index", "start_char", "end_char"]).to_pydict()
    return [Match(*row) for row in zip(*rows.values(), scores, strict=True)]
