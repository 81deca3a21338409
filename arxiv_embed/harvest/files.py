"""Dated files: what was harvested, in the metadata folder, one shard a file; whole under its name, never rewritten."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path

from arxiv_embed.checkpoint.atomic import DRAFT_PREFIX, write_atomically

HEAD = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">\n<ListRecords>\n'
)
TAIL = b"</ListRecords>\n</OAI-PMH>\n"


def write_dated_files(records: Iterable[bytes], folder: Path, stem: str, most: int) -> Iterator[tuple[Path, int]]:
    """Writes files of `most` records at most, `stem.xml`, `stem-2.xml` and so on; each with the number of its records.

    A file that is there already with the same records is left as it is, so that writing may be repeated.
    """
    left = iter(records)
    while some := list(islice(left, most)):
        content = b"".join((HEAD, *(record + b"\n" for record in some), TAIL))
        yield _write(folder, stem, content), len(some)


def _write(folder: Path, stem: str, content: bytes) -> Path:
    for number in count(1):
        path = folder / (f"{stem}.xml" if number == 1 else f"{stem}-{number}.xml")
        if not path.exists():
            write_atomically(path, content)
            return path
        if path.stat().st_size == len(content) and path.read_bytes() == content:
            return path
    raise AssertionError("numbers do not end")


def remove_drafts(folder: Path, name: str) -> None:
    """Removes what a killed process left of files that it was writing, `name` and a day being their stem."""
    draft = re.compile(rf"{re.escape(DRAFT_PREFIX)}\d+-{re.escape(name)}-\d{{4}}-\d\d-\d\d(-\d+)?\.xml")
    for path in sorted(folder.glob(f"{DRAFT_PREFIX}*")):
        if draft.fullmatch(path.name):
            path.unlink(missing_ok=True)
