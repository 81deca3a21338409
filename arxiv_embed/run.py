"""A run: its open things, and the three steps of a shard (read, embed, store); without Dagster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.atomic import disk_faults_as_sentences
from arxiv_embed.checkpoint.manifest import Manifest, Source
from arxiv_embed.checkpoint.store import Checkpoint, CheckpointStore
from arxiv_embed.embed import embed_shard, papers_table, rejects_table
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError, FatalError
from arxiv_embed.gpu.inventory import describe, inventory
from arxiv_embed.gpu.lease import DeviceLeases
from arxiv_embed.gpu.outcomes import BatchReport, Incident
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Shard
from arxiv_embed.plan import RunPlan, covers, embeddings_key, papers_key, plan_run, stored_identity
from arxiv_embed.priority import parse_priority
from arxiv_embed.progress import (
    BatchDone,
    DeviceIncident,
    DevicesFound,
    Event,
    PaperFailed,
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
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.protocol import PAPER_CHUNK, VectorStore, open_store
from arxiv_embed.stores.rows import stored_rows


class Run:
    """A context manager: one run's open things. The pool starts with the first shard that needs it, on devices that are
    this run's alone from then to its end; `tell` is then given a line about each.

    A step looks at what the checkpoint store holds before it does anything, so a retried step repeats nothing.
    """

    def __init__(
        self,
        options: RunOptions,
        settings: Settings,
        run_id: str,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.options = options
        self.run_id = run_id
        self.plan: RunPlan = plan_run(options, settings)
        self._settings = settings
        self._tell = tell
        self._checkpoints = CheckpointStore(options.checkpoints)
        self._progress = ProgressWriter(progress_path(settings, run_id))
        self._reader = ShardReader()
        self._leases: DeviceLeases | None = None
        self._pool: Pool | None = None
        self._store: VectorStore | None = None
        self._open = ExitStack()
        self._papers: tuple[str, Checkpoint] | None = None
        self._priority = parse_priority(options.priority)
        self._urgent_papers: dict[str, int] = {}
        self._uncovered: set[str] = set()
        self._begun = time.monotonic()
        self.failed: dict[str, str] = {}

    @property
    def space(self) -> Space:
        return self.plan.space

    def __enter__(self) -> Self:
        with disk_faults_as_sentences(self._settings.home):
            self._open.enter_context(self._progress)
        self._open.enter_context(self._reader)
        return self

    def start(self, shards: Sequence[str]) -> None:
        """Records what this run is about to do."""
        plans = [self.plan.of(key) for key in shards]
        embeds = [plan for plan in plans if plan.embed]
        self._record(
            RunStarted(
                run_id=self.run_id,
                metadata_dir=str(self.options.metadata_dir),
                shards=list(shards),
                papers=sum(plan.shard.records for plan in embeds),
                unchanged=len(self.plan.shards) - len(self.plan.pending),
                model=self.plan.files.name,
                space=self.space.fingerprint,
                devices=[device.name for device in self.plan.devices],
                store=self.options.store,
            )
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._store is not None and (error is None or isinstance(error, Exception)):
                self._finish_store(self._store)
        except BaseException as fault:
            # What went wrong first is what is told; after a full disk, say, the store meets it again.
            if error is None:
                error = fault
                raise
        finally:
            self._close(error)

    def _finish_store(self, store: VectorStore) -> None:
        """Writes the shards again that lost a paper to one that has dropped it since, and brings indexes up to date."""
        for key in sorted(self._uncovered):
            try:
                self._store_shard(store, key)
            except FatalError:
                raise
            except ArxivEmbedError as error:
                self.fail(key, error)
        store.finish(self.space)

    def _close(self, error: BaseException | None) -> None:
        state = "failed" if error is not None or self.failed else "done"
        if error is not None and not isinstance(error, Exception):
            state = "interrupted"
        sentence = _sentence(error) if state == "failed" and error is not None else ""
        try:
            self._record(RunFinished(state, sentence, time.monotonic() - self._begun))
        finally:
            self._close_pool()
            self._open.close()

    def _record(self, event: Event) -> None:
        with disk_faults_as_sentences(self._settings.home):
            self._progress.write(event)

    def read(self, key: str) -> PapersRead:
        """Metadata → the checkpoint `papers`."""
        plan = self.plan.of(key)
        shard = plan.shard
        begun = time.monotonic()
        self._record(ShardStarted(key, shard.records if plan.embed else 0))
        with self._checkpoints.hold(papers_key(key)):
            held = self._checkpoints.load(papers_key(key))
            if held is None or self._is_to_be_redone(held) or not covers(held.manifest, shard):
                held = self._read_source(shard)
        self._papers = (key, held)
        counts = held.manifest.counts
        report = PapersRead(
            shard=key,
            papers=counts["papers"],
            rejects=counts["rejects"],
            duplicates=counts["duplicates"],
            withdrawn=counts["withdrawn"],
            seconds=time.monotonic() - begun,
            urgent=self._count_urgent(key),
        )
        self._record(report)
        return report

    def urgent_first(self, shards: Sequence[str]) -> list[str]:
        """The shards that hold papers which `--priority` marks, then the others, each in the order given."""
        return sorted(shards, key=lambda key: not self._holds_urgent(key))

    def _holds_urgent(self, key: str) -> bool:
        try:
            return self._count_urgent(key) > 0
        except ArxivEmbedError:
            return False  # the step that needs its papers meets the same, and says so

    def _count_urgent(self, key: str) -> int:
        if key not in self._urgent_papers and self.options.priority:
            self._urgent_papers[key] = sum(self._urgent(self._load_papers(key)))
        return self._urgent_papers.get(key, 0)

    def _urgent(self, papers: Checkpoint) -> list[bool]:
        marked: list[bool] = self._priority.urgent(papers.tables["papers"]).tolist()
        return marked

    def _is_to_be_redone(self, held: Checkpoint) -> bool:
        """Whether a fresh start counts a checkpoint for nothing: it does, unless this run has made it."""
        return self.options.fresh and held.manifest.run_id != self.run_id

    def _read_source(self, shard: Shard) -> Checkpoint:
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
        return Checkpoint(manifest, contents)

    def embed(self, key: str) -> ShardEmbedded:
        """The checkpoint `papers` → the checkpoint `embeddings`."""
        papers = self._load_papers(key)
        target = embeddings_key(key, self.space)
        with self._checkpoints.hold(target):
            held = self._checkpoints.load(target)
            if held is None or self._is_to_be_redone(held):
                manifest = self._embed_papers(key, papers, None)
            elif held.manifest.source.sha256 != papers.manifest.source.sha256:
                manifest = self._embed_papers(key, papers, held)
            else:
                manifest = held.manifest
        counts, seconds = manifest.counts, manifest.details["seconds"]
        if manifest.run_id != self.run_id:  # its time and work were another run's
            counts = {**counts, "resumed": counts["papers"], "embedded_tokens": 0, "padded_tokens": 0}
            seconds = 0.0
        report = ShardEmbedded(shard=key, **counts, seconds=seconds)
        self._record(report)
        return report

    def _embed_papers(self, key: str, papers: Checkpoint, before: Checkpoint | None) -> Manifest:
        """Commits the papers' vectors; of the texts that `before` holds it takes those."""
        target = embeddings_key(key, self.space)
        segments = self._checkpoints.segments(target)
        if self.options.fresh and before is None:
            segments.clear()
        begun = time.monotonic()
        embedded_tokens = computed = 0
        memory: dict[str, int] = {}

        def on_batch(report: BatchReport) -> None:
            nonlocal embedded_tokens, computed
            memory[report.device] = max(memory.get(report.device, 0), report.peak_memory)
            embedded_tokens += report.tokens
            computed += report.padded_tokens
            self._record(BatchDone(key, **vars(report)))

        def on_incident(incident: Incident) -> None:
            self._record(DeviceIncident(key, **vars(incident)))
            self._tell(f"{incident.device} {incident.what}: {incident.detail}")

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
                urgent=self._urgent(papers) if self.options.priority else None,
                on_batch=on_batch,
                on_segment=lambda count: self._record(SegmentSaved(key, count)),
                on_incident=on_incident,
            )
        except BaseException:
            self._close_pool()  # what its workers still answer is of this shard; the next one starts anew
            raise
        seconds = time.monotonic() - begun
        for failure in embedded.failures.to_pylist():
            self._record(PaperFailed(key, **failure))
        whole = embedded.vectors.filter(pc.equal(embedded.vectors["chunk_index"], PAPER_CHUNK))
        cut = whole["cut_tokens"].to_numpy()
        manifest = self._checkpoints.commit(
            target,
            {"vectors": embedded.vectors, "failures": embedded.failures},
            source=papers.manifest.source,
            counts={
                "papers": whole.num_rows,
                "resumed": embedded.resumed,
                "chunks": embedded.vectors.num_rows - whole.num_rows,
                "tokens": int(whole["tokens"].to_numpy().sum()),
                "embedded_tokens": embedded_tokens,
                "padded_tokens": computed,
                "long_papers": int(np.count_nonzero(whole["tokens"].to_numpy() > self.space.paper_tokens)),
                "cut_papers": int(np.count_nonzero(cut)),
                "cut_tokens": int(cut.sum()),
                "failed": embedded.failures.num_rows,
            },
            run_id=self.run_id,
            details={
                "space": vars(self.space),
                "dtype": self._pool.dtype if self._pool else (before.manifest.details["dtype"] if before else ""),
                "devices": [device.name for device in self.plan.devices],
                "seconds": round(seconds, 3),
                "memory": memory,
            },
        )
        segments.clear()
        return manifest

    def store(self, key: str) -> ShardStored:
        """Both checkpoints → rows of the vector store."""
        begun = time.monotonic()
        rows, skipped = self._store_shard(self._opened_store(), key)
        report = ShardStored(key, rows, skipped, time.monotonic() - begun)
        self._record(report)
        return report

    def _store_shard(self, store: VectorStore, key: str) -> tuple[int, int]:
        """The shard's rows in the store, and how many of its papers are there in a newer record."""
        papers = self._load_papers(key)
        embeddings = self._checkpoints.load(embeddings_key(key, self.space))
        if embeddings is None or embeddings.manifest.source.sha256 != papers.manifest.source.sha256:
            raise ArxivEmbedError(f"Shard '{key}' has no embeddings of its papers yet: materialize them first.")
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
            written = store.write_shard(self.space, key, table, identity, listed=self.plan.listed)
            rows, skipped = written.rows, written.skipped_papers
            self._uncovered.update(written.uncovered)
        self._uncovered.discard(key)
        return rows, skipped

    def fail(self, key: str, error: BaseException) -> str:
        """Records that a shard failed, and returns the sentence that says why."""
        self.failed[key] = _sentence(error)
        self._record(ShardFailed(key, self.failed[key]))
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
            self._lease_devices()
            begun = time.monotonic()
            pool = Pool(
                self.plan.files,
                self.space,
                self.plan.devices,
                dtype=self.options.dtype,
                batch_size=self.options.batch_size,
                production=self.options.production,
                learned=self._settings.learned,
            )
            self._pool = pool.__enter__()
            self._record(PoolReady(self._pool.dtype, time.monotonic() - begun))
        return self._pool

    def _lease_devices(self) -> None:
        """Takes the devices until the run ends, also while the pool is started anew."""
        if self._leases is None:
            self._leases = self._open.enter_context(DeviceLeases(self.plan.devices, self._settings.leases))
            found = inventory(self.plan.devices)
            self._record(DevicesFound([asdict(facts) for facts in found]))
            for facts in found:
                self._tell(describe(facts))

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None

    def _opened_store(self) -> VectorStore:
        if self._store is None:
            self._store = self._open.enter_context(open_store(self.options.store, create=True))
        return self._store


def _sentence(error: BaseException) -> str:
    return str(error) if isinstance(error, ArxivEmbedError) else f"{type(error).__name__}: {error}"
