"""Watching: what health reports and a scraped endpoint cost a run, how late reports are, and how fast a history opens.

Whole runs of the same real papers on two CPU workers, which saturate two cores, watched and not in turns: reports every
second where the default is thirty, and the endpoint scraped every second by another process. `python -m bench.watch`
prints the metrics.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from arxiv_embed.batch_history import keep_batches
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.events import BatchDone, DevicesFound, PoolReady, RunFinished, RunStarted
from arxiv_embed.record import ProgressReader, ProgressWriter, progress_path
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from bench.data import REPOSITORY, real_data
from bench.free_port import free_port
from bench.metric import LeftOut, Metric

PAPERS, PAIRS = 1500, 7
DEVICES = "cpu:2"
REPORT_SECONDS = 1.0
LEAST_RATIO, MOST_SHARE, MOST_LATE = 0.995, 0.005, 2.0
CORES = 2

BATCHES, MOST_OPENING = 10_000, 1.0
OPENINGS = 5

SCRAPER = """
import sys, time, urllib.request
while True:
    time.sleep(1)
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
            print(len(answer.read()), flush=True)
    except OSError:
        pass  # it has not begun, or has ended
"""
OPENER = """
import sys, time
begun = time.perf_counter()
import arxiv_embed
frame = arxiv_embed.performance(sys.argv[1])
print(time.perf_counter() - begun, len(frame))
"""


@dataclass(frozen=True)
class Ran:
    """Papers a second of a run, and the share of two cores that its own process took, where all of watching is done; of
    a watched one the reports, each with how late it was, and the scrapes answered."""

    papers_per_second: float
    own_share: float
    late: list[float]
    scrapes: int


def measure(papers: int = PAPERS, pairs: int = PAIRS) -> list[Metric | LeftOut]:
    """Takes about six minutes on two cores; raises `ArxivEmbedError` where the real data is not there."""
    with TemporaryDirectory(prefix="arxiv-embed-bench-") as place:
        return [*_cost(Path(place), papers, pairs), *_opening(Path(place) / "history")]


# -- what watching costs


def _cost(place: Path, papers: int, pairs: int) -> list[Metric | LeftOut]:
    metadata = place / "metadata"
    metadata.mkdir()
    with gzip.open(real_data() / "arxiv_cs_2016_5k.jsonl.gz", "rb") as lines:
        (metadata / "papers.jsonl").write_bytes(b"".join(islice(lines, papers)))
    plain, watched = [], []
    for pair in range(pairs):
        runs = {kind: place / f"{kind}-{pair}" for kind in ("plain", "watched")}
        for kind in list(runs) if pair % 2 else reversed(runs):  # neither is always the first
            if kind == "plain":
                plain.append(_run(metadata, runs[kind], health_seconds=0.0))
            else:
                watched.append(_watched(metadata, runs[kind]))
    speeds = [[run.papers_per_second for run in some] for some in (watched, plain)]
    ratios = np.divide(*speeds)
    shares = np.subtract(*([run.own_share for run in some] for some in (watched, plain)))
    late = [seconds for run in watched for seconds in run.late]
    low, high = np.percentile(ratios, [25, 75])
    latest = "the latest of them, both workers saturated"
    return [
        Metric(f"{papers:,} papers on {DEVICES}, not watched", median(speeds[1]), "papers/s"),
        Metric("watched ÷ not watched, median of pairs", float(np.median(ratios)), "ratio", LEAST_RATIO),
        Metric("half of the pairs lie within", float(high - low), "ratio"),
        Metric("CPU more of the run's process, of two cores", float(np.median(shares)), "", MOST_SHARE, "at most"),
        Metric("half of the pairs lie within, of two cores", float(np.subtract(*np.percentile(shares, [75, 25]))), ""),
        Metric("reports of health", len(late), "reports"),
        Metric(latest, max(late), "s", MOST_LATE, "at most") if late else LeftOut(latest, "the runs were too short"),
        Metric("scrapes answered", sum(run.scrapes for run in watched), "scrapes"),
    ]


def _watched(metadata: Path, home: Path) -> Ran:
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    scraper = subprocess.Popen([sys.executable, "-c", SCRAPER, url], stdout=subprocess.PIPE)
    try:
        ran = _run(metadata, home, health_seconds=REPORT_SECONDS, metrics_port=port)
    finally:
        scraper.terminate()
        answers, _ = scraper.communicate()
    return replace(ran, scrapes=len(answers.splitlines()))


def _run(metadata: Path, home: Path, **watching: Any) -> Ran:
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    options = RunOptions(metadata, settings.store, settings.checkpoints, devices=DEVICES, **watching)
    begun, computed = time.monotonic(), time.process_time()
    with Run(options, settings, "bench") as run:
        shards = [plan.shard.key for plan in run.plan.pending]
        run.start(shards)
        for key in shards:
            run.read(key)
            run.embed(key)
    own_share = (time.process_time() - computed) / (time.monotonic() - begun) / CORES
    late: list[float] = []

    def take(line: Mapping[str, Any]) -> None:
        if line["event"] == "health":
            late.append(line["late"])

    progress = ProgressReader(progress_path(settings, "bench"), also=take).poll()
    return Ran(progress.papers_embedded / progress.embedding_seconds, own_share, late, 0)


# -- the history


def _opening(home: Path) -> list[Metric | LeftOut]:
    """A history of ten runs, in processes of their own that have loaded nothing yet."""
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    for number in range(10):
        _write_record(settings, f"run-{number}", BATCHES // 10)
    begun = time.perf_counter()
    keep_batches(settings)
    keeping = time.perf_counter() - begun
    return [
        Metric(f"keeping {BATCHES:,} batches of ten runs", keeping, "s"),
        Metric("opening them in pandas", median(_open(home) for _ in range(OPENINGS)), "s", MOST_OPENING, "at most"),
    ]


def _write_record(settings: Settings, run_id: str, batches: int) -> None:
    batch = BatchDone("papers.jsonl", "cuda:0", 200, 40_000, 41_000, 0.05, 30 << 30, 28 << 30, 1, 512, 900)
    with ProgressWriter(progress_path(settings, run_id)) as record:
        record.write(RunStarted(run_id, "/", ["papers.jsonl"], 200 * batches, 0, "m", "s", ["cuda:0"], "/store"))
        record.write(DevicesFound([{"name": "cuda:0", "product": "NVIDIA H200"}]))
        record.write(PoolReady("bfloat16", 9.0))
        for number in range(1, batches + 1):
            record.write(replace(batch, number=number))
        record.write(RunFinished("done", "", 0.05 * batches))


def _open(home: Path) -> float:
    command = [sys.executable, "-c", OPENER, str(home)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    seconds, rows = finished.stdout.split()
    if int(rows) != BATCHES:
        raise ArxivEmbedError(f"A history of {BATCHES:,} batches opened with {rows}: report this.")
    return float(seconds)


if __name__ == "__main__":
    for metric in measure():
        print(metric.name, *metric.cells, sep=" | ")
