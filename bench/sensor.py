"""Sensor: seconds and peak memory of the ticks of `new_metadata`, over 400,000 files of one paper and one file of 4 GB.

Every tick is evaluated in a process of its own, against an instance of the bench's own; what Dagster itself takes to
load is not counted. `python -m bench.sensor` prints the metrics.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import orjson
from isal import igzip

from bench.data import REPOSITORY, real_data
from bench.metric import Metric
from bench.reading import peak_bytes

PAPERS = 400_000
ADDED, CHANGED = 100, 10
LARGE_BYTES = 4_000_000_000
FIRST_SECONDS, LATER_SECONDS, MOST_MEMORY = 20.0, 5.0, 500.0
TIME_LIMIT = 60.0
"""Seconds; Dagster's own."""


def measure() -> list[Metric]:
    """Raises `ArxivEmbedError` where the real data is not there."""
    records = _records()
    with tempfile.TemporaryDirectory(prefix="arxiv-embed-bench-") as scratch:
        return [*_over_papers(Path(scratch, "papers"), records), *_over_large_file(Path(scratch, "large"), records)]


def _records() -> list[dict[str, object]]:
    with igzip.open(real_data() / "arxiv_100k.jsonl.gz") as lines:
        return [orjson.loads(line) for line in lines]


def _over_papers(place: Path, records: list[dict[str, object]]) -> list[Metric]:
    folder = place / "metadata"
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    for number in range(PAPERS):
        _write_paper(folder, number, records)
    written = time.perf_counter() - begun
    watch = _Watch(place)
    first = watch.tick()
    second = watch.tick()
    quiet = watch.tick()
    for number in range(PAPERS, PAPERS + ADDED):
        _write_paper(folder, number, records)
    for number in range(0, PAPERS, PAPERS // CHANGED):
        _write_paper(folder, number, records, title="A changed title")
    changed = watch.tick()
    settled = watch.tick()
    later = [second, quiet, changed, settled]
    return [
        Metric(f"writing {PAPERS:,} files of one paper", written, "s"),
        Metric("first tick", first.seconds, "s", FIRST_SECONDS, "at most"),
        Metric("second tick, which asks for all", second.seconds, "s", LATER_SECONDS, "at most"),
        Metric("third tick, nothing new", quiet.seconds, "s", LATER_SECONDS, "at most"),
        Metric(f"tick that sees {ADDED} new and {CHANGED} changed", changed.seconds, "s", LATER_SECONDS, "at most"),
        Metric("tick that asks for them", settled.seconds, "s", LATER_SECONDS, "at most"),
        Metric("runs asked for", sum(tick.runs for tick in [first, *later]), "runs", 2, "at most"),
        Metric("peak memory", max(tick.peak for tick in [first, *later]), "MB", MOST_MEMORY, "at most"),
        Metric("of that before the tick, Dagster and the package", first.peak_before, "MB"),
        Metric("state kept in the home", settled.state_bytes / 1e6, "MB"),
    ]


def _over_large_file(place: Path, records: list[dict[str, object]]) -> list[Metric]:
    folder = place / "metadata"
    folder.mkdir(parents=True)
    block = b"".join(orjson.dumps(record) + b"\n" for record in records)
    with (folder / "snapshot.jsonl").open("wb") as file:
        for _ in range(-(-LARGE_BYTES // len(block))):
            file.write(block)
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read from the disk, as a new file is
    watch = _Watch(place)
    ticks = [watch.tick()]
    while not ticks[-1].runs:
        ticks.append(watch.tick())
    name = f"{LARGE_BYTES / 1e9:g} GB of JSON lines"
    return [
        Metric(f"{name}: ticks until its run is asked for", len(ticks), "ticks"),
        Metric(f"{name}: longest tick", max(tick.seconds for tick in ticks), "s", TIME_LIMIT / 2, "at most"),
        Metric(f"{name}: shards", ticks[-1].partitions, "shards"),
        Metric(f"{name}: peak memory", max(tick.peak for tick in ticks), "MB", MOST_MEMORY, "at most"),
    ]


def _write_paper(folder: Path, number: int, records: list[dict[str, object]], **changed: object) -> None:
    """A small file as in a folder of one file a paper, 1,500 a month; the text is real, the id counted."""
    record = records[number % len(records)]
    month = number // 1_500
    paper = {
        "title": record["title"],
        "authors": [record["authors"]],
        "abstract": record["abstract"],
        "categories": str(record["categories"]).split(),
        "updated": record["update_date"],
        **changed,
    }
    year, month = divmod(month, 12)
    name = f"{year + 7:02d}{month + 1:02d}.{number % 1_500 + 1:0{5 if year >= 8 else 4}d}.json"
    with (folder / name).open("wb") as file:
        file.write(orjson.dumps(paper))


class _Tick:
    """What one tick took, measured in its own process."""

    def __init__(self, measured: dict[str, float]) -> None:
        self.seconds = measured["seconds"]
        self.peak = measured["peak"] / 1e6
        self.peak_before = measured["peak_before"] / 1e6
        self.runs = int(measured["runs"])
        self.partitions = int(measured["partitions"])
        self.state_bytes = measured["state_bytes"]


class _Watch:
    """The ticks of one folder, one after the other, each going on from the cursor of the one before."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._cursor = ""
        (place / "dagster").mkdir()

    def tick(self) -> _Tick:
        command = [sys.executable, "-m", "bench.sensor", str(self._place / "dagster"), self._cursor]
        surroundings = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ARXIV_EMBED_")},
            "ARXIV_EMBED_HOME": str(self._place / "home"),
            "ARXIV_EMBED_METADATA_DIR": str(self._place / "metadata"),
        }
        done = subprocess.run(command, cwd=REPOSITORY, env=surroundings, capture_output=True, text=True, check=True)
        measured = json.loads(done.stdout)
        self._cursor = measured["cursor"]
        return _Tick(measured)


def _measured(storage: str, cursor: str) -> dict[str, object]:
    from dagster import DagsterInstance, SensorResult, build_sensor_context

    from arxiv_embed.pipeline.sensors import new_metadata

    with DagsterInstance.local_temp(storage) as instance:
        context = build_sensor_context(instance=instance, cursor=cursor or None)
        peak_before = peak_bytes()
        begun = time.perf_counter()
        result = new_metadata(context)
        seconds = time.perf_counter() - begun
        peak = peak_bytes()
    assert isinstance(result, SensorResult)
    assert result.cursor is not None
    return {
        "seconds": seconds,
        "peak": peak,
        "peak_before": peak_before,
        "runs": len(result.run_requests or []),
        "partitions": sum(len(request.partition_keys) for request in result.dynamic_partitions_requests or []),
        "cursor": result.cursor,
        "state_bytes": Path(os.environ["ARXIV_EMBED_HOME"], "watch", result.cursor).stat().st_size,
    }


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(_measured(*sys.argv[1:])))
    else:
        for metric in measure():
            print(json.dumps(asdict(metric) | {"ok": metric.ok}))
