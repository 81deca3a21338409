"""Scale: a million papers with a null encoder; simulated devices of unlike speeds; whole commands against Ray Data."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.gpu.planner import TokenPlanner
from arxiv_embed.settings import DEFAULT_MODEL
from arxiv_embed_tests.gpu.simulated import paper
from arxiv_embed_tests.gpu.virtual import VirtualLane, play
from bench.abstract_lengths import abstract_lengths
from bench.data import REPOSITORY, real_data
from bench.metric import LeftOut, Metric
from bench.peers import ENVIRONMENTS
from bench.whole import timed

PAPERS, COPIES = 100_000, 10
LEAST_SPEED, MOST_MEMORY, MOST_TIME = 1_500.0, 1.10, 10.5
DEVICES = {2: None, 8: 0.97, 64: 0.93}
"""Simulated devices, and the share of the ideal that is asked of so many."""

COMMAND = Path(sys.executable).with_name("arxiv-embed")
REAL_PAPERS, TURNS, LEAST_TIMES = 2_000, 2, 3.0

EACH = 2_500
"""Papers for each simulated device."""


def measure(papers: int = PAPERS, copies: int = COPIES, each: int = EACH) -> list[Metric | LeftOut]:
    """Takes about a quarter of an hour on two cores, and 25 GB of disk; raises `ArxivEmbedError` where the real data is
    not there."""
    return [*_simulated(each), *_against_ray_data(), *_end_to_end(papers, copies)]


def _against_ray_data(papers: int = REAL_PAPERS) -> list[Metric | LeftOut]:
    """The same real papers, from the start of the command to its end, with the real model on two workers."""
    name = f"{papers:,} real papers"
    environment = ENVIRONMENTS / "ray-data"
    if not (environment / ".ready").is_file():
        return [LeftOut(f"{name}: times as fast as Ray Data", "make --keep-going peers installs it")]
    with TemporaryDirectory(prefix="arxiv-embed-bench-") as folder:
        place = Path(folder)
        (place / "metadata").mkdir()
        source = place / "metadata" / "papers.jsonl"
        with gzip.open(real_data() / "arxiv_cs_2016_5k.jsonl.gz", "rb") as lines:
            source.write_bytes(b"".join(islice(lines, papers)))
        model = str(resolve_model(DEFAULT_MODEL).folder)
        script = Path(__file__).with_name("peers") / "ray_data.py"
        theirs, ours = [], []
        for turn in range(TURNS):
            target = place / f"{turn}.lance"
            command = [environment / "bin" / "python", "-P", script, source, model, target]
            theirs.append(timed(command, {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": ""}, place / "theirs.log"))
            home = {"ARXIV_EMBED_HOME": str(place / f"home-{turn}")}
            command = [COMMAND, "run", "--metadata-dir", source.parent, "--devices", "cpu:2"]
            ours.append(timed(command, home, place / "ours.log"))
    slow, fast = (median(one.seconds for one in some) for some in (theirs, ours))
    more, less = (median(one.bytes for one in some) for some in (theirs, ours))
    return [
        Metric(f"{name} by Ray Data, whole command", papers / slow, "papers/s"),
        Metric(f"{name}, whole command", papers / fast, "papers/s"),
        Metric(f"{name}: times as fast as Ray Data", slow / fast, "ratio", LEAST_TIMES),
        Metric(f"{name}: peak memory by Ray Data", more / 1e6, "MB"),
        Metric(f"{name}: peak memory of its", less / more, "ratio", 1.0, "at most"),
    ]


def _end_to_end(papers: int, copies: int) -> list[Metric]:
    with TemporaryDirectory(prefix="arxiv-embed-bench-") as place:
        few = _run(Path(place) / "few", papers, 1)
        many = _run(Path(place) / "many", papers, copies)
    name = f"{papers * copies:,} papers"
    return [
        Metric(f"{papers:,} papers, whole run", few["papers"] / few["seconds"], "papers/s"),
        Metric(f"{name}, whole run", many["papers"] / many["seconds"], "papers/s", LEAST_SPEED),
        *(Metric(f"{name}: {step}", many[step], "s") for step in ("reading", "embedding", "storing", "indexes")),
        Metric(f"{name}: rows stored", many["rows"], "rows"),
        Metric(f"time of {name} ÷ of {papers:,}", many["seconds"] / few["seconds"], "ratio", MOST_TIME, "at most"),
        Metric(f"peak memory of {papers:,} papers", few["bytes"] / 1e6, "MB"),
        Metric(f"peak memory of {name} ÷ of {papers:,}", many["bytes"] / few["bytes"], "ratio", MOST_MEMORY, "at most"),
    ]


def _run(place: Path, papers: int, copies: int) -> dict[str, float]:
    metadata = place / "metadata"
    metadata.mkdir(parents=True)
    write_copies(real_data() / "arxiv_100k.jsonl.gz", metadata / "papers.jsonl", papers, copies)
    command = [sys.executable, "-m", "bench.scale_run", str(metadata), str(place / "home")]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def write_copies(source: Path, target: Path, papers: int, copies: int) -> None:
    """The first papers of a file again and again, each time under ids of their own and with another word in the
    abstract, so that no text is there twice."""
    with target.open("wb") as out:
        for copy in range(copies):
            with gzip.open(source, "rb") as lines:
                for number, line in enumerate(islice(lines, papers)):
                    record = json.loads(line)
                    record["id"] = f"{15 + copy // 12:02d}{1 + copy % 12:02d}.{number:05d}"
                    record["abstract"] = f"{record['abstract']} Number{copy}x{number}."
                    out.write(json.dumps(record).encode() + b"\n")


def _simulated(each: int) -> list[Metric]:
    """How near to the ideal devices of unlike speeds end together, in a time of their own."""
    lengths = abstract_lengths()
    metrics = []
    for count, share in DEVICES.items():
        rates = np.random.default_rng(1).uniform(1e4, 5e4, count)
        papers = [paper(index, int(lengths[index % len(lengths)])) for index in range(each * count)]
        begun = time.process_time()
        made = play(TokenPlanner(200), _lanes(rates), papers).makespan
        spent = time.process_time() - begun
        ideal = sum(len(one.ids) for one in papers) / sum(rates)
        metrics.append(Metric(f"{count} devices of unlike speeds, of the ideal", float(ideal / made), "share", share))
    metrics.append(Metric(f"planning at {count} devices, a paper", 1e6 * spent / len(papers), "µs of CPU"))
    return metrics


def _lanes(rates: Sequence[float]) -> list[VirtualLane]:
    return [VirtualLane(f"cuda:{n}", lambda now, rate=rate: rate) for n, rate in enumerate(rates)]  # type: ignore[misc]
