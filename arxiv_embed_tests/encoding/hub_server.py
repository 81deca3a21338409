"""A small Hugging Face hub on this machine: as much of its protocol as fetching a model asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What it serves, the trouble it makes, and what it was asked for."""

    url: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Of its one repository, somebody/a-model: the files of each commit."""
    revisions: dict[str, str] = field(default_factory=dict)
    upcoming: dict[str, bytes] = field(default_factory=dict)
    """A commit that is pushed to main as soon as the first file is asked for."""
    fault: tuple[int, dict[str, str]] | None = None
    """The status and the headers that everything is answered with."""
    faults: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """The same for single files."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Of files that are announced with another size than they have."""
    page: bytes | None = None
    """What everything is answered with, as a captive portal does."""
    silent: str | None = None
    """What is in the paths of requests that are accepted and not answered, but after two seconds hung up on."""
    closing: Event = field(default_factory=Event)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request, without the query."""

    def push(self, files: Mapping[str, bytes], *revisions: str) -> str:
        """A new commit, to which the revisions point from now on."""
        commit = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.revisions |= dict.fromkeys(revisions, commit)
        return commit

    def fetched(self) -> set[str]:
        """The files whose contents were given out."""
        given = [path for method, path in map(str.split, self.asked) if method == "GET" and "/resolve/" in path]
        return {unquote(path).split("/", 5)[5] for path in given}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.fault is not None:
            return *self.fault, b""
        if self.page is not None:
            return 200, {"Content-Type": "text/html"}, self.page
        where = unquote(path)
        for start, give in (("/api/models/somebody/a-model", self._api), ("/somebody/a-model/resolve/", self._file)):
            if where.startswith(start):
                return give(where.removeprefix(start).lstrip("/"))
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _api(self, path: str) -> tuple[int, dict[str, str], bytes]:
        what, _, revision = path.partition("/")
        commit = self.revisions.get(revision or "main", revision)
        if commit not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if what == "tree":
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.commits[commit].items()
            ]
            return 200, {}, json.dumps(files).encode()
        return 200, {}, json.dumps({"id": "somebody/a-model", "sha": commit}).encode()

    def _file(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.upcoming:
            self.push(self.upcoming, "main")
            self.upcoming = {}
        commit, name = path.split("/", 1)
        if name in self.faults:
            return *self.faults[name], b""
        content = self.commits[commit][name]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
        if name in self.sizes:
            headers["X-Linked-Size"] = str(self.sizes[name])
        return 200, headers, content


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of the loopback."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(f"{self.command} {path}")
            if hub.silent is not None and hub.silent in path:
                hub.closing.wait(2)
                self.close_connection = True
                return
            status, headers, content = hub.answer(path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
