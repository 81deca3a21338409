"""A writer of shards into a store, in a process of its own so that its memory can be told: prints what it measured.

`python -m bench.store_writer URL CHECKPOINTS SHARDS` writes so many shards of a run's checkpoints, then all of them
again; `python -m bench.store_writer URL wide` random rows of 2,048 dimensions. Seconds are those within `write_shard`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.embed import papers_table
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.paper import Paper
from arxiv_embed.plan import embeddings_key, papers_key
from arxiv_embed.settings import DEFAULT_MODEL, RunOptions
from arxiv_embed.stores.protocol import PAPER_CHUNK, VectorStore, open_store
from arxiv_embed.stores.rows import stored_rows
from arxiv_embed.vectors import vectors_schema
from bench.reading import peak_bytes

WIDE, WIDE_SHARDS, WIDE_PAPERS = 2_048, 3, 3_000
CHUNKS = 2

Rows = Callable[[str], pa.Table]


def written(url: str, space: Space, shards: Sequence[str], rows_of: Rows) -> dict[str, float]:
    """Rows a second, first and again; bytes at the peak of both; seconds of the indexes."""
    with open_store(url, create=True) as store:
        first, rows = _timed(store, space, shards, rows_of)
        again, _ = _timed(store, space, shards, rows_of)
        peak = peak_bytes()
        begun = time.perf_counter()
        store.finish(space)
        finish = time.perf_counter() - begun
    return {"first": rows / first, "again": rows / again, "finish": finish, "rows": rows, "peak": peak}


def _timed(store: VectorStore, space: Space, shards: Sequence[str], rows_of: Rows) -> tuple[float, int]:
    seconds, count = 0.0, 0
    for shard in shards:
        rows = rows_of(shard)
        begun = time.perf_counter()
        store.write_shard(space, shard, rows, "bench")
        seconds += time.perf_counter() - begun
        count += rows.num_rows
    return seconds, count


def rows_of_checkpoints(folder: Path, space: Space) -> Rows:
    checkpoints = CheckpointStore(folder)

    def rows_of(shard: str) -> pa.Table:
        papers, vectors = (checkpoints.load(key) for key in (papers_key(shard), embeddings_key(shard, space)))
        if papers is None or vectors is None:
            raise ArxivEmbedError(f"The corpus lacks {shard}: make it again.")
        tables = papers.tables["papers"], vectors.tables["vectors"]
        return stored_rows(*tables, space=space.fingerprint, shard=shard, run_id="bench")

    return rows_of


def wide_rows(space: Space) -> Rows:
    def rows_of(shard: str) -> pa.Table:
        papers = [
            Paper(f"{shard}-{n}", 1, "A title", "An abstract. " * 60, "A. Author", ("cs.LG",), "2020-01-01", "", False)
            for n in range(WIDE_PAPERS)
        ]
        count = 1 + CHUNKS
        random = np.random.default_rng(len(shard))
        vectors = random.standard_normal((WIDE_PAPERS * count, space.dimensions), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        owners = np.repeat(np.arange(WIDE_PAPERS), count)
        columns = {
            "paper_id": [papers[owner].id for owner in owners],
            "chunk_index": np.tile(np.arange(count) + PAPER_CHUNK, WIDE_PAPERS).astype(np.int32),
            **{name: np.ones(len(owners), np.int32) for name in ("start_char", "end_char", "tokens", "cut_tokens")},
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), space.dimensions),
            "text_sha256": [papers[owner].text_sha256 for owner in owners],
        }
        table = pa.table(columns, schema=vectors_schema(space.dimensions))
        return stored_rows(papers_table(papers), table, space=space.fingerprint, shard=shard, run_id="bench")

    return rows_of


def main(url: str, source: str, count: str = "") -> None:
    files = resolve_model(DEFAULT_MODEL)
    space = space_of(files, RunOptions.chunker)
    if source == "wide":
        space = replace(space, dimensions=WIDE)
        found = written(url, space, [f"wide-{n}" for n in range(WIDE_SHARDS)], wide_rows(space))
    else:
        held = CheckpointStore(Path(source)).keys()
        keys = [key.shard for key in held if key.asset == "papers"]
        found = written(url, space, keys[: int(count)], rows_of_checkpoints(Path(source), space))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
