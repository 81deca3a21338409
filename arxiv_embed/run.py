"""A run: its open things, and the three steps of a shard (read, embed, store); without Dagster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest, Source
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.checkpoint.store import Checkpoint, CheckpointStore
from arxiv_embed.checks import CheckResult, check_embeddings, check_papers, check_store
from arxiv_embed.embed import TextPool, embed_shard, papers_table, rejects_table
from arxiv_embed.encoding.space import Space
from arxiv_embed.equipment import Equipment
from arxiv_embed.errors import ArxivEmbedError, FatalError, masked
from arxiv_embed.events import (
    BatchDone,
    DeviceIncident,
    PaperFailed,
    PapersRead,
    RunStarted,
    SegmentSaved,
    ShardEmbedded,
    ShardStarted,
    ShardStored,
)
from arxiv_embed.fresh import end_fresh_start, keep_fresh_start
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident
from arxiv_embed.journal import Journal
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Shard
from arxiv_embed.plan import RunPlan, covers, embeddings_key, papers_key, plan_run, stored_identity
from arxiv_embed.priority import parse_priority
from arxiv_embed.processes import ProcessId
from arxiv_embed.runs import note_as_last
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.protocol import PAPER_CHUNK, VectorStore
from arxiv_embed.stores.rows import stored_rows

Report = PapersRead | ShardEmbedded | ShardStored
"""What a step says of its shard."""

READER_WAIT_SECONDS = 600.0
"""How long a run waits for another that reads the same shard."""


class Run:
    """A context manager: one run's open things. `tell` is given a line for whoever watches, `on_damage` what did not
    verify of a checkpoint; either may be called at any time.

    A step looks at what the checkpoint store holds before it does anything, so a step that is tried again repeats
    nothing.
    """

    def __init__(
        self,
        options: RunOptions,
        settings: Settings,
        run_id: str,
        tell: Callable[[str], object] = lambda line: None,
        on_damage: Callable[[Damage], object] = lambda damage: None,
    ) -> None:
        self.options = options
        self.run_id = run_id
        self.plan: RunPlan = plan_run(options, settings)
        self.journal = Journal(settings, run_id, tell, on_damage)
        self._fresh = None if self.plan.fresh is None else self.plan.fresh | {run_id}
        self._settings = settings
        self._checkpoints = CheckpointStore(options.checkpoints, self.journal.damaged)
        self._reader = ShardReader()
        self._equipment = Equipment(self.plan, options, settings, self.journal)
        self._open = contextlib.ExitStack()
        self._claimed: set[str] = set()
        self._papers: tuple[str, Checkpoint] | None = None
        self._embeddings: tuple[str, Checkpoint] | None = None
        self._priority = parse_priority(options.priority)
        self._urgent_papers: dict[str, int] = {}
        self._uncovered: set[str] = set()
        self.batches: list[tuple[float, BatchReport]] = []
        """Of the shard that was embedded last: each batch, and how many seconds after the first was asked for."""

    @property
    def space(self) -> Space:
        return self.plan.space

    def __enter__(self) -> Self:
        self._open.enter_context(self.journal)
        self._open.enter_context(self._reader)
        self._open.enter_context(self._equipment)
        return self

    def start(self, shards: Sequence[str]) -> None:
        """Records what this run is about to do."""
        note_as_last(self._settings, self.run_id)
        plans = [self.plan.of(key) for key in shards]
        embeds = [plan for plan in plans if plan.embed]
        self.journal.record(
            RunStarted(
                run_id=self.run_id,
                metadata_dir=str(self.options.metadata_dir),
                shards=list(shards),
                papers=sum(plan.shard.records for plan in embeds),
                unchanged=len(self.plan.shards) - len(self.plan.pending),
                model=self.plan.files.name,
                space=self.space.fingerprint,
                devices=[device.name for device in self.plan.devices],
                store=masked(self.options.store),
                process=vars(ProcessId.of_run()),
            )
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            store = self._equipment.opened_store
            if store is not None and (error is None or isinstance(error, Exception)):
                self._finish_store(store)
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
                self.journal.fail(key, error)
        store.finish(self.space)

    def _close(self, error: BaseException | None) -> None:
        try:
            self.journal.finish(error)
        finally:
            self._open.close()

    def keep_fresh_start(self) -> None:
        """For a run of all shards: if it is ended before they are done, the next one goes on with the fresh start."""
        if self._fresh is not None:
            keep_fresh_start(self.options.checkpoints, self.space.fingerprint, self._fresh)

    def end_fresh_start(self) -> None:
        """For a run of all shards that has done them."""
        if self._fresh is not None and self.journal.all_is_done:
            end_fresh_start(self.options.checkpoints, self.space.fingerprint)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Holds a shard of this space, from reading to storing; raises `Locked` where another process does."""
        if key in self._claimed:
            yield
            return
        with self._checkpoints.hold(embeddings_key(key, self.space)):
            self._claimed.add(key)
            self.journal.left.pop(key, None)
            try:
                yield
            finally:
                self._claimed.discard(key)

    def read(self, key: str) -> PapersRead:
        """Metadata → the checkpoint `papers`."""
        plan = self.plan.of(key)
        shard = plan.shard
        begun = time.monotonic()
        self.journal.record(ShardStarted(key, shard.records if plan.embed else 0))
        with self._checkpoints.hold(papers_key(key), READER_WAIT_SECONDS):
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
        self.journal.record(report)
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
        """Whether a fresh start counts a checkpoint for nothing: it does, unless one of its runs has made it."""
        return self._fresh is not None and held.manifest.run_id not in self._fresh

    def _read_source(self, shard: Shard) -> Checkpoint:
        content = self._reader.load(shard)
        contents = {"papers": papers_table(content.papers), "rejects": rejects_table(content.rejects)}
        manifest = self._checkpoints.commit(
            papers_key(shard.key),
            contents,
            source=Source(shard.signature, content.sha256),
            counts={
                "records": content.records,
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
        with self.claim(key):
            held = self._load_embeddings(key)
            self._embeddings = None
            self.batches = []
            if held is None or self._is_to_be_redone(held):
                manifest = self._embed_papers(key, papers, None)
            elif held.manifest.source.sha256 != papers.manifest.source.sha256 or self._has_failures_to_retry(held):
                manifest = self._embed_papers(key, papers, held)
            else:
                manifest = held.manifest
                self._embeddings = (key, held)
        counts, seconds = manifest.counts, manifest.details["seconds"]
        if manifest.run_id != self.run_id:  # its time and work were another run's
            counts = {**counts, "resumed": counts["papers"], "embedded_tokens": 0, "padded_tokens": 0}
            seconds = 0.0
        report = ShardEmbedded(shard=key, **counts, seconds=seconds)
        self.journal.record(report)
        return report

    def _has_failures_to_retry(self, held: Checkpoint) -> bool:
        failed = held.manifest.counts.get("failed", 0) > 0
        return self.options.retry_failed and failed and held.manifest.run_id != self.run_id

    def _embed_papers(self, key: str, papers: Checkpoint, before: Checkpoint | None) -> Manifest:
        """Commits the papers' vectors; of the texts that `before` holds it takes those."""
        target = embeddings_key(key, self.space)
        segments = self._checkpoints.segments(target, papers.manifest.source.sha256, self.run_id)
        if self._fresh is not None:
            segments.forget_other_runs(self._fresh)
        finished = self._finished_before(target, segments)
        begun = time.monotonic()

        def on_batch(report: BatchReport) -> None:
            self.batches.append((time.monotonic() - begun, report))
            self.journal.record(BatchDone(key, **vars(report)))

        def on_incident(incident: Incident) -> None:
            self.journal.record(DeviceIncident(key, **vars(incident)))
            self.journal.tell(f"{incident.device} {incident.what}: {incident.detail}")

        def pool() -> TextPool:
            nonlocal begun
            ready = self._equipment.pool()
            begun = time.monotonic()
            return ready

        try:
            embedded = embed_shard(
                papers.tables["papers"],
                self.space.dimensions,
                pool,
                known=[before.tables["vectors"], *finished] if before else finished,
                segments=segments,
                urgent=self._urgent(papers) if self.options.priority else None,
                on_batch=on_batch,
                on_segment=lambda count: self.journal.record(SegmentSaved(key, count)),
                on_incident=on_incident,
            )
        except BaseException:
            self._equipment.close_pool()  # what its workers still answer is of this shard; the next one starts anew
            raise
        seconds = time.monotonic() - begun
        for failure in embedded.failures.to_pylist():
            self.journal.record(PaperFailed(key, **failure))
        whole = embedded.vectors.filter(pc.equal(embedded.vectors["chunk_index"], PAPER_CHUNK))
        cut = whole["cut_tokens"].to_numpy()
        batches = [batch for _, batch in self.batches]
        peaks: dict[str, int] = {}
        for batch in batches:
            peaks[batch.device] = max(peaks.get(batch.device, 0), batch.peak_memory)
        manifest = self._checkpoints.commit(
            target,
            {"vectors": embedded.vectors, "failures": embedded.failures},
            source=papers.manifest.source,
            counts={
                "papers": whole.num_rows,
                "resumed": embedded.resumed,
                "chunks": embedded.vectors.num_rows - whole.num_rows,
                "tokens": int(whole["tokens"].to_numpy().sum()),
                "embedded_tokens": sum(batch.tokens for batch in batches),
                "padded_tokens": sum(batch.padded_tokens for batch in batches),
                "long_papers": int(np.count_nonzero(whole["tokens"].to_numpy() > self.space.paper_tokens)),
                "cut_papers": int(np.count_nonzero(cut)),
                "cut_tokens": int(cut.sum()),
                "failed": embedded.failures.num_rows,
            },
            run_id=self.run_id,
            details={
                "space": vars(self.space),
                "dtype": self._equipment.dtype or (before.manifest.details["dtype"] if before else ""),
                "devices": [device.name for device in self.plan.devices],
                "seconds": round(seconds, 3),
                "memory": peaks,
            },
        )
        segments.clear()
        return manifest

    def _finished_before(self, target: CheckpointKey, segments: Segments) -> list[pa.Table]:
        """What earlier attempts have finished of a shard; says what of it is gone on from, and why if not all is."""
        finished = segments.tables()
        if finished:
            others = segments.from_other_sources
            some = f", {others} of another content: papers whose text has changed start clean" if others else ""
            self.journal.tell(f"{target.shard}: goes on from {len(finished)} segments{some}")
        elif elsewhere := self._checkpoints.unfinished_elsewhere(target):
            self.journal.tell(
                f"{target.shard}: starts clean, as its segments are of another space ({', '.join(elsewhere)})"
            )
        return finished

    def store(self, key: str) -> ShardStored:
        """Both checkpoints → rows of the vector store."""
        begun = time.monotonic()
        rows, skipped = self._store_shard(self._equipment.store(), key)
        report = ShardStored(key, rows, skipped, time.monotonic() - begun)
        self.journal.record(report)
        return report

    def _store_shard(self, store: VectorStore, key: str) -> tuple[int, int]:
        """The shard's rows in the store, and how many of its papers are there in a newer record."""
        papers, embeddings = self._load_both(key)
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

    def check(self, asset: str, key: str, *, thorough: bool) -> list[CheckResult]:
        """What must hold of what was made of a shard for that asset; `thorough` starts the pool for it if need be."""
        if asset == "papers":
            return check_papers(self._load_papers(key))
        if asset == "embeddings":
            papers, embeddings = self._load_both(key)
            whole = (asset, key) not in self.journal.damages
            return check_embeddings(papers, embeddings, self.space, whole=whole)
        papers, embeddings = self._load_both(key)
        identity = stored_identity(papers.manifest, embeddings.manifest)
        encode = self._vectors_of if thorough or self._equipment.has_pool else None
        return check_store(self._equipment.store(), papers, embeddings, self.space, key, identity, encode)

    def _vectors_of(self, texts: Sequence[str]) -> dict[int, npt.NDArray[np.float32]]:
        """The vectors [dimensions] of those texts that can be embedded, by number."""
        outcomes = self._equipment.pool().encode(texts)
        return {outcome.index: outcome.vectors[0] for outcome in outcomes if isinstance(outcome, EncodedPaper)}

    def manifest(self, asset: str, key: str) -> Manifest | None:
        """What a shard's checkpoint says of itself; None for an asset that has none."""
        keys = {"papers": papers_key(key), "embeddings": embeddings_key(key, self.space)}
        return self._checkpoints.manifest(keys[asset]) if asset in keys else None

    def rejects(self, key: str) -> pa.Table:
        """The shard's rejects, of the schema `REJECTS`."""
        return self._load_papers(key).tables["rejects"]

    def vectors(self, key: str) -> pa.Table:
        """The shard's vectors (`vectors_schema`)."""
        return self._load_both(key)[1].tables["vectors"]

    def _load_both(self, key: str) -> tuple[Checkpoint, Checkpoint]:
        """Both checkpoints of a shard, that of its embeddings made from that of its papers."""
        papers, embeddings = self._load_papers(key), self._load_embeddings(key)
        if embeddings is None or embeddings.manifest.source.sha256 != papers.manifest.source.sha256:
            raise ArxivEmbedError(f"Shard '{key}' has no embeddings of its papers yet: materialize them first.")
        return papers, embeddings

    def _load_embeddings(self, key: str) -> Checkpoint | None:
        if self._embeddings is None or self._embeddings[0] != key:
            loaded = self._checkpoints.load(embeddings_key(key, self.space))
            self._embeddings = None if loaded is None else (key, loaded)
        return None if self._embeddings is None else self._embeddings[1]

    def _load_papers(self, key: str) -> Checkpoint:
        if self._papers is None or self._papers[0] != key:
            loaded = self._checkpoints.load(papers_key(key))
            if loaded is None:
                raise ArxivEmbedError(f"Shard '{key}' has no papers yet: materialize them first.")
            self._papers = (key, loaded)
        return self._papers[1]
