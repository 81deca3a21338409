"""JSON metadata: JSON lines, one array, or one object a file; each record becomes one paper or one reject."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from arxiv_embed.metadata.paper import EXCERPT_BYTES, NotAPaper, Paper, Reject, excerpt
from arxiv_embed.metadata.records import paper_of
from arxiv_embed.metadata.streams import BLOCK, BYTE_ORDER_MARK, Damaged, Readable

LONGEST_RECORD = 1 << 20
"""Bytes; what is longer is rejected and never held in memory as a whole."""

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)


def read_lines(
    stream: Readable, file: str, first_line: int = 1, file_id: str | None = None
) -> Iterator[Paper | Reject]:
    """JSON lines; blank lines are passed over. `file_id` is the id of records that have none of their own."""
    number = first_line - 1
    rest = b""
    overlong = False
    ended = False
    while not ended:
        try:
            block = stream.read(BLOCK)
        except Damaged as error:
            yield Reject(file, f"line {number + 1}", f"file is cut off or damaged here ({error})", excerpt(rest))
            return
        ended = not block
        lines = (rest + block).split(b"\n")
        rest = b"" if ended else lines.pop()
        for line in lines:
            number += 1
            if overlong or len(line) > LONGEST_RECORD:
                overlong = False
                yield Reject(file, f"line {number}", "line too long", excerpt(line))
            elif line and not line.isspace():
                yield _paper_or_reject(line, file, "line", number, file_id)
        if len(rest) > LONGEST_RECORD:
            overlong, rest = True, rest[:EXCERPT_BYTES]


def read_object(stream: Readable, file: str, file_id: str | None = None) -> Iterator[Paper | Reject]:
    """One JSON object, as in the per-paper files."""
    raw = b""
    try:
        while len(raw) <= LONGEST_RECORD and (block := stream.read(BLOCK)):
            raw += block
    except Damaged as error:
        yield Reject(file, "record 1", f"file is cut off or damaged here ({error})", excerpt(raw))
        return
    if len(raw) > LONGEST_RECORD:
        yield Reject(file, "record 1", "record too long", excerpt(raw))
    else:
        yield _paper_or_reject(raw, file, "record", 1, file_id)


def read_array(stream: Readable, file: str) -> Iterator[Paper | Reject]:
    """The elements of one JSON array; where their bounds can no longer be told, one reject ends the file."""
    number = 1
    elements = _elements(stream)
    try:
        for raw in elements:
            yield _paper_or_reject(raw, file, "record", number)
            number += 1
    except _BrokenArray as broken:
        yield Reject(file, f"record {number}", *broken.args)


def _paper_or_reject(raw: bytes, file: str, unit: str, number: int, file_id: str | None = None) -> Paper | Reject:
    try:
        record = orjson.loads(raw)
        if type(record) is dict:
            return paper_of(record, file_id)
        reason = "record is not an object"
    except NotAPaper as not_a_paper:
        reason = str(not_a_paper)
    except orjson.JSONDecodeError:
        if raw.startswith(BYTE_ORDER_MARK):
            return _paper_or_reject(raw.removeprefix(BYTE_ORDER_MARK), file, unit, number, file_id)
        reason = _json_fault(raw)
    return Reject(file, f"{unit} {number}", reason, excerpt(raw))


def _json_fault(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    cut_off = raw.lstrip().startswith((b"{", b"[")) and not raw.rstrip().endswith((b"}", b"]"))
    return "truncated JSON" if cut_off else "invalid JSON"


class _BrokenArray(Exception):
    """Its arguments are the reason and an excerpt."""


def _elements(stream: Readable) -> Iterator[bytes]:
    """The bytes of each element; raises `_BrokenArray`. Strings are passed over, brackets and commas counted."""
    text = b""  # from the element's beginning on
    begin = at = 0
    depth = found = 0
    while depth or not found:
        try:
            block = stream.read(BLOCK)
        except Damaged as error:
            raise _BrokenArray(f"file is cut off or damaged here ({error})", excerpt(text[begin:])) from None
        if not block:
            raise _BrokenArray("JSON array is cut off", excerpt(text[begin:]))
        text, at, begin = text[begin:] + block, at - begin, 0
        for token in _TOKEN.finditer(text, at):
            mark = token[0]
            if len(mark) > 1:
                continue
            if mark == b'"':
                at = token.start()
                break  # the string ends in a block to come
            at = token.end()
            if mark in b"[{":
                depth += 1
                if depth == 1:
                    begin = at
            elif mark in b"]}":
                depth -= 1
            if depth == 0 or (depth == 1 and mark == b","):
                element = text[begin : token.start()]
                begin = at
                if depth or found or element.strip():
                    yield element
                found += 1
                if depth == 0:
                    break
        if depth and len(text) - begin > LONGEST_RECORD:
            raise _BrokenArray("record too long; the array is not read beyond it", excerpt(text[begin:]))
    behind = text[at:]
    while not behind.strip():
        behind = stream.read(BLOCK)
        if not behind:
            return
    raise _BrokenArray("there is more behind the JSON array", excerpt(behind.lstrip()))
