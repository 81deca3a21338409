"""An endpoint of a run's metrics on a port of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer


class Served(HTTPServer):
    """`text` is what it answers with, a character every `slowly` seconds; without one it has no such page."""

    allow_reuse_address = True
    text: str = ""
    slowly: float = 0.0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Served)
        content = self.server.text.encode() if self.path == "/metrics" else b""
        self.send_response(200 if content else 404)
        self.end_headers()
        if not self.server.slowly:
            self.wfile.write(content)
            return
        for byte in content:
            time.sleep(self.server.slowly)
            with contextlib.suppress(OSError):  # nobody listens any more
                self.wfile.write(bytes([byte]))

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def serving(text: str = "", port: int = 0) -> Iterator[Served]:
    with Served(("127.0.0.1", port), _Answer) as server:
        server.text = text
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
