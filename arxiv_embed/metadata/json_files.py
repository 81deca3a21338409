"""JSON metadata: JSON lines, one array, or one object a file; each record becomes one paper or one reject."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ijson
import orjson

from arxiv_embed.metadata.paper import NotAPaper, Paper, Reject, excerpt
from arxiv_embed.metadata.records import paper_of
from arxiv_embed.metadata.streams import BLOCK, DAMAGED, Readable

LONGEST_LINE = 1 << 20


def read_lines(stream: Readable, file: str, first_line: int, file_id: str | None) -> Iterator[Paper | Reject]:
    """JSON lines; blank lines are passed over, a line of over `LONGEST_LINE` bytes is never held in memory."""
    number = first_line - 1
    rest = b""
    overlong = False
    ended = False
    while not ended:
        try:
            block = stream.read(BLOCK)
        except DAMAGED as error:
            yield Reject(file, f"line {number + 1}", f"file is cut off or damaged here ({error})", excerpt(rest))
            return
        ended = not block
        lines = (rest + block).split(b"\n")
        rest = b"" if ended else lines.pop()
        for line in lines:
            number += 1
            if overlong or len(line) > LONGEST_LINE:
                overlong = False
                yield Reject(file, f"line {number}", "line too long", excerpt(line))
            elif not line or line.isspace():
                continue
            else:
                try:
                    yield paper_of(_object(orjson.loads(line)), file_id)
                except NotAPaper as reason:
                    yield Reject(file, f"line {number}", str(reason), excerpt(line))
                except orjson.JSONDecodeError:
                    yield from _undecodable(line, file, number, file_id)
        if len(rest) > LONGEST_LINE:
            overlong, rest = True, rest[:256]


def _undecodable(line: bytes, file: str, number: int, file_id: str | None) -> Iterator[Paper | Reject]:
    if line.startswith(b"\xef\xbb\xbf"):
        yield from read_object(line[3:], file, file_id, f"line {number}")
        return
    yield Reject(file, f"line {number}", _json_fault(line), excerpt(line))


def _json_fault(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    return "invalid JSON" if raw.rstrip().endswith((b"}", b"]")) else "truncated JSON"


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise NotAPaper("record is not an object")


def read_object(raw: bytes, file: str, file_id: str | None, position: str = "record 1") -> Iterator[Paper | Reject]:
    """One JSON object, as in the per-paper files."""
    if len(raw) > LONGEST_LINE:
        yield Reject(file, position, "record too long", excerpt(raw))
        return
    try:
        yield paper_of(_object(orjson.loads(raw.removeprefix(b"\xef\xbb\xbf"))), file_id)
    except NotAPaper as reason:
        yield Reject(file, position, str(reason), excerpt(raw))
    except orjson.JSONDecodeError:
        yield Reject(file, position, _json_fault(raw), excerpt(raw))


def read_array(stream: Readable, file: str) -> Iterator[Paper | Reject]:
    """The elements of one JSON array, streamed; what is broken in the middle ends the file with one reject."""
    number = 0
    records = ijson.items(stream, "item", use_float=True)
    while True:
        number += 1
        try:
            record = next(records)
        except StopIteration:
            return
        except (*DAMAGED, ijson.JSONError, UnicodeDecodeError) as error:
            yield Reject(file, f"record {number}", "JSON array is broken from here on", excerpt(str(error)))
            return
        try:
            yield paper_of(_object(record))
        except NotAPaper as reason:
            yield Reject(file, f"record {number}", str(reason), excerpt(str(record)))
