"""OAI-PMH answers: a page of records, or an error, that has come whole; anything else is no answer.

oaipmh-scythe's own reading is not used, as its parser mends XML: of an answer of 1,000 records cut off in the middle
it gives 510, finds no resumption token, and ends the list as if it were complete. Here only well-formed XML counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from lxml import etree

OAI = "{http://www.openarchives.org/OAI/2.0/}"
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_WEB_PAGE = re.compile(rb"<(!doctype\s+)?html\b", re.I)
_HEAD_BYTES = 1000


class BadAnswer(ValueError):
    """What came is no whole OAI-PMH answer; the message says why, in a few words."""


class OtherAnswer(BadAnswer):
    """What came is of another kind, a web page or another XML: its address may be that of something else."""


class ErrorAnswer(Exception):
    """The repository's own word that it does not do what was asked; `day` is the UTC day of the answer, "" without."""

    def __init__(self, code: str, text: str, day: str) -> None:
        super().__init__(f"{text} ({code})" if text else code)
        self.code = code
        self.day = day


@dataclass(frozen=True)
class Deleted:
    """A record of which only the header is left; `datestamp` is the day on which it was deleted."""

    id: str
    datestamp: str


@dataclass(frozen=True)
class Page:
    """One answer to ListRecords: `datestamps` has one day a record, in their order; `token` asks for the next page,
    None where this is the last; `announced` is the size of the whole list, where the repository says it; `day` is the
    UTC day of the answer."""

    datestamps: tuple[str, ...]
    deleted: tuple[Deleted, ...]
    token: str | None
    announced: int | None
    day: str


def read_page(content: bytes) -> Page:
    """Raises `BadAnswer`, and `ErrorAnswer`."""
    answer = _answer(content, "ListRecords")
    day = _day(answer.getparent())
    if not day:
        raise BadAnswer("it has no responseDate")
    headers = [record.find(f"{OAI}header") for record in answer.iterfind(f"{OAI}record")]
    if not headers:
        raise BadAnswer("it holds no records")
    datestamps, deleted = [], []
    for number, header in enumerate(headers, 1):
        identifier = "" if header is None else (header.findtext(f"{OAI}identifier") or "").strip()
        datestamp = "" if header is None else (header.findtext(f"{OAI}datestamp") or "").strip()[:10]
        if not identifier or not is_day(datestamp):
            raise BadAnswer(f"its record {number} has no identifier or no datestamp")
        datestamps.append(datestamp)
        if header.get("status") == "deleted":
            deleted.append(Deleted(identifier.removeprefix("oai:arXiv.org:"), datestamp))
    return Page(tuple(datestamps), tuple(deleted), _token(answer), _announced(answer), day)


def read_sets(content: bytes) -> tuple[list[str], str | None]:
    """The names of a page of sets, and the token of the next one; raises `BadAnswer`, and `ErrorAnswer`."""
    answer = _answer(content, "ListSets")
    return [(name.text or "").strip() for name in answer.iterfind(f"{OAI}set/{OAI}setSpec")], _token(answer)


def records_in(content: bytes) -> Iterator[bytes]:
    """The records of a page, each as XML that stands alone: with its namespaces declared, and otherwise as it came."""
    for record in _answer(content, "ListRecords").iterfind(f"{OAI}record"):
        yield etree.tostring(record, encoding="utf-8", with_tail=False)


def _answer(content: bytes, verb: str) -> Any:
    """The element of an answer that holds what was asked for."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        head = content[:_HEAD_BYTES]
        if _WEB_PAGE.search(head) and b"<OAI-PMH" not in head:
            raise OtherAnswer("it is no OAI-PMH but a web page") from None
        raise BadAnswer(f"its XML is broken: {error.msg}") from None
    if root.tag != f"{OAI}OAI-PMH":
        raise OtherAnswer(f"it is no OAI-PMH but <{etree.QName(root).localname}>")
    if root.getroottree().docinfo.doctype:
        raise BadAnswer("it has a document type declaration")
    refusal = root.find(f"{OAI}error")
    if refusal is not None:
        raise ErrorAnswer(refusal.get("code", "no code"), " ".join((refusal.text or "").split()), _day(root))
    answer = root.find(f"{OAI}{verb}")
    if answer is None:
        raise BadAnswer(f"it holds no {verb}")
    return answer


def _day(root: Any) -> str:
    day = (root.findtext(f"{OAI}responseDate") or "").strip()[:10]
    return day if is_day(day) else ""


def _token(answer: Any) -> str | None:
    return (answer.findtext(f"{OAI}resumptionToken") or "").strip() or None


def _announced(answer: Any) -> int | None:
    element = answer.find(f"{OAI}resumptionToken")
    size = "" if element is None else element.get("completeListSize", "")
    return int(size) if size.isascii() and size.isdigit() else None


def is_day(text: str) -> bool:
    """Whether a text is a day as OAI-PMH writes it, "YYYY-MM-DD"."""
    if not _DAY.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
