"""What safety costs: checkpoints' share of a run, the time it takes to see what remains, and what kills repeat.

A run's share is measured within that run: the time that it spends in segments and commits, of its whole time. Deciding
what remains is measured in new processes, over manifests that say they hold 2.7 million papers. What kills repeat comes
from the last hundred killed runs (`python -m arxiv_embed_tests.kills`).
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest, Source
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.embed import FAILURES, PAPERS, REJECTS
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.shards import Shard, list_folder
from arxiv_embed.plan import embeddings_key, papers_key, plan_run, stored_identity
from arxiv_embed.run import Run
from arxiv_embed.settings import DEFAULT_MODEL, RunOptions, Settings, settings_from_environment
from arxiv_embed.stores.protocol import PAPER_CHUNK, open_store
from arxiv_embed.stores.rows import stored_rows
from arxiv_embed.vectors import vectors_schema
from bench.data import REPOSITORY, real_data
from bench.metric import Metric

MEASURED, WARMING = "measured.jsonl", "warming.jsonl"
PAPERS_MEASURED, WARMING_PAPERS = 2000, 64
DEVICES = "cpu:2"
MOST_SHARE = 0.02

SHARDS, SHARD_PAPERS = 400, 6750
FILE_BYTES = 10 << 20
"""About what so many records take; nothing but the first of them is written."""
MOST_SECONDS = 2.0
TURNS = 5

KILLS = REPOSITORY / "bench" / "results" / "kills.json"


def measure() -> list[Metric]:
    """Takes about four minutes on two cores; raises `ArxivEmbedError` where the real data is not there."""
    with TemporaryDirectory(prefix="arxiv-embed-bench-") as place:
        cost = _cost_of_checkpoints(Path(place) / "cost")
        return [*cost, *_deciding(Path(place) / "deciding"), *_repeated_by_kills()]


def _cost_of_checkpoints(folder: Path) -> list[Metric]:
    """Of a run of real papers through the bundled model, from the first paper read to the last row stored."""
    metadata = folder / "metadata"
    metadata.mkdir(parents=True)
    with gzip.open(real_data() / "arxiv_cs_2016_5k.jsonl.gz", "rb") as lines:
        (metadata / MEASURED).write_bytes(b"".join(islice(lines, PAPERS_MEASURED)))
        (metadata / WARMING).write_bytes(b"".join(islice(lines, WARMING_PAPERS)))
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(folder / "home")})
    options = RunOptions(metadata, settings.store, settings.checkpoints, devices=DEVICES)
    with Run(options, settings, "bench") as run:
        run.start([WARMING, MEASURED])
        for step in (run.read, run.embed, run.store):
            step(WARMING)
        with _timed(Segments, "append", "clear") as segments, _timed(CheckpointStore, "commit") as commits:
            begun = time.perf_counter()
            for step in (run.read, run.embed, run.store):
                step(MEASURED)
            seconds = time.perf_counter() - begun
    share = (segments.total + commits.total) / seconds
    return [
        Metric(f"run of {PAPERS_MEASURED:,} papers", seconds, "s"),
        Metric("in segments", segments.total, "s"),
        Metric("segments written", segments.calls["append"], "segments"),
        Metric("in commits", commits.total, "s"),
        Metric("checkpoints ÷ run", share, "ratio", MOST_SHARE, "at most"),
    ]


class _Time:
    """What was spent in some methods, in seconds, and how often each was called."""

    def __init__(self, *methods: str) -> None:
        self.total = 0.0
        self.calls = dict.fromkeys(methods, 0)

    def around(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self.total += time.perf_counter() - begun
                self.calls[name] += 1

        return timed


@contextmanager
def _timed(kind: type, *methods: str) -> Iterator[_Time]:
    spent = _Time(*methods)
    originals = {name: getattr(kind, name) for name in methods}
    for name, method in originals.items():
        setattr(kind, name, spent.around(name, method))
    try:
        yield spent
    finally:
        for name, method in originals.items():
            setattr(kind, name, method)


def _deciding(folder: Path) -> list[Metric]:
    """How long a run with nothing to do needs to see that."""
    metadata, home = folder / "metadata", folder / "home"
    _make_done(metadata, home)
    _plan_in_own_process(metadata, home)  # the first one finds where the files are to be cut, which is done once
    seconds = [_plan_in_own_process(metadata, home) for _ in range(TURNS)]
    command = [_command(metadata, home) for _ in range(TURNS)]
    papers = SHARDS * SHARD_PAPERS
    what = f"deciding what remains of {SHARDS} shards, {papers:,} papers"
    return [
        Metric(what, median(seconds), "s", MOST_SECONDS, "at most"),
        Metric("the whole command `run` with nothing to do", median(command), "s"),
    ]


def _make_done(metadata: Path, home: Path) -> None:
    """A home in which everything is done: a file and two checkpoints a shard, whose manifests say that they hold all
    its papers, and a store with one paper of each."""
    metadata.mkdir(parents=True)
    with gzip.open(real_data() / "arxiv_cs_2016_5k.jsonl.gz", "rb") as lines:
        record = next(iter(lines))
    for number in range(SHARDS):
        with (metadata / f"{number:03d}.jsonl").open("wb") as file:
            file.write(record)
            file.truncate(FILE_BYTES)
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    options = _options(metadata, settings)
    listing = list_folder(metadata, shard_papers=options.shard_papers, index=settings.index)
    if len(listing.shards) != SHARDS:
        raise ArxivEmbedError(f"The bench made {SHARDS} files and finds {len(listing.shards)} shards: report this.")
    space = space_of(resolve_model(options.model), options.chunker)
    store = CheckpointStore(options.checkpoints)
    with open_store(options.store, create=True) as stored:
        for shard in listing.shards:
            papers, vectors = _papers_of(shard), _vectors_of(shard, space)
            details = {"folder": str(shard.folder), "file": shard.files[0], "limit": None}
            source = Source(shard.signature, "0" * 64)
            held = [
                _commit(store, papers_key(shard.key), {"papers": papers, "rejects": _empty(REJECTS)}, source, details),
                _commit(
                    store, embeddings_key(shard.key, space), {"vectors": vectors, "failures": _empty(FAILURES)}, source
                ),
            ]
            rows = stored_rows(papers, vectors, space=space.fingerprint, shard=shard.key, run_id="bench")
            stored.write_shard(space, shard.key, rows, stored_identity(*held))
        stored.finish(space)


def _commit(
    store: CheckpointStore, key: CheckpointKey, contents: dict[str, pa.Table], source: Source, details: Any = None
) -> Manifest:
    """Commits a shard's first paper, and lets the manifest say then that it holds all: planning reads nothing else."""
    first = {"records": 1, "papers": 1, "rejects": 0, "duplicates": 0, "withdrawn": 0, "failed": 0}
    small = store.commit(key, contents, source=source, counts=first, run_id="bench", details=details or {})
    files = {table: replace(file, rows=file.rows * SHARD_PAPERS) for table, file in small.files.items()}
    whole = replace(small, counts={**small.counts, "papers": SHARD_PAPERS}, files=files)
    [path] = store.root.glob(f"{key.asset}/{key.space or '-'}/{key.shard}/g*.manifest.json")
    path.write_text(whole.to_json())
    if store.manifest(key) != whole:
        raise ArxivEmbedError(f"The bench's manifest of {key.shard} is not taken for one: report this.")
    return whole


def _papers_of(shard: Shard) -> pa.Table:
    row = dict.fromkeys(PAPERS.names, "") | {"paper_id": shard.key, "categories": [], "version": 1}
    return pa.Table.from_pylist([{**row, "title": "title", "abstract": "abstract", "withdrawn": False}], schema=PAPERS)


def _vectors_of(shard: Shard, space: Space) -> pa.Table:
    vector = np.full(space.dimensions, space.dimensions**-0.5, np.float32)
    row = {"paper_id": shard.key, "chunk_index": PAPER_CHUNK, "vector": vector, "text_sha256": ""}
    numbers = {"start_char": 0, "end_char": 15, "tokens": 4, "cut_tokens": 0}
    return pa.Table.from_pylist([row | numbers], schema=vectors_schema(space.dimensions))


def _empty(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()


def _options(metadata: Path, settings: Settings) -> RunOptions:
    return RunOptions(metadata, settings.store, settings.checkpoints, model=DEFAULT_MODEL, devices=DEVICES)


def _plan(metadata: Path, home: Path) -> float:
    """Seconds that planning takes in this process, which has all modules loaded."""
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    begun = time.perf_counter()
    plan = plan_run(_options(metadata, settings), settings)
    seconds = time.perf_counter() - begun
    if plan.pending or len(plan.shards) != SHARDS:
        raise ArxivEmbedError(f"{len(plan.pending)} of {len(plan.shards)} shards are not done: report this.")
    return seconds


def _plan_in_own_process(metadata: Path, home: Path) -> float:
    command = [sys.executable, "-m", "bench.faults", str(metadata), str(home)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def _command(metadata: Path, home: Path) -> float:
    script = Path(sys.executable).with_name("arxiv-embed")
    command = [script, "run", "--metadata-dir", metadata, "--model", DEFAULT_MODEL, "--devices", DEVICES]
    others = {name: value for name, value in os.environ.items() if not name.startswith("ARXIV_EMBED_")}
    begun = time.perf_counter()
    done = subprocess.run(
        command, env={**others, "ARXIV_EMBED_HOME": str(home)}, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.perf_counter() - begun
    if not done.stdout.startswith("Nothing to do"):
        raise ArxivEmbedError(f"The command found something to do ({done.stdout.splitlines()[0]}): report this.")
    return seconds


def _repeated_by_kills() -> list[Metric]:
    """As the last hundred killed runs had it; nothing where there is no record of them."""
    if not KILLS.is_file():
        return []
    kept = json.loads(KILLS.read_text())
    repeated = kept["repeated_papers_per_kill"]
    when = f"({kept['kills']} kills in {kept['runs']} runs, {kept['date']})"
    return [
        Metric(f"papers embedded again a kill, mean {when}", repeated["mean"], "papers"),
        Metric("papers embedded again a kill, most", repeated["most"], "papers", repeated["allowed"], "at most"),
        Metric("killed runs that lost or doubled something", len(kept["failed"]), "runs", 0, "at most"),
    ]


if __name__ == "__main__":
    print(_plan(Path(sys.argv[1]), Path(sys.argv[2])))
