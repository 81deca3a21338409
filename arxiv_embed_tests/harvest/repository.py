"""An OAI-PMH repository on loopback: it replays arXiv's recorded records, as many a page as a test wants, and can be
busy, cut its answers off, garble them, or forget its resumption tokens."""

from __future__ import annotations

import http.server
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from lxml import etree

OAI = "{http://www.openarchives.org/OAI/2.0/}"
HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="http://www.openarchives.org/OAI/2.0/ http://www.openarchives.org/OAI/2.0/OAI-PMH.xsd">
<responseDate>{date}</responseDate>
<request verb="{verb}">http://export.arxiv.org/oai2</request>
"""  # noqa: E501 - as arXiv writes it
TAIL = "</OAI-PMH>\n"

Trouble = Literal["busy", "cut", "cut unnoticed", "malformed", "garbage", "away", "web page"] | None
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>Welcome<br></head><body>&nbsp;</body></html>\n"
TROUBLES: tuple[Trouble, ...] = ("busy", "cut", "cut unnoticed", "malformed", "garbage", "away")
"""What an address that is right may meet."""


@dataclass(frozen=True)
class Record:
    """A record as arXiv sent it; `xml` has no declarations of the namespaces that the answer around it declares."""

    id: str
    datestamp: str
    sets: tuple[str, ...]
    xml: str


def recorded(folder: Path, *names: str) -> list[Record]:
    """The records of recorded answers, as they came."""
    found = []
    for name in names:
        text = (folder / "xml" / "oai" / name).read_text()
        for part in text.split("<record>")[1:]:
            xml = "<record>" + part[: part.index("</record>")] + "</record>"
            header = etree.fromstring(xml.split("<metadata>")[0] + "</record>")[0]
            sets = tuple(spec.text or "" for spec in header.iterfind("setSpec"))
            found.append(Record(header.findtext("identifier") or "", header.findtext("datestamp") or "", sets, xml))
    return found


def deleted(record: Record) -> Record:
    """What is left of a record that was deleted."""
    header = record.xml.split("<metadata>")[0].replace("<header>", '<header status="deleted">').rstrip()
    return Record(record.id, record.datestamp, record.sets, f"{header}\n</record>")


@dataclass(frozen=True)
class Asked:
    """A request: when it came (monotonic seconds), what was asked, by whom, and what trouble it met."""

    time: float
    query: Mapping[str, str]
    agent: str
    trouble: Trouble

    @property
    def token(self) -> str:
        return self.query.get("resumptionToken", "")


@dataclass
class Repository:
    """Its records in the order of its lists. `trouble` decides what a request meets, by its number; `before` is called
    before it is answered; `retry_after` is what a busy one says; `short_by` of the announced records never come."""

    records: Sequence[Record]
    page_records: int = 100
    date: str = "2016-03-09T00:35:38Z"
    trouble: Callable[[int], Trouble] = lambda number: None
    before: Callable[[int], object] = lambda number: None
    retry_after: str = "1"
    announces: bool = True
    short_by: int = 0
    lists: list[list[Record]] = field(default_factory=list)
    forgotten: int = 0
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget_tokens(self) -> None:
        """As arXiv does every night."""
        self.forgotten = len(self.lists)

    @property
    def lists_asked(self) -> list[dict[str, str]]:
        """The requests that began a list."""
        return [dict(asked.query) for asked in self.asked if "metadataPrefix" in asked.query]

    def answer(self, query: Mapping[str, str]) -> str:
        if query.get("verb") == "ListSets":
            names = sorted({name for record in self.records for name in record.sets})
            sets = "".join(f"<set><setSpec>{name}</setSpec><setName>{name}</setName></set>\n" for name in names)
            return self._around("ListSets", f"<ListSets>\n{sets}</ListSets>\n")
        if query.get("verb") != "ListRecords":
            return self._error("badVerb", f"Bad verb. Verb '{query.get('verb')}' not implemented.")
        if "resumptionToken" in query:
            number, _, start = query["resumptionToken"].partition("|")
            if not number.isdigit() or int(number) < self.forgotten or int(number) >= len(self.lists):
                return self._error("badResumptionToken", "The resumptionToken supplied is illegal for this repository")
            return self._page(int(number), int(start))
        if query.get("metadataPrefix") != "arXivRaw":
            return self._error("cannotDisseminateFormat", "That is not asked for here")
        found = [record for record in self.records if self._matches(record, query)]
        if not found:
            return self._error("noRecordsMatch", "The combination of the values results in an empty list.")
        self.lists.append(found)
        return self._page(len(self.lists) - 1, 0)

    def _matches(self, record: Record, query: Mapping[str, str]) -> bool:
        wanted = query.get("set")
        in_set = wanted is None or any(name == wanted or name.startswith(f"{wanted}:") for name in record.sets)
        return in_set and query.get("from", "") <= record.datestamp <= query.get("until", "9999")

    def _page(self, number: int, start: int) -> str:
        records = self.lists[number]
        end = start + self.page_records
        token = f"{number}|{end}" if end < len(records) else ""
        size = f' completeListSize="{len(records) + self.short_by}"' if self.announces else ""
        last = f'<resumptionToken cursor="{start}"{size}>{token}</resumptionToken>\n'
        body = "\n".join(record.xml for record in records[start:end])
        return self._around("ListRecords", f"<ListRecords>\n{body}\n{last}</ListRecords>\n")

    def _error(self, code: str, text: str) -> str:
        return self._around("ListRecords", f'<error code="{code}">{text}</error>\n')

    def _around(self, verb: str, body: str) -> str:
        return HEAD.format(date=self.date, verb=verb) + body + TAIL

    def serve(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            number = len(self.asked)
            trouble = self.trouble(number)
            query = dict(parse_qsl(urlsplit(handler.path).query, keep_blank_values=True))
            self.asked.append(Asked(time.monotonic(), query, handler.headers.get("User-Agent", ""), trouble))
            content = self.answer(query).encode()
        try:
            self.before(number)
            respond(handler, content, trouble, self.retry_after)
        finally:
            with self._lock:
                self._at_once -= 1

    @contextmanager
    def running(self) -> Iterator[Repository]:
        """Serves on a port of its own, in a thread."""

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                repository.serve(self)

            def log_message(self, format: str, *args: object) -> None: ...

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None: ...  # clients are killed

        repository = self
        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}/oai"
            yield self
            server.shutdown()
            thread.join()


def respond(handler: http.server.BaseHTTPRequestHandler, content: bytes, trouble: Trouble, retry_after: str) -> None:
    """Sends an answer, or what becomes of it."""
    handler.close_connection = trouble is not None
    if trouble == "away":
        return
    if trouble == "web page":
        content = WEB_PAGE
    if trouble == "busy":
        handler.send_response(503)
        handler.send_header("Retry-After", retry_after)
        content = b"Service down"
    else:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/xml")
    if handler.close_connection:
        handler.send_header("Connection", "close")
    if trouble != "cut unnoticed":  # there the end of the connection is the end of the answer
        handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    middle = len(content) // 2
    if trouble in ("cut", "cut unnoticed"):
        content = content[:middle]
    elif trouble == "malformed":
        content = content[:middle] + b"< " + content[middle + 2 :]
    elif trouble == "garbage":
        content = b"#" * len(content)
    handler.wfile.write(content)


def often(seed: int, share: float, troubles: Sequence[Trouble] = TROUBLES) -> Callable[[int], Trouble]:
    """So large a share of the requests meets trouble, which differs with the seed."""
    chance = random.Random(seed)
    return lambda number: chance.choice(troubles) if chance.random() < share else None
