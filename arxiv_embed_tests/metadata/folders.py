"""Metadata folders for tests: records written in every shape, and whole folders read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import zstandard

from arxiv_embed.metadata.paper import Paper, Reject
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Shard, list_folder

CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda raw: raw,
    "gzip": lambda raw: gzip.compress(raw, mtime=0),
    "zstd": lambda raw: zstandard.compress(raw),
}


def record(paper_id: str, **fields: Any) -> dict[str, Any]:
    """A record in the Kaggle snapshot's field names."""
    return {
        "id": paper_id,
        "title": f"On the paper {paper_id}",
        "abstract": f"What is said in {paper_id}.",
        "authors": "A. Author",
        "categories": "cs.LG math.ST",
        "update_date": "2020-02-03",
        **fields,
    }


def json_lines(records: Iterable[Any]) -> bytes:
    """Records as JSON lines; bytes are put in as they are."""
    return b"".join((raw if isinstance(raw, bytes) else json.dumps(raw).encode()) + b"\n" for raw in records)


def json_array(records: Iterable[Any]) -> bytes:
    return json.dumps(list(records)).encode()


def oai_answer(records: Iterable[dict[str, Any]]) -> bytes:
    bodies = "".join(
        "<record><header/><metadata><arXiv>"
        f"<id>{escape(r['id'])}</id><created>2019-01-01</created><updated>{r['update_date']}</updated>"
        f"<title>{escape(r['title'])}</title><categories>{r['categories']}</categories>"
        f"<abstract>{escape(r['abstract'])}</abstract></arXiv></metadata></record>"
        for r in records
    )
    return (
        f'<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><ListRecords>{bodies}</ListRecords></OAI-PMH>'.encode()
    )


SHAPES: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "lines": json_lines,
    "array": json_array,
    "xml": oai_answer,
}


def shards_of(folder: Path, shard_papers: int = 20_000) -> list[Shard]:
    return list(list_folder(folder, shard_papers=shard_papers, index=folder.parent / "index").shards)


def read_folder(folder: Path, shard_papers: int = 20_000) -> list[Paper | Reject]:
    """Everything in a folder, in the order of its shards."""
    with ShardReader() as reader:
        return [item for shard in shards_of(folder, shard_papers) for item in reader.read(shard)]


def papers_in(items: Iterable[Paper | Reject]) -> list[Paper]:
    return [item for item in items if isinstance(item, Paper)]


def rejects_in(items: Iterable[Paper | Reject]) -> list[Reject]:
    return [item for item in items if isinstance(item, Reject)]


def reasons_in(items: Iterable[Paper | Reject]) -> list[tuple[str, str]]:
    return [(reject.position, reject.reason) for reject in rejects_in(items)]
