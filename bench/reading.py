"""Reading: papers a second on one core and peak memory, reading real JSON lines through `ShardReader`.

Every value comes from a process of its own, pinned to one core. Rates are of that process's own seconds on the core
(user and system), so that neighbours on a shared machine do not count; the files are in the page cache by then.
`python -m bench.reading` prints the metrics.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import orjson
from isal import igzip

from arxiv_embed.metadata.paper import Paper
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Shard, list_folder
from arxiv_embed.settings import DEFAULT_MODEL, DEFAULT_SHARD_PAPERS
from bench.data import REPOSITORY, real_data
from bench.metric import Metric

FILE = "arxiv_100k.jsonl.gz"
LEAST_RATE = 50_000
LEAST_ESTIMATED = 20_000
MOST_MEMORY = 300
COPIES = 5
REPEATS = 3


def measure() -> list[Metric]:
    """Raises `ArxivEmbedError` where the real data is not there."""
    file = real_data() / FILE
    with tempfile.TemporaryDirectory(prefix="arxiv-embed-bench-") as scratch:
        once, larger = Path(scratch, "once", FILE), Path(scratch, "larger", FILE)
        once.parent.mkdir()
        once.symlink_to(file)
        larger.parent.mkdir()
        with larger.open("wb") as joined:  # gzip members one behind the other are one gzip file
            for _ in range(COPIES):
                with file.open("rb") as one:
                    shutil.copyfileobj(one, joined)
        runs = [_in_own_process("read", once) for _ in range(REPEATS)]
        loads = [_in_own_process("load", once) for _ in range(REPEATS)]
        estimates = [_in_own_process("estimate", once) for _ in range(REPEATS)]
        floors = [_in_own_process("floor", once) for _ in range(REPEATS)]
        many = _in_own_process("read", larger)
    rate = statistics.median(run["rate"] for run in runs)
    floor = statistics.median(run["rate"] for run in floors)
    peak = max(run["peak"] for run in runs)
    return [
        Metric("papers read on one core", rate, "papers/s", LEAST_RATE),
        Metric(
            "papers loaded on one core, newest kept and fingerprinted",
            statistics.median(run["rate"] for run in loads),
            "papers/s",
        ),
        Metric(
            "lengths estimated on one core, nothing tokenized",
            statistics.median(run["rate"] for run in estimates),
            "papers/s",
            LEAST_ESTIMATED,
        ),
        Metric("finding where to cut it, once", statistics.median(run["cuts"] for run in runs), "s"),
        Metric("decompressing and orjson alone", floor, "papers/s"),
        Metric("share of that", rate / floor, "ratio"),
        Metric("peak memory", peak, "MB", MOST_MEMORY, "at most"),
        Metric("peak memory loading whole shards", max(run["peak"] for run in loads), "MB", MOST_MEMORY, "at most"),
        Metric(f"peak memory with a file {COPIES} times as large", many["peak"], "MB", MOST_MEMORY, "at most"),
        Metric(f"growth with a file {COPIES} times as large", many["peak"] / peak, "ratio", 1.1, "at most"),
    ]


def _in_own_process(what: str, file: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.reading", what, str(file)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _read(reader: ShardReader, shard: Shard) -> int:
    return sum(isinstance(item, Paper) for item in reader.read(shard))


def _load(reader: ShardReader, shard: Shard) -> int:
    content = reader.load(shard)
    return len(content.papers) + content.duplicates


def _floor(file: Path) -> int:
    papers = 0
    with igzip.open(file) as lines:
        for line in lines:
            orjson.loads(line)
            papers += 1
    return papers


def _measured(what: str, file: Path) -> dict[str, float]:
    """The rate, the peak, and what finding the cuts took before, which is done once for a file."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as index, ShardReader() as reader:
        begun = time.process_time()
        shards = list_folder(file.parent, shard_papers=DEFAULT_SHARD_PAPERS, index=Path(index)).shards
        cut = time.process_time()
        if what == "floor":
            papers = _floor(file)
        elif what == "estimate":
            from arxiv_embed.encoding.model import resolve_model
            from arxiv_embed.estimates import TokenEstimator, Vocabulary  # whose memory is not reading's

            some = reader.load(shards[0]).papers
            estimator = TokenEstimator(Vocabulary(resolve_model(DEFAULT_MODEL).folder / "tokenizer.json"))
            cut = time.process_time()
            papers = len(estimator.estimate([paper.text for paper in some], [paper.categories for paper in some]))
        else:
            papers = sum((_read if what == "read" else _load)(reader, shard) for shard in shards)
        seconds = time.process_time() - cut
    return {"rate": papers / seconds, "cuts": cut - begun, "peak": peak_bytes() / 1e6}


def peak_bytes() -> int:
    """Of this process alone: `ru_maxrss` starts from what the process that started it had."""
    status = Path("/proc/self/status")
    if status.is_file() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    import resource

    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_memory if sys.platform == "darwin" else peak_memory * 1024


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(_measured(sys.argv[1], Path(sys.argv[2]))))
    else:
        for metric in measure():
            print(json.dumps(asdict(metric) | {"ok": metric.ok}))
