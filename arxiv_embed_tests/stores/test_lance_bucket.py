"""A LanceDB store on object storage: the same as in a folder, against a server that speaks S3."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import arxiv_embed.equipment
from arxiv_embed.settings import RunOptions
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import Filters, NoStore, StoreError, open_store
from arxiv_embed.stores.search import search
from arxiv_embed_tests.deployment.stack import free_port
from arxiv_embed_tests.fake_pool import FakePool, run_shards
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, held, papers_held, shard_rows
from arxiv_embed_tests.stores.test_search import RECORDS, SameText

BUCKET = "papers-of-a-test"
SIGNED = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=test"
START_SECONDS = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 of this test's own, with one bucket."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + START_SECONDS
    bucket = urllib.request.Request(f"{address}/{BUCKET}", method="PUT", headers={"Authorization": SIGNED})
    while True:
        try:
            urllib.request.urlopen(bucket).close()
            break
        except urllib.error.URLError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield address
    process.terminate()
    process.wait()


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": server,
        "AWS_ALLOW_HTTP": "true",
        "ARXIV_EMBED_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{request.node.name}"


def test_a_bucket_holds_what_a_folder_would(url: str, tmp_path: Path) -> None:
    stores = (LanceStore(url), LanceStore(tmp_path / "folder"))
    for store in stores:
        store.write_shard(SPACE, "a", shard_rows("a", RECORDS), "i")
        store.write_shard(SPACE, "b", shard_rows("b", [Record("1", updated="2021-01-01", text="new")]), "i")
        store.write_shard(SPACE, "a", shard_rows("a", [*RECORDS, Record("1", text="old", chunks=7)]), "j")
        store.write_shard(SPACE, "a", shard_rows("a", [*RECORDS, Record("1", text="old", chunks=7)]), "j")
        store.finish(SPACE)
    bucket, folder = (open_store(store.url) for store in stores)
    assert isinstance(bucket, LanceStore)
    assert isinstance(folder, LanceStore)
    assert held(bucket) == held(folder)
    assert len(papers_held(bucket)) == len(RECORDS) + 1
    assert bucket.shards(SPACE.fingerprint) == {"a": "j", "b": "i"}
    for filters in (Filters(), Filters(category="math"), Filters(since="2019-05-07")):
        one, other = (
            [hit.to_json() for hit in search(store, SPACE.fingerprint, SameText(), "Graph colouring", 10, filters)]
            for store in (bucket, folder)
        )
        assert one == other
        assert one
    bucket.drop(SPACE.fingerprint)
    assert bucket.spaces() == []


def test_a_run_fills_a_bucket_and_the_next_one_has_nothing_to_do(
    url: str, tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FakePool()
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", pool)
    home = tmp_path / "home"
    options = RunOptions(small_folder, url, home / "checkpoints", devices="cpu:1")
    space = run_shards(options, home, "one").space
    with open_store(url) as store:
        papers, _ = store.count(space.fingerprint)
    assert papers == len(pool.embedded) > 0
    assert not run_shards(options, home, "two").plan.pending


def test_two_writers_of_two_homes_leave_no_duplicates(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LanceStore(url).write_shard(SPACE, "first", shard_rows("first", [Record("0")]), "i")
    code = f"""
import sys
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, shard_rows
store = LanceStore({url!r})
sys.stdin.readline()
store.write_shard(SPACE, sys.argv[1], shard_rows(sys.argv[1], [Record(str(n)) for n in range(1, 400)]), "i")
"""
    writers = []
    for name in ("a", "b"):
        monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / name))
        command = [sys.executable, "-c", code, name]
        writers.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait() for writer in writers] == [0, 0]
    rows = held(LanceStore(url))
    assert len({row["key"] for row in rows}) == len(rows) == 400 * 3


def test_what_is_not_there_is_one_sentence(url: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoStore, match=f"There is no store at {url}: make one"):
        open_store(url)
    with pytest.raises(StoreError, match=r"The store s3://no-such-bucket/x cannot be reached: look at its bucket"):
        open_store("s3://no-such-bucket/x")
    store = LanceStore(url)
    store.write_shard(SPACE, "a", shard_rows("a", RECORDS), "i")
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreError, match="cannot be reached"):
        open_store(url).nearest(SPACE.fingerprint, np.ones(8, np.float32), 3, Filters(), chunks=False)
