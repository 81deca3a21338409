"""`arxiv-embed serve`, as a process: how it begins, answers over a real socket, and ends."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from arxiv_embed.web.server import is_open, listening
from arxiv_embed_tests.cli.commands import TIMEOUT, arxiv_embed, start
from arxiv_embed_tests.web.served import address_said


@pytest.fixture
def home(sample_home: Path) -> Path:
    """With a store of 300 real papers."""
    return sample_home


@pytest.fixture
def server(home: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(home, "serve", "--port", "0")
    yield process
    process.kill()
    process.communicate()


def ids_found(address: str, query: str) -> list[str]:
    with urllib.request.urlopen(f"{address}/api/search?q={quote(query)}", timeout=TIMEOUT) as answer:
        return [hit["paper_id"] for hit in json.load(answer)["hits"]]


def test_it_says_where_it_is_answers_there_and_ends_when_interrupted(server: subprocess.Popen[str]) -> None:
    address = address_said(server)
    assert address.startswith("http://127.0.0.1:")
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=TIMEOUT)
    connection.request("GET", "/api/search?q=hadron+colliders&k=3")
    answer = connection.getresponse()
    assert answer.status == 200
    assert len(json.load(answer)["hits"]) == 3
    queries = ["hadron colliders", "sparse graphs", "the moon", "stars"]
    alone = [ids_found(address, query) for query in queries]
    with ThreadPoolExecutor(8) as clients:
        at_once = list(clients.map(lambda query: ids_found(address, query), 8 * queries))
    assert at_once == 8 * alone

    connection.request("GET", "/?q=" + "%F0%9F%8E%89" * 7_000)  # 84 KB, more than uvicorn takes by itself
    answer = connection.getresponse()
    assert answer.status == 414
    assert "The address has more than 65,536 characters" in answer.read().decode()

    connection.request("POST", "/api/search", body=b" " * 5_000_000, headers={"content-type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["status"]) == (413, 413)

    server.send_signal(signal.SIGINT)
    printed, _ = server.communicate(timeout=TIMEOUT)
    assert server.returncode == 130, printed
    assert printed.splitlines()[-1] == "Ended."
    assert "Traceback" not in printed


def test_a_server_with_a_client_that_stays_ends_all_the_same(server: subprocess.Popen[str]) -> None:
    host, port = address_said(server).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as client:
        client.sendall(b"POST /api/search HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=TIMEOUT)
    assert server.returncode == 130


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_ends_in_order_however_early_and_often_it_is_told_to(
    server: subprocess.Popen[str], ending: signal.Signals, code: int
) -> None:
    address_said(server)
    for _ in range(5):
        server.send_signal(ending)
    printed, _ = server.communicate(timeout=TIMEOUT)
    assert server.returncode == code, printed
    assert printed.splitlines()[-1] == "Ended."
    assert "Traceback" not in printed


@pytest.mark.parametrize(("host", "is_said"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_a_place_that_other_machines_reach_is_known(host: str, is_said: bool) -> None:
    with listening(host, 0) as bound:
        assert is_open(bound) == is_said


def test_who_may_search_is_said_where_other_machines_may(home: Path) -> None:
    server = start(home, "serve", "--port", "0", "--host", "0.0.0.0")
    try:
        assert server.stdout is not None
        _, said, address = (server.stdout.readline() for _ in range(3))
    finally:
        server.kill()
        server.communicate()
    assert said.startswith("Open to other machines: whoever reaches this port may search")
    assert address.startswith("Search page and API: http://0.0.0.0:")


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = arxiv_embed(tmp_path, "serve", "--port", str(port))
    assert refused.returncode == 2
    assert re.fullmatch(
        rf"Error: Port {port} of 127.0.0.1 cannot be used \(.+\): give another --port, or --port 0 for any.\n",
        refused.stderr,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "0"), "There is no store at"),
        (("--port", "0", "--host", "no.such.host.invalid"), "--host no.such.host.invalid is no address"),
        (("--port", "0", "--db-name", "../elsewhere"), "is no name for a store"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    refused = arxiv_embed(tmp_path, "serve", *arguments)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert refused.stderr.count("\n") == 1
