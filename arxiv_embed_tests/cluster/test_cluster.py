"""A cluster of two nodes on this machine, with a CPU each: every paper once, whatever becomes of a worker or a node."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from arxiv_embed.cluster.cluster import Cluster, ClusterAway
from arxiv_embed.encoding.batch import pack
from arxiv_embed.gpu.protocol import Cancel, Cancelled, Encoded, Ready, Setup, Work, receive
from arxiv_embed.gpu.slots import bytes_needed
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.cli.commands import arxiv_embed
from arxiv_embed_tests.cluster.loader import LOAD, LOAD_SLOW
from arxiv_embed_tests.cluster.ray_nodes import RayNodes
from arxiv_embed_tests.cluster.running import FILES, SPACE, Running
from arxiv_embed_tests.gpu.simulated import WIDTH, paper

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with RayNodes() as nodes:
            nodes.add("one")
            nodes.add("two")
            yield nodes


def test_a_folder_is_embedded_on_a_cluster_as_on_this_machine(
    nodes: RayNodes, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    vectors = {}
    for place, where in (("here", ["--devices", "cpu:1"]), ("there", ["--cluster", nodes.address])):
        home = tmp_path / place
        what = ("--metadata-dir", small_folder, "--model", tiny_model, "--dtype", "float32")
        run = arxiv_embed(home, "run", *what, *where)
        assert run.returncode == 0, run.stdout + run.stderr
        with open_store(str(home / "stores" / "papers")) as store:
            [space] = store.spaces()
            columns = ["paper_id", "chunk_index", "start_char", "end_char", "vector"]
            rows = pa.Table.from_batches(store.scan(space.fingerprint, columns))
        vectors[place] = rows.sort_by([("paper_id", "ascending"), ("chunk_index", "ascending")])
    assert vectors["here"].num_rows > 11
    assert vectors["here"].drop_columns("vector") == vectors["there"].drop_columns("vector")
    here, there = (np.stack(rows["vector"].to_numpy()) for rows in vectors.values())
    assert np.allclose(here, there, atol=1e-5)
    [record] = (tmp_path / "there" / "runs").glob("*/progress.jsonl")
    told = [json.loads(line) for line in record.read_text().splitlines()]
    devices = {line["device"] for line in told if line["event"] == "batch"}
    assert all("/cpu:0" in device for device in devices)


def test_a_killed_actor_a_killed_node_and_one_that_joins_lose_no_paper(nodes: RayNodes) -> None:
    def script(running: Running) -> None:
        running.computes(devices=2)
        next(process for process in nodes.processes("one") if process.name().startswith("ray::Enc")).kill()
        running.until(lambda: running.happened("back"), "the killed worker is back")
        running.computes(devices=2)
        nodes.kill("two")
        running.computes(devices=1)
        running.until(lambda: running.happened("left"), "the node has left")
        nodes.add("two")
        running.until(lambda: running.happened("joined"), "the node has joined")
        running.computes(devices=2)

        names = {device.name for device in cluster.devices()}
        running.until(lambda: cluster.readings().keys() == names, "both tell how they are")
        for reading in cluster.readings().values():
            assert reading.memory_used
            assert reading.process_memory

    with Cluster(nodes.address, load=LOAD) as cluster:
        running = Running(cluster, script)
        running.embed()
    assert running.happened("left") == running.happened("joined") == 1


@pytest.mark.parametrize("way", ["address", "client_address"])
def test_a_batch_is_taken_back_and_a_device_read_while_another_batch_is_computed(nodes: RayNodes, way: str) -> None:
    """From a node of the cluster, and from outside by ray://."""
    batch = pack([paper(0, 40)])
    with Cluster(getattr(nodes, way), load=LOAD_SLOW) as cluster:
        device = cluster.devices()[0]
        worker = cluster.hire(device)
        worker.send(Setup(FILES, SPACE, device.torch_name, "float32"))
        assert isinstance(receive(worker.connection), Ready)
        for number, slot in enumerate(worker.slots):
            slot.grow(bytes_needed(batch, WIDTH, "float32"))
            slot.put_batch(batch)
            worker.send(Work(number, number, 1, len(batch.spans), len(batch.ids), 0))
        worker.send(Cancel(1))
        encoded, cancelled = receive(worker.connection), receive(worker.connection)
        assert (type(encoded), encoded.number, cancelled) == (Encoded, 0, Cancelled(1))
        deadline = time.monotonic() + 60
        while device.name not in cluster.readings():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker.end(1.0)


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arxiv_embed.cluster.cluster.JOIN_SECONDS", 1.0)
    away = Cluster("127.0.0.1:9")
    with pytest.raises(ClusterAway, match=r"127.0.0.1:9 cannot be reached.* start it, or mend --cluster"), away:
        pass
