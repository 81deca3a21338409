"""Encoding speed: the pool against sentence-transformers, other tools, the matrix unit's limit, and the whole run.

All take the same texts, cut at the same token limit, in turns within one measurement, and medians are compared:
absolute figures vary from machine to machine and hour to hour. The other tools (`bench.peers`) are timed once each, a
share of them in every turn, and compared with the pool in that turn.
"""

from __future__ import annotations

import gzip
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from bench.metric import LeftOut, Metric
from bench.peers import PEERS, Peer, PeerFailed, Timed, time_peer

PAPERS, WARMING_PAPERS, PARITY_PAPERS, CALIBRATION_PAPERS = 1000, 64, 200, 300
PLAIN = "whole"
"""The chunker of plain embedding: a paper's only chunk is the paper."""

DEVICES = "cpu:2"
TURNS, BASELINE_TURNS = 3, 2
FLOP_PER_TOKEN = 21.6e6
"""What the model's matrix products need: six layers of 384 × (4 × 384 + 2 × 1536), two operations each, and attention
over neighbours of the usual number."""

TIMES_BASELINE = {"float32": 3.5, "bfloat16": 1.5}
SHARE_OF_THE_LIMIT = 0.80
LATE_TO_PLAIN = 1.05
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.999}

MEASURED, WARMING, CALIBRATION = "measured.jsonl", "warming.jsonl", "calibration.jsonl"


@dataclass
class Turns:
    """What was measured: tokens in all; seconds, and FLOP/s of the matrix product by type, one entry a turn."""

    tokens: int = 0
    bare: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    baseline: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    matrix: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peers: dict[Peer, tuple[int, Timed | PeerFailed]] = field(default_factory=dict)
    """The turn in which a peer was timed, and how that went."""


@dataclass(frozen=True)
class Sample:
    """Texts: those measured, and others that a peer may quantize by; `folder` holds the metadata."""

    folder: Path
    measured: list[str]
    calibration: list[str]

    @property
    def warming(self) -> list[str]:
        return self.measured[:WARMING_PAPERS]


def measure() -> list[Metric | LeftOut]:
    """Takes about 15 minutes on two cores with all peers; the first time, which exports models, some minutes more."""
    files = resolve_model(DEFAULT_MODEL)
    space = space_of(files, RunOptions.chunker, files.position_limit)
    dtypes = ["float32", "bfloat16"] if has_bfloat16() else ["float32"]
    with TemporaryDirectory() as place, Baseline(files) as baseline:
        sample = _write_sample(Path(place))
        parity = _parity(files, dtypes, baseline, sample.measured[:PARITY_PAPERS])
        theirs, _ = baseline.encode(sample.warming, "float32", space.max_tokens)
        devices = parse_devices(DEVICES)
        with (
            Pool(files, space, devices) as pool,
            Pool(files, space_of(files, PLAIN, files.position_limit), devices, dtype=pool.dtype) as plain,
        ):
            turns = _take_turns(pool, plain, dtypes, baseline, sample, files)
            return [*_speed(turns, pool.dtype), *beside_peers(turns, theirs), *parity]


def _take_turns(
    pool: Pool, plain: Pool, dtypes: Sequence[str], baseline: Baseline, sample: Sample, files: ModelFiles
) -> Turns:
    turns = Turns()
    texts = sample.measured
    max_tokens = files.position_limit
    for each in (pool, plain):
        _seconds(each, texts[:PARITY_PAPERS])
    for turn in range(TURNS):
        seconds, turns.tokens = _seconds(pool, texts)
        turns.bare.append(seconds)
        turns.plain.append(_seconds(plain, texts)[0])
        turns.whole.append(_whole_run(sample.folder / "metadata", sample.folder / f"home-{turn}"))
        for dtype in dtypes:
            if turn < BASELINE_TURNS:
                turns.baseline[dtype].append(baseline.encode(texts, dtype, max_tokens)[1])
            turns.matrix[dtype].append(baseline.matrix_rate(dtype))
        for peer in PEERS[turn::TURNS]:
            try:
                timed: Timed | PeerFailed = time_peer(
                    peer, files, max_tokens, sample.warming, texts, sample.calibration
                )
            except PeerFailed as failure:
                timed = failure
            turns.peers[peer] = turn, timed
    return turns


def _seconds(pool: Pool, texts: Sequence[str]) -> tuple[float, int]:
    """What it took, and how many tokens they were."""
    begun = time.perf_counter()
    tokens = sum(paper.tokens for paper in pool.encode(texts))
    return time.perf_counter() - begun, tokens


def _speed(turns: Turns, dtype: str) -> list[Metric]:
    per_paper = turns.tokens / PAPERS
    ours = PAPERS / median(turns.bare)
    baseline = {name: PAPERS / median(seconds) for name, seconds in turns.baseline.items()}
    matrix = {name: median(rates) for name, rates in turns.matrix.items()}
    limit = max(matrix.values()) / (FLOP_PER_TOKEN * per_paper)
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
        Metric("pool ÷ limit", ours / limit, "×", SHARE_OF_THE_LIMIT),
        Metric(
            f"{RunOptions.chunker} ÷ {PLAIN}, seconds",
            median(late / plain for late, plain in zip(turns.bare, turns.plain, strict=True)),
            "×",
            LATE_TO_PLAIN,
            "at most",
        ),
        Metric(
            "whole run ÷ bare encoding, seconds",
            median(whole / bare for whole, bare in zip(turns.whole, turns.bare, strict=True)),
            "×",
            1.08,
            "at most",
        ),
    ]


def beside_peers(turns: Turns, theirs: FloatArray) -> list[Metric | LeftOut]:
    """Each peer's speed, how much faster the pool was in the same turn, and how far the peer's vectors are from those
    of sentence-transformers in float32."""
    metrics: list[Metric | LeftOut] = []
    for peer in PEERS:
        turn, timed = turns.peers[peer]
        if isinstance(timed, PeerFailed):
            metrics.append(LeftOut(peer.name, str(timed)))
            continue
        metrics += [
            Metric(peer.name, PAPERS / timed.seconds, "papers/s"),
            Metric(f"pool ÷ {peer.name}", timed.seconds / turns.bare[turn], "×"),
            Metric(f"worst cosine, {peer.name}", worst_cosine(timed.vectors, theirs), "cosine"),
        ]
    return metrics


def _parity(files: ModelFiles, dtypes: Sequence[str], baseline: Baseline, texts: Sequence[str]) -> list[Metric]:
    """Worst cosines of our papers' vectors to those of sentence-transformers with its defaults, both cut at the limit
    that the model's files advise; warms the latter up."""
    space = space_of(files, RunOptions.chunker, files.advised_tokens)
    theirs = {dtype: baseline.encode(texts, dtype, space.max_tokens)[0] for dtype in dtypes}["float32"]
    metrics = []
    for dtype in dtypes:
        with Pool(files, space, parse_devices(DEVICES), dtype=dtype) as pool:
            worst = worst_cosine(_paper_vectors(pool, texts, theirs.shape), theirs)
        metrics.append(Metric(f"worst cosine, {dtype}", worst, "cosine", LEAST_COSINE[dtype]))
    return metrics


def _paper_vectors(pool: Pool, texts: Sequence[str], shape: tuple[int, ...]) -> FloatArray:
    vectors = np.zeros(shape, np.float32)
    for paper in pool.encode(texts):
        vectors[paper.index] = paper.vectors[0]
    return vectors


def worst_cosine(ours: FloatArray, theirs: FloatArray) -> float:
    """Of the vectors in the same rows."""
    norms = np.linalg.norm(ours.astype(np.float64), axis=1) * np.linalg.norm(theirs.astype(np.float64), axis=1)
    return float(np.min((ours.astype(np.float64) * theirs).sum(axis=1) / norms))


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


def _write_sample(folder: Path) -> Sample:
    """Writes the papers to measure, some of them to warm up with, and others."""
    metadata = folder / "metadata"
    metadata.mkdir()
    with gzip.open(real_data() / "arxiv_100k.jsonl.gz", "rb") as lines:
        measured = list(islice(lines, PAPERS))
        calibration = list(islice(lines, CALIBRATION_PAPERS))
    for name, records in ((MEASURED, measured), (WARMING, measured[:WARMING_PAPERS]), (CALIBRATION, calibration)):
        (metadata / name).write_bytes(b"".join(records))
    listing = list_folder(metadata, shard_papers=DEFAULT_SHARD_PAPERS, index=folder / "index")
    shards = {shard.key: shard for shard in listing.shards}
    with ShardReader() as reader:
        texts = {name: [paper.text for paper in reader.load(shards[name]).papers] for name in (MEASURED, CALIBRATION)}
    return Sample(folder, texts[MEASURED], texts[CALIBRATION])
