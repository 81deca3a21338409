"""The middle of it all: `embed_shard`, which turns a shard's papers into vectors, and the tables that it works on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, FailedPaper, Incident, Outcome
from arxiv_embed.metadata.paper import Paper, Reject
from arxiv_embed.reuse import Origin, Source
from arxiv_embed.vectors import of_encoded, of_papers, of_texts, texts_in, vectors_schema

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
    """A shard's vectors (`vectors_schema`), how many of its papers took theirs from where, how many share the text of
    another paper that was embedded just now, and the papers that no device could embed (`FAILURES`)."""

    vectors: pa.Table
    reused: Mapping[Origin, int]
    same_text: int
    failures: pa.Table

    def reused_from(self, place: str) -> int:
        """Papers."""
        return sum(papers for origin, papers in self.reused.items() if origin.place == place)

    @property
    def resumed(self) -> int:
        """All papers that took no time of a device."""
        return sum(self.reused.values()) + self.same_text


def embed_shard(
    papers: pa.Table,
    dimensions: int,
    pool: Callable[[], TextPool],
    *,
    sources: Sequence[Source] = (),
    segments: Segments,
    urgent: Sequence[bool] | None = None,
    on_batch: Callable[[BatchReport], None] = lambda report: None,
    on_segment: Callable[[int], None] = lambda papers: None,
    on_texts: Callable[[Sequence[str]], None] = lambda texts: None,
    on_incident: Callable[[Incident], None] = lambda incident: None,
) -> Embedded:
    """Embeds the texts of the papers (table `PAPERS`) that none of the `sources` has, each text once.

    A source is asked for what those before it have not. Finished texts become a segment when the oldest of them is
    `SEGMENT_SECONDS` old or they are `SEGMENT_PAPERS`, and when the work is interrupted or fails. `pool` is asked for
    only where there is something to embed, of which `on_texts` is told before; it takes those papers first that
    `urgent` marks (one bool a paper). Raises `ArxivEmbedError` where no paper at all could be embedded, or one is left
    out without a reason.
    """
    pieces, reused, missing = _reused(papers, sources, dimensions)
    embedded: list[pa.Table] = []
    failed: dict[str, str] = {}
    if len(missing):
        firsts = pc.index_in(missing, papers["text_sha256"])
        waiting = papers.take(firsts).select(["paper_id", "title", "abstract", "text_sha256"])
        texts = texts_of(waiting)
        on_texts(texts)
        finished: list[EncodedPaper] = []
        oldest = 0.0

        def save() -> None:
            if finished:
                embedded.append(of_encoded(finished, waiting, dimensions))
                segments.append(embedded[-1])
                on_segment(len(finished))
                finished.clear()

        def save_in_time() -> None:
            if len(finished) >= SEGMENT_PAPERS or time.monotonic() - oldest >= SEGMENT_SECONDS:
                save()

        first = None if urgent is None else _urgent_texts(missing, papers, urgent)
        try:
            for outcome in pool().encode(texts, on_batch, first, on_incident, on_tick=save_in_time):
                if isinstance(outcome, FailedPaper):
                    failed[missing[outcome.index].as_py()] = outcome.reason
                    continue
                if not finished:
                    oldest = time.monotonic()
                finished.append(outcome)
                save_in_time()
        except BaseException:
            save()
            raise
        if finished:
            embedded.append(of_encoded(finished, waiting, dimensions))
    done = pa.chunked_array([chunk for piece in embedded for chunk in texts_in(piece).chunks], pa.string())
    if not len(done) == pc.count_distinct(done).as_py() == len(missing) - len(failed):
        raise ArxivEmbedError(
            f"The devices gave back {len(done)} of {len(missing) - len(failed)} papers: run again, and report this."
        )
    if failed and len(failed) == len(pc.unique(papers["text_sha256"])):
        reason = next(iter(failed.values()))
        raise ArxivEmbedError(f"None of {papers.num_rows} papers could be embedded: of the first, {reason}.")
    vectors = of_papers(pa.concat_tables([*pieces, *embedded]), papers)
    same_text = pc.sum(pc.is_in(papers["text_sha256"], done)).as_py() or 0
    return Embedded(vectors, reused, same_text - len(done), _failures(papers, failed))


def _reused(
    papers: pa.Table, sources: Sequence[Source], dimensions: int
) -> tuple[list[pa.Table], Mapping[Origin, int], pa.Array]:
    """The vectors of texts that some source has, how many papers take theirs from where, and the texts left."""
    schema = vectors_schema(dimensions)
    pieces = [schema.empty_table()]
    reused: Counter[Origin] = Counter()
    missing = pc.unique(papers["text_sha256"])
    for source in sources:
        if not len(missing):
            break
        for origin, vectors in source(missing):
            piece = of_texts(vectors.cast(schema), missing)
            found = texts_in(piece)
            if len(found):
                pieces.append(piece)
                reused[origin] += pc.sum(pc.is_in(papers["text_sha256"], found)).as_py()
                missing = missing.filter(pc.invert(pc.is_in(missing, found)))
    return pieces, reused, missing


def _urgent_texts(texts: pa.Array, papers: pa.Table, urgent: Sequence[bool]) -> list[bool]:
    """Which texts are those of papers that are marked."""
    marked = papers["text_sha256"].filter(pa.array(urgent, pa.bool_()))
    first: list[bool] = pc.is_in(texts, marked).to_pylist()
    return first


def _failures(papers: pa.Table, failed: Mapping[str, str]) -> pa.Table:
    """The papers of texts that failed (sha256 each → reason), as `FAILURES`."""
    theirs = papers.filter(pc.is_in(papers["text_sha256"], pa.array(list(failed), pa.string()))).sort_by("paper_id")
    reasons = [failed[text] for text in theirs["text_sha256"].to_pylist()]
    return pa.table({"paper_id": theirs["paper_id"], "reason": reasons}, schema=FAILURES)


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
