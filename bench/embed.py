"""Encoding speed: the pool against sentence-transformers, the matrix unit's limit, and the whole run around it.

All take the same texts, cut at the same token limit, in turns within one measurement, and medians are compared:
absolute figures vary from machine to machine and hour to hour.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import FloatArray
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed.run import Run
from arxiv_embed.settings import DEFAULT_MODEL, DEFAULT_SHARD_PAPERS, RunOptions, settings_from_environment
from bench.baseline import Baseline, has_bfloat16
from bench.data import real_data
from bench.metric import Metric

PAPERS, WARMING_PAPERS, PARITY_PAPERS = 1000, 64, 200
DEVICES = "cpu:2"
TURNS, BASELINE_TURNS = 3, 2
FLOP_PER_TOKEN = 21.6e6
"""What the model's matrix products need: six layers of 384 × (4 × 384 + 2 × 1536), two operations each, and attention
over neighbours of the usual number."""

TIMES_BASELINE = {"float32": 3.0, "bfloat16": 1.25}
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.999}

MEASURED, WARMING = "measured.jsonl", "warming.jsonl"


@dataclass
class Turns:
    """What was measured: tokens in all; seconds, and FLOP/s of the matrix product by type, one entry a turn."""

    tokens: int
    bare: list[float]
    whole: list[float]
    baseline: dict[str, list[float]]
    matrix: dict[str, list[float]]


def measure() -> list[Metric]:
    """Takes about six minutes on two cores."""
    files = resolve_model(DEFAULT_MODEL)
    space = space_of(files, RunOptions.chunker)
    dtypes = ["float32", "bfloat16"] if has_bfloat16() else ["float32"]
    with TemporaryDirectory() as place, Baseline(files) as baseline:
        folder = Path(place)
        texts = _write_sample(folder / "metadata", folder / "index")
        parity = _parity(files, dtypes, baseline, texts[:PARITY_PAPERS])
        with Pool(files, space, parse_devices(DEVICES)) as pool:
            turns = _take_turns(pool, dtypes, baseline, texts, space.max_tokens, folder)
            return [*_speed(turns, pool.dtype), *parity]


def _take_turns(
    pool: Pool, dtypes: Sequence[str], baseline: Baseline, texts: Sequence[str], max_tokens: int, folder: Path
) -> Turns:
    turns = Turns(0, [], [], {dtype: [] for dtype in dtypes}, {dtype: [] for dtype in dtypes})
    list(pool.encode(texts[:PARITY_PAPERS]))
    for turn in range(TURNS):
        begun = time.perf_counter()
        turns.tokens = sum(paper.tokens for paper in pool.encode(texts))
        turns.bare.append(time.perf_counter() - begun)
        turns.whole.append(_whole_run(folder / "metadata", folder / f"home-{turn}"))
        for dtype in dtypes:
            if turn < BASELINE_TURNS:
                _, seconds = baseline.encode(texts, dtype, max_tokens)
                turns.baseline[dtype].append(seconds)
            turns.matrix[dtype].append(baseline.matrix_rate(dtype))
    return turns


def _speed(turns: Turns, dtype: str) -> list[Metric]:
    per_paper = turns.tokens / PAPERS
    ours = PAPERS / median(turns.bare)
    baseline = {name: PAPERS / median(seconds) for name, seconds in turns.baseline.items()}
    matrix = {name: median(rates) for name, rates in turns.matrix.items()}
    limit = max(matrix.values()) / (FLOP_PER_TOKEN * per_paper)
    overhead = median(whole / bare for whole, bare in zip(turns.whole, turns.bare, strict=True))
    return [
        Metric("tokens of a paper, mean", per_paper, "tokens"),
        Metric(f"pool, {dtype}", ours, "papers/s"),
        *(Metric(f"sentence-transformers, {name}", rate, "papers/s") for name, rate in baseline.items()),
        *(Metric(f"matrix product, {name}", rate / 1e9, "GFLOP/s") for name, rate in matrix.items()),
        Metric("limit by the faster matrix product", limit, "papers/s"),
        *(
            Metric(f"pool ÷ sentence-transformers, {name}", ours / rate, "×", TIMES_BASELINE[name])
            for name, rate in baseline.items()
        ),
        Metric("pool ÷ limit", ours / limit, "×", 0.70),
        Metric("whole run ÷ bare encoding, seconds", overhead, "×", 1.08, "at most"),
    ]


def _parity(files: ModelFiles, dtypes: Sequence[str], baseline: Baseline, texts: Sequence[str]) -> list[Metric]:
    """Worst cosines of our papers' vectors to those of sentence-transformers with its defaults, both cut at the limit
    that the model's files advise; warms the latter up."""
    space = space_of(files, RunOptions.chunker, files.advised_tokens)
    theirs = {dtype: baseline.encode(texts, dtype, space.max_tokens)[0] for dtype in dtypes}["float32"]
    metrics = []
    for dtype in dtypes:
        with Pool(files, space, parse_devices(DEVICES), dtype=dtype) as pool:
            worst = _worst_cosine(pool, texts, theirs)
        metrics.append(Metric(f"worst cosine, {dtype}", worst, "cosine", LEAST_COSINE[dtype]))
    return metrics


def _worst_cosine(pool: Pool, texts: Sequence[str], theirs: FloatArray) -> float:
    ours = np.zeros(theirs.shape)
    for paper in pool.encode(texts):
        ours[paper.index] = paper.vectors[0]
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs.astype(np.float64), axis=1)
    return float(np.min((ours * theirs).sum(axis=1) / norms))


def _whole_run(metadata: Path, home: Path) -> float:
    """Seconds from the first paper read to the last row stored, in a new home, by a pool that is warm."""
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    options = RunOptions(metadata, settings.store, settings.checkpoints, devices=DEVICES)
    with Run(options, settings, "bench") as run:
        run.start([WARMING, MEASURED])
        run.read(WARMING)
        run.embed(WARMING)
        begun = time.perf_counter()
        run.read(MEASURED)
        run.embed(MEASURED)
        run.store(MEASURED)
        return time.perf_counter() - begun


def _write_sample(metadata: Path, index: Path) -> list[str]:
    """Writes the papers to measure and some others to warm up with; returns the texts of the former."""
    metadata.mkdir()
    with gzip.open(real_data() / "arxiv_100k.jsonl.gz", "rb") as lines:
        (metadata / MEASURED).write_bytes(b"".join(islice(lines, PAPERS)))
        (metadata / WARMING).write_bytes(b"".join(islice(lines, WARMING_PAPERS)))
    listing = list_folder(metadata, shard_papers=DEFAULT_SHARD_PAPERS, index=index)
    shards = {shard.key: shard for shard in listing.shards}
    with ShardReader() as reader:
        return [paper.text for paper in reader.load(shards[MEASURED]).papers]
