"""A run: the three steps of a shard (read, embed, store), without Dagster; `embed_shard` is the middle of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.manifest import Manifest, Source
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.checkpoint.store import Checkpoint, CheckpointStore
from arxiv_embed.encoding.space import Space
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.pool import BatchReport, EncodedPaper, Pool, WorkerLost
from arxiv_embed.metadata.paper import Paper, Reject
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Shard
from arxiv_embed.plan import RunPlan, covers, embeddings_key, papers_key, plan_run, stored_identity
from arxiv_embed.progress import (
    BatchDone,
    PapersRead,
    PoolReady,
    ProgressWriter,
    RunFinished,
    RunStarted,
    SegmentSaved,
    ShardEmbedded,
    ShardFailed,
    ShardStarted,
    ShardStored,
    progress_path,
)
from arxiv_embed.settings import ArxivEmbedError, RunOptions, Settings
from arxiv_embed.stores.protocol import PAPER_CHUNK, VectorStore, open_store
from arxiv_embed.stores.rows import stored_rows

SEGMENT_SECONDS = 20.0
"""Work is made durable at least this often."""

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
    ]
)
REJECTS = pa.schema([(name, pa.string()) for name in ("file", "position", "reason", "excerpt")])


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

    def encode(self, texts: Sequence[str], on_batch: Callable[[BatchReport], None]) -> Iterable[EncodedPaper]: ...


@dataclass(frozen=True)
class Embedded:
    """A shard's vectors (`vectors_schema`) and how many of its papers had them already."""

    vectors: pa.Table
    resumed: int


def embed_shard(
    papers: pa.Table,
    dimensions: int,
    pool: Callable[[], TextPool],
    *,
    known: Sequence[pa.Table] = (),
    segments: Segments,
    on_batch: Callable[[BatchReport], None] = lambda report: None,
    on_segment: Callable[[int], None] = lambda papers: None,
) -> Embedded:
    """Embeds the papers (table `PAPERS`) whose text has no vectors yet, among `known` or the segments.

    Finished papers become a segment every `SEGMENT_SECONDS`, and when the work is interrupted or fails. `pool` is
    asked for only where there is something to embed.
    """
    kept = _kept(papers, [*known, *segments.tables()], dimensions)
    missing = np.flatnonzero(pc.invert(pc.is_in(papers["paper_id"], pc.unique(kept["paper_id"]))).to_numpy())
    pieces = [kept]
    if len(missing):
        waiting = papers.take(missing).select(["paper_id", "title", "abstract", "text_sha256"])
        texts = _texts(waiting)
        finished: list[EncodedPaper] = []

        def save() -> None:
            if finished:
                piece = _vectors_table(finished, waiting, dimensions)
                pieces.append(piece)
                segments.append(piece)
                on_segment(len(finished))
                finished.clear()

        saved = time.monotonic()
        try:
            for paper in pool().encode(texts, on_batch):
                finished.append(paper)
                if time.monotonic() - saved > SEGMENT_SECONDS:
                    save()
                    saved = time.monotonic()
        except BaseException:
            save()
            raise
        if finished:
            pieces.append(_vectors_table(finished, waiting, dimensions))
    return Embedded(_in_order_of(papers, pa.concat_tables(pieces)), papers.num_rows - len(missing))


class Run:
    """A context manager: one run's open things. The pool starts with the first shard that needs it.

    A step looks at what the checkpoint store holds before it does anything, so a retried step repeats nothing.
    """

    def __init__(self, options: RunOptions, settings: Settings, run_id: str) -> None:
        self.options = options
        self.run_id = run_id
        self.plan: RunPlan = plan_run(options, settings)
        self._settings = settings
        self._devices = parse_devices(options.devices)
        self._checkpoints = CheckpointStore(options.checkpoints)
        self._progress = ProgressWriter(progress_path(settings, run_id))
        self._reader = ShardReader()
        self._pool: Pool | None = None
        self._store: VectorStore | None = None
        self._open = ExitStack()
        self._papers: tuple[str, Checkpoint] | None = None
        self._begun = time.monotonic()
        self.failed: dict[str, str] = {}

    @property
    def space(self) -> Space:
        return self.plan.space

    def __enter__(self) -> Self:
        self._open.enter_context(self._progress)
        self._open.enter_context(self._reader)
        return self

    def start(self, shards: Sequence[str]) -> None:
        """Records what this run is about to do, and has the pool loading meanwhile."""
        plans = [self.plan.of(key) for key in shards]
        embeds = [plan for plan in plans if plan.embed]
        self._progress.write(
            RunStarted(
                run_id=self.run_id,
                metadata_dir=str(self.options.metadata_dir),
                shards=list(shards),
                papers=sum(plan.shard.records for plan in embeds),
                unchanged=len(self.plan.shards) - len(self.plan.pending),
                model=self.plan.files.name,
                space=self.space.fingerprint,
                devices=[device.name for device in self._devices],
                store=self.options.store,
            )
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._store is not None and kind is None:
                self._store.finish(self.space)
        finally:
            if kind is None:
                state = "failed" if self.failed else "done"
            else:
                state = "interrupted" if not issubclass(kind, Exception) else "failed"
            seconds = time.monotonic() - self._begun
            self._progress.write(RunFinished(state, _sentence(error) if state == "failed" and error else "", seconds))
            self._open.close()

    def read(self, key: str) -> PapersRead:
        """Metadata → the checkpoint `papers`."""
        plan = self.plan.of(key)
        shard = plan.shard
        begun = time.monotonic()
        self._progress.write(ShardStarted(key, shard.records if plan.embed else 0))
        held = self._checkpoints.manifest(papers_key(key))
        if held is not None and held.run_id != self.run_id and self.options.fresh:
            held = None
        if held is None or not covers(held, shard):
            held = self._read_source(shard)
        counts = held.counts
        report = PapersRead(
            shard=key,
            papers=counts["papers"],
            rejects=counts["rejects"],
            duplicates=counts["duplicates"],
            withdrawn=counts["withdrawn"],
            seconds=time.monotonic() - begun,
        )
        self._progress.write(report)
        return report

    def _read_source(self, shard: Shard) -> Manifest:
        content = self._reader.load(shard)
        contents = {"papers": papers_table(content.papers), "rejects": rejects_table(content.rejects)}
        manifest = self._checkpoints.commit(
            papers_key(shard.key),
            contents,
            source=Source(shard.signature, content.sha256),
            counts={
                "papers": len(content.papers),
                "rejects": len(content.rejects),
                "duplicates": content.duplicates,
                "withdrawn": sum(paper.withdrawn for paper in content.papers),
            },
            run_id=self.run_id,
            details={"folder": str(shard.folder), "file": shard.files[0], "limit": shard.limit},
        )
        self._papers = (shard.key, Checkpoint(manifest, contents))
        return manifest

    def embed(self, key: str) -> ShardEmbedded:
        """The checkpoint `papers` → the checkpoint `embeddings`."""
        papers = self._load_papers(key)
        target = embeddings_key(key, self.space)
        with self._checkpoints.hold(target):
            held = self._checkpoints.manifest(target)
            fresh = self.options.fresh and (held is None or held.run_id != self.run_id)
            if held is None or fresh or held.source.sha256 != papers.manifest.source.sha256:
                held = self._embed_papers(key, papers, fresh=fresh)
        report = ShardEmbedded(shard=key, **held.counts, seconds=held.details["seconds"])
        self._progress.write(report)
        return report

    def _embed_papers(self, key: str, papers: Checkpoint, *, fresh: bool) -> Manifest:
        target = embeddings_key(key, self.space)
        segments = self._checkpoints.segments(target)
        if fresh:
            segments.clear()
        before = None if fresh else self._checkpoints.load(target)
        begun = time.monotonic()
        embedded_tokens = computed = 0

        def on_batch(report: BatchReport) -> None:
            nonlocal embedded_tokens, computed
            embedded_tokens += report.tokens
            computed += report.padded_tokens
            self._progress.write(BatchDone(key, **vars(report)))

        def pool() -> Pool:
            nonlocal begun
            ready = self._ready_pool()
            begun = time.monotonic()
            return ready

        try:
            embedded = embed_shard(
                papers.tables["papers"],
                self.space.dimensions,
                pool,
                known=[before.tables["vectors"]] if before else [],
                segments=segments,
                on_batch=on_batch,
                on_segment=lambda count: self._progress.write(SegmentSaved(key, count)),
            )
        except WorkerLost:
            self._pool = None  # its other workers are of no use alone; the next shard starts anew
            raise
        seconds = time.monotonic() - begun
        whole = embedded.vectors.filter(pc.equal(embedded.vectors["chunk_index"], PAPER_CHUNK))
        cut = whole["cut_tokens"].to_numpy()
        manifest = self._checkpoints.commit(
            target,
            {"vectors": embedded.vectors},
            source=papers.manifest.source,
            counts={
                "papers": whole.num_rows,
                "resumed": embedded.resumed,
                "chunks": embedded.vectors.num_rows - whole.num_rows,
                "tokens": int(whole["tokens"].to_numpy().sum()),
                "embedded_tokens": embedded_tokens,
                "padded_tokens": computed,
                "cut_papers": int(np.count_nonzero(cut)),
                "cut_tokens": int(cut.sum()),
            },
            run_id=self.run_id,
            details={
                "space": vars(self.space),
                "dtype": self._pool.dtype if self._pool else (before.manifest.details["dtype"] if before else ""),
                "devices": [device.name for device in self._devices],
                "seconds": round(seconds, 3),
            },
        )
        segments.clear()
        return manifest

    def store(self, key: str) -> ShardStored:
        """Both checkpoints → rows of the vector store."""
        begun = time.monotonic()
        papers = self._load_papers(key)
        embeddings = self._checkpoints.load(embeddings_key(key, self.space))
        if embeddings is None or embeddings.manifest.source.sha256 != papers.manifest.source.sha256:
            raise ArxivEmbedError(f"Shard '{key}' has no embeddings of its papers yet: materialize them first.")
        store = self._opened_store()
        identity = stored_identity(papers.manifest, embeddings.manifest)
        rows, skipped = embeddings.manifest.files["vectors"].rows, 0
        if store.shards(self.space.fingerprint).get(key) != identity:
            table = stored_rows(
                papers.tables["papers"],
                embeddings.tables["vectors"],
                space=self.space.fingerprint,
                shard=key,
                run_id=self.run_id,
            )
            written = store.write_shard(self.space, key, table, identity)
            rows, skipped = written.rows, written.skipped_papers
        report = ShardStored(key, rows, skipped, time.monotonic() - begun)
        self._progress.write(report)
        return report

    def fail(self, key: str, error: BaseException) -> str:
        """Records that a shard failed, and returns the sentence that says why."""
        self.failed[key] = _sentence(error)
        self._progress.write(ShardFailed(key, self.failed[key]))
        return self.failed[key]

    def rejects(self, key: str) -> pa.Table:
        """The shard's rejects, of the schema `REJECTS`."""
        return self._load_papers(key).tables["rejects"]

    def _load_papers(self, key: str) -> Checkpoint:
        if self._papers is None or self._papers[0] != key:
            loaded = self._checkpoints.load(papers_key(key))
            if loaded is None:
                raise ArxivEmbedError(f"Shard '{key}' has no papers yet: materialize them first.")
            self._papers = (key, loaded)
        return self._papers[1]

    def _ready_pool(self) -> Pool:
        if self._pool is None:
            begun = time.monotonic()
            pool = Pool(
                self.plan.files,
                self.space,
                self._devices,
                dtype=self.options.dtype,
                batch_size=self.options.batch_size,
                production=self.options.production,
            )
            self._pool = self._open.enter_context(pool)
            self._progress.write(PoolReady(self._pool.dtype, time.monotonic() - begun))
        return self._pool

    def _opened_store(self) -> VectorStore:
        if self._store is None:
            self._store = self._open.enter_context(open_store(self.options.store, create=True))
        return self._store


def papers_table(papers: Sequence[Paper]) -> pa.Table:
    """Papers as a table of the schema `PAPERS`."""
    columns = {
        name: [getattr(paper, "id" if name == "paper_id" else name) for paper in papers] for name in PAPERS.names
    }
    return pa.table(columns, schema=PAPERS)


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """Rejects as a table of the schema `REJECTS`."""
    return pa.table({name: [getattr(reject, name) for reject in rejects] for name in REJECTS.names}, schema=REJECTS)


def _texts(papers: pa.Table) -> list[str]:
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


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, ArxivEmbedError) else f"{type(error).__name__}: {error}"
