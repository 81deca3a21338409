"""The middle of it all: `embed_shard`, which turns a shard's papers into vectors, and the tables that it works on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, FailedPaper, Incident, Outcome
from arxiv_embed.metadata.paper import Paper, Reject
from arxiv_embed.stores.protocol import PAPER_CHUNK

SEGMENT_SECONDS = 20.0
SEGMENT_PAPERS = 4_000
"""Finished papers become durable when the oldest is so old, or when there are so many."""

PAPERS = pa.schema(
    [
        ("paper_id", pa.string()),
        ("version", pa.int32()),
        ("title", pa.string()),
        ("abstract", pa.string()),
        ("authors", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("published", pa.string()),
        ("updated", pa.string()),
        ("withdrawn", pa.bool_()),
        ("text_sha256", pa.string()),
        ("fields", pa.string()),
    ]
)
REJECTS = pa.schema([(name, pa.string()) for name in ("file", "position", "reason", "excerpt")])
FAILURES = pa.schema([(name, pa.string()) for name in ("paper_id", "reason")])


def vectors_schema(dimensions: int) -> pa.Schema:
    """One row a vector; a paper's rows stand together, the whole paper's first."""
    return pa.schema(
        [
            ("paper_id", pa.string()),
            ("chunk_index", pa.int32()),
            ("start_char", pa.int32()),
            ("end_char", pa.int32()),
            ("tokens", pa.int32()),
            ("cut_tokens", pa.int32()),
            ("vector", pa.list_(pa.float32(), dimensions)),
            ("text_sha256", pa.string()),
        ]
    )


class TextPool(Protocol):
    """What `embed_shard` needs of a pool."""

    def encode(
        self,
        texts: Sequence[str],
        on_batch: Callable[[BatchReport], None],
        urgent: Sequence[bool] | None = None,
        on_incident: Callable[[Incident], None] = ...,
        on_tick: Callable[[], None] = ...,
    ) -> Iterable[Outcome]: ...


@dataclass(frozen=True)
class Embedded:
    """A shard's vectors (`vectors_schema`), how many of its papers had them already, and the papers that no device
    could embed (`FAILURES`)."""

    vectors: pa.Table
    resumed: int
    failures: pa.Table


def embed_shard(
    papers: pa.Table,
    dimensions: int,
    pool: Callable[[], TextPool],
    *,
    known: Sequence[pa.Table] = (),
    segments: Segments,
    urgent: Sequence[bool] | None = None,
    on_batch: Callable[[BatchReport], None] = lambda report: None,
    on_segment: Callable[[int], None] = lambda papers: None,
    on_texts: Callable[[Sequence[str]], None] = lambda texts: None,
    on_incident: Callable[[Incident], None] = lambda incident: None,
) -> Embedded:
    """Embeds the papers (table `PAPERS`) whose text has no vectors among those `known`, which may be of others too.

    Finished papers become a segment when the oldest of them is `SEGMENT_SECONDS` old or they are `SEGMENT_PAPERS`, and
    when the work is interrupted or fails. `pool` is asked for only where there is something to embed, of which
    `on_texts` is told before; it takes those papers first that `urgent` marks (one bool a paper). Raises
    `ArxivEmbedError` where no paper at all could be embedded, or one is left out without a reason.
    """
    kept = _kept(papers, known, dimensions)
    missing = np.flatnonzero(pc.invert(pc.is_in(papers["paper_id"], pc.unique(kept["paper_id"]))).to_numpy())
    pieces = [kept]
    failed: list[tuple[str, str]] = []
    if len(missing):
        waiting = papers.take(missing).select(["paper_id", "title", "abstract", "text_sha256"])
        texts = texts_of(waiting)
        on_texts(texts)
        first = None if urgent is None else [urgent[row] for row in missing.tolist()]
        finished: list[EncodedPaper] = []
        oldest = 0.0

        def save() -> None:
            if finished:
                piece = _vectors_table(finished, waiting, dimensions)
                pieces.append(piece)
                segments.append(piece)
                on_segment(len(finished))
                finished.clear()

        def save_in_time() -> None:
            if len(finished) >= SEGMENT_PAPERS or time.monotonic() - oldest >= SEGMENT_SECONDS:
                save()

        try:
            for outcome in pool().encode(texts, on_batch, first, on_incident, on_tick=save_in_time):
                if isinstance(outcome, FailedPaper):
                    failed.append((waiting["paper_id"][outcome.index].as_py(), outcome.reason))
                    continue
                if not finished:
                    oldest = time.monotonic()
                finished.append(outcome)
                save_in_time()
        except BaseException:
            save()
            raise
        if finished:
            pieces.append(_vectors_table(finished, waiting, dimensions))
    vectors = _in_order_of(papers, pa.concat_tables(pieces))
    failures = pa.Table.from_pylist(
        [{"paper_id": paper, "reason": reason} for paper, reason in sorted(failed)], schema=FAILURES
    )
    whole = vectors.filter(pc.equal(vectors["chunk_index"], PAPER_CHUNK))
    embedded = papers["paper_id"].filter(pc.invert(pc.is_in(papers["paper_id"], failures["paper_id"])))
    if not whole["paper_id"].equals(embedded):
        raise ArxivEmbedError(
            f"The devices gave back {whole.num_rows} of {len(embedded)} papers: run again, and report this."
        )
    if failed and not len(embedded):
        raise ArxivEmbedError(f"None of {len(failed)} papers could be embedded: of the first, {failed[0][1]}.")
    return Embedded(vectors, papers.num_rows - len(missing), failures)


def papers_table(papers: Sequence[Paper]) -> pa.Table:
    """Papers as a table of the schema `PAPERS`."""
    columns = {
        name: [getattr(paper, "id" if name == "paper_id" else name) for paper in papers] for name in PAPERS.names
    }
    return pa.table(columns, schema=PAPERS)


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """Rejects as a table of the schema `REJECTS`."""
    return pa.table({name: [getattr(reject, name) for reject in rejects] for name in REJECTS.names}, schema=REJECTS)


def texts_of(papers: pa.Table) -> list[str]:
    """What is embedded of each (`Paper.text`)."""
    paired = zip(papers["title"].to_pylist(), papers["abstract"].to_pylist(), strict=True)
    return [f"{title}\n\n{abstract}" for title, abstract in paired]


def _kept(papers: pa.Table, known: Sequence[pa.Table], dimensions: int) -> pa.Table:
    """Of `known` vectors those of these papers with these very texts, each paper once."""
    schema = vectors_schema(dimensions)
    kept = schema.empty_table()
    for table in known:
        place = pc.index_in(table["paper_id"], papers["paper_id"])
        same_text = pc.equal(papers["text_sha256"].take(place), table["text_sha256"])
        new = pc.invert(pc.is_in(table["paper_id"], pc.unique(kept["paper_id"])))
        kept = pa.concat_tables([kept, table.cast(schema).filter(pc.and_(pc.fill_null(same_text, False), new))])
    return kept


def _in_order_of(papers: pa.Table, vectors: pa.Table) -> pa.Table:
    """The vectors' rows, papers in the order of `papers`."""
    place = pc.index_in(vectors["paper_id"], papers["paper_id"]).to_numpy()
    if np.all(place[1:] >= place[:-1]):
        return vectors.combine_chunks()
    return vectors.combine_chunks().take(np.argsort(place, kind="stable"))


def _vectors_table(encoded: Sequence[EncodedPaper], papers: pa.Table, dimensions: int) -> pa.Table:
    """Encoded papers as a table; each one's `index` is its row in `papers`."""
    counts = np.array([len(paper.vectors) for paper in encoded])
    rows = np.repeat([paper.index for paper in encoded], counts)
    firsts = np.cumsum(counts) - counts
    chunk_index = np.arange(len(rows)) - np.repeat(firsts, counts) + PAPER_CHUNK
    whole = chunk_index == PAPER_CHUNK
    lengths = pc.add(pc.utf8_length(papers["title"]), pc.utf8_length(papers["abstract"])).to_numpy() + 2
    starts, ends, tokens, cut = (np.zeros(len(rows), np.int32) for _ in range(4))
    starts[~whole] = np.concatenate([paper.spans[:, 0] for paper in encoded])
    ends[~whole] = np.concatenate([paper.spans[:, 1] for paper in encoded])
    ends[whole] = lengths[[paper.index for paper in encoded]]
    tokens[~whole] = np.concatenate([paper.chunk_tokens for paper in encoded])
    tokens[whole] = [paper.tokens for paper in encoded]
    cut[whole] = [paper.cut_tokens for paper in encoded]
    vectors = np.concatenate([paper.vectors for paper in encoded])
    return pa.table(
        {
            "paper_id": papers["paper_id"].take(rows),
            "chunk_index": chunk_index.astype(np.int32),
            "start_char": starts,
            "end_char": ends,
            "tokens": tokens,
            "cut_tokens": cut,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimensions),
            "text_sha256": papers["text_sha256"].take(rows),
        },
        schema=vectors_schema(dimensions),
    )
