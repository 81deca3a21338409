"""The ground of the trials: real papers, a model and the store that an undisturbed run makes of them."""

from __future__ import annotations

import gzip
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.stores.protocol import PAPER_CHUNK
from arxiv_embed_tests.kills.changes import SEGMENT_PAPERS
from arxiv_embed_tests.kills.driven import driven
from arxiv_embed_tests.kills.watch import events_of, kinds_of, records_in
from arxiv_embed_tests.tiny_models import save_bert

SHARDS = {"a.jsonl": 40, "b.jsonl": 300, "c.jsonl": 170, "d.jsonl": 90}
PAPERS = sum(SHARDS.values())
DEVICES = 2
LEAST_COSINE = 0.9999
CHANGE = "arxiv_embed_tests.kills.changes:make_segments_small"

MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}
"""Slow enough that embedding takes some seconds, which is where most of the kills are to land."""


@dataclass(frozen=True)
class Ground:
    """`rows` are the undisturbed run's, in the order of their keys; `starting_seconds` passed until it had begun, and
    `opening_seconds` from its first paper read until its pool was ready."""

    metadata: Path
    model: Path
    rows: pa.Table
    starting_seconds: float
    opening_seconds: float

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        """Those of the command of every run."""
        return _arguments(self.metadata, self.model)


def make_ground(folder: Path, data: Path) -> Ground:
    """Cuts the first papers of a real harvest into files, and embeds them once."""
    metadata, model, home = folder / "metadata", folder / "model", folder / "undisturbed"
    metadata.mkdir()
    with gzip.open(data / "arxiv_cs_2016_5k.jsonl.gz", "rb") as lines:
        for name, papers in SHARDS.items():
            (metadata / name).write_bytes(b"".join(islice(lines, papers)))
    save_bert(model, **MODEL)
    begun = time.time()
    result = driven(home, CHANGE, *_arguments(metadata, model))
    assert result.returncode == 0, result.stdout + result.stderr
    [record] = records_in(home)
    events = events_of(record)
    assert kinds_of(events)["segment"] > PAPERS / SEGMENT_PAPERS - 2 * len(SHARDS), "segments are not made small"
    first = {event["event"]: event["time"] for event in reversed(events)}
    rows = stored_rows(home)
    assert rows.num_rows == len(set(rows["key"].to_pylist())) > PAPERS
    return Ground(
        metadata,
        model,
        rows,
        starting_seconds=first["run_started"] - begun,
        opening_seconds=first["pool_ready"] - first["papers_read"],
    )


def _arguments(metadata: Path, model: Path) -> tuple[str | Path, ...]:
    devices = ("--devices", f"cpu:{DEVICES}", "--dtype", "float32")
    texts = ("--chunker", "fixed:32", "--max-tokens", str(MODEL["max_position_embeddings"]))
    return ("run", "--metadata-dir", metadata, "--model", model, *texts, *devices)


def stored_rows(home: Path) -> pa.Table:
    """Every row of the one space that the home's store holds, in the order of their keys."""
    database = lancedb.connect(home / "stores" / "papers")
    [name] = [name for name in database.list_tables().tables if name.startswith("rows_")]
    return database.open_table(name).to_arrow().sort_by("key")


def check_equal(rows: pa.Table, expected: pa.Table) -> None:
    """The same rows: keys, texts and all, and vectors within `LEAST_COSINE`; only the run's id may differ."""
    keys = rows["key"].to_pylist()
    twice = len(keys) - len(set(keys))
    assert not twice, f"{twice} keys are in the store twice"
    lost, new = set(expected["key"].to_pylist()) - set(keys), set(keys) - set(expected["key"].to_pylist())
    assert not lost, f"{len(lost)} rows are lost, {sorted(lost)[0]} the first"
    assert not new, f"{len(new)} rows are of no paper, {sorted(new)[0]} the first"
    for column in expected.schema.names:
        if column not in ("vector", "run_id"):
            assert rows[column].combine_chunks().equals(expected[column].combine_chunks()), f"{column} differs"
    titles = expected.filter(pc.equal(expected["chunk_index"], PAPER_CHUNK))["title"]
    assert titles.null_count == 0
    ours, theirs = _vectors(rows), _vectors(expected)
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    worst = float(cosines.min())
    assert worst >= LEAST_COSINE, f"the vector of {keys[int(cosines.argmin())]} differs: cosine {worst:.6f}"


def _vectors(rows: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    flat = rows["vector"].combine_chunks().flatten().to_numpy()
    return flat.reshape(rows.num_rows, -1).astype(np.float64)
