"""A run: its open things, and the three steps of a shard (read, embed, store); without Dagster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from arxiv_embed.checkpoint.manifest import Source
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.checkpoint.store import Checkpoint, CheckpointStore
from arxiv_embed.checks import CheckResult, check_embeddings, check_index, check_papers, check_store
from arxiv_embed.embed import papers_table, rejects_table
from arxiv_embed.embedder import Embedder
from arxiv_embed.encoding.space import Space
from arxiv_embed.equipment import Equipment
from arxiv_embed.errors import ArxivEmbedError, FatalError, masked
from arxiv_embed.events import (
    HealthReported,
    PapersRead,
    RunStarted,
    ShardEmbedded,
    ShardStarted,
    ShardStored,
    StoreFinished,
)
from arxiv_embed.fresh import end_fresh_start, keep_fresh_start
from arxiv_embed.gpu.outcomes import EncodedPaper
from arxiv_embed.journal import Journal
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Shard
from arxiv_embed.plan import RunPlan, covers, embeddings_key, papers_key, plan_run, stored_identity
from arxiv_embed.priority import parse_priority
from arxiv_embed.processes import ProcessId
from arxiv_embed.runs import note_as_last, report_path
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.shard_checkpoints import ShardCheckpoints
from arxiv_embed.stores.protocol import VectorStore
from arxiv_embed.stores.rows import stored_rows

Report = PapersRead | ShardEmbedded | ShardStored
"""What a step says of its shard."""

REUSED = ("from_checkpoints", "from_store", "same_text")
"""Counts of a shard's papers by where the run that committed it had their vectors from."""

READER_WAIT_SECONDS = 600.0
"""How long a run waits for another that reads the same shard."""


class Run:
    """A context manager: one run's open things. `tell` is given a line for whoever watches, `on_damage` what did not
    verify of a checkpoint, `on_health` how the devices are; each may be called at any time, the last by any thread.
    `shards` are those that it was begun for, and `report` is the file that says at its end what it did.

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
        on_health: Callable[[HealthReported], object] = lambda report: None,
    ) -> None:
        self.options = options
        self.run_id = run_id
        self.plan: RunPlan = plan_run(options, settings)
        self.journal = Journal(settings, run_id, tell, on_damage, on_health, options.log_level)
        self.shards: Sequence[str] = ()
        self.report = report_path(settings, run_id)
        self._fresh = None if self.plan.fresh is None else self.plan.fresh | {run_id}
        self._settings = settings
        self._store = CheckpointStore(options.checkpoints, self.journal.damaged)
        self.checkpoints = ShardCheckpoints(self._store, self.plan.space)
        self._reader = ShardReader()
        self._equipment = Equipment(self.plan, options, settings, self.journal)
        self.embedder = Embedder(self.plan, run_id, self._fresh, self._store, self._equipment, self.journal)
        self._open = contextlib.ExitStack()
        self._claimed: set[str] = set()
        self._priority = parse_priority(options.priority)
        self._urgent_papers: dict[str, int] = {}
        self._uncovered: set[str] = set()
        self._stored_last: str | None = None
        self._finished_store = False

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
        self.shards = list(shards)
        note_as_last(self._settings, self.run_id)
        plans = [self.plan.of(key) for key in shards]
        embeds = [plan for plan in plans if plan.embed]
        self.journal.record(
            RunStarted(
                run_id=self.run_id,
                metadata_dir=str(self.options.metadata_dir),
                shards=self.shards,
                papers=sum(plan.shard.records for plan in embeds),
                unchanged=len(self.plan.shards) - len(self.plan.pending),
                model=self.plan.files.name,
                space=self.space.fingerprint,
                devices=[device.name for device in self.plan.devices],
                store=masked(self.options.store),
                process=vars(ProcessId.of_run()),
            )
        )
        self._equipment.serve_metrics(self.run_id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None or isinstance(error, Exception):
                self.finish_store()
        except BaseException as fault:
            # What went wrong first is what is told; after a full disk, say, the store meets it again.
            if error is None:
                error = fault
                raise
        finally:
            self._close(error)

    def finish_store(self) -> CheckResult | None:
        """Writes the shards again that lost a paper to one that has dropped it since, and brings indexes up to date;
        done once more, it does nothing. Returns what was found of the index, asked for papers of the shard stored last;
        None where nothing was written."""
        store = self._equipment.opened_store if self.plan.is_finished else self._equipment.store()
        if store is None or self._finished_store:
            return None
        self._finished_store = True
        for key in sorted(self._uncovered & self.plan.listed):  # what has left the folder does not come back
            try:
                self._store_shard(store, key)
            except FatalError:
                raise
            except ArxivEmbedError as error:
                self.journal.fail(key, error)
        store.finish(self.space)
        self.journal.record(StoreFinished(*store.count(self.space.fingerprint)))
        if self._stored_last is None:
            return None
        result = check_index(store, self.checkpoints.both(self._stored_last)[1], self.space)
        if not result.passed:
            self.journal.tell(f"{result.why} (check {result.check.name} of {result.check.asset})")
        return result

    def _close(self, error: BaseException | None) -> None:
        with contextlib.ExitStack() as ends:
            ends.enter_context(self._open)
            ends.callback(self.journal.finish, error)
            self._equipment.close_pool()  # nothing is told of its devices behind the run's end

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
        with self._store.hold(embeddings_key(key, self.space)):
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
        with self._store.hold(papers_key(key), READER_WAIT_SECONDS):
            held = self._store.load(papers_key(key))
            if held is None or self._is_to_be_redone(held) or not covers(held.manifest, shard):
                held = self._read_source(shard)
        self.checkpoints.keep_papers(key, held)
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
            self._urgent_papers[key] = sum(self._urgent(self.checkpoints.papers(key)))
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
        manifest = self._store.commit(
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
            details={
                "folder": str(shard.folder),
                "folders": sorted({file.rpartition("/")[0] for file in shard.files}),
                "file": shard.files[0],
                "limit": shard.limit,
            },
        )
        return Checkpoint(manifest, contents)

    def embed(self, key: str) -> ShardEmbedded:
        """The checkpoint `papers` → the checkpoint `embeddings`."""
        papers = self.checkpoints.papers(key)
        with self.claim(key):
            held = self.checkpoints.embeddings(key)
            if held is not None and self._is_to_be_redone(held):
                held = None
            if held is None or self._is_to_be_embedded(held, papers):
                self.checkpoints.forget_embeddings()
                urgent = self._urgent(papers) if self.options.priority else None
                manifest = self.embedder.embed(key, papers, held, urgent)
            else:
                manifest = held.manifest
        counts, seconds = manifest.counts, manifest.details["seconds"]
        if manifest.run_id != self.run_id:  # its time and work were another run's
            counts = {name: number for name, number in counts.items() if name not in REUSED}
            counts = {**counts, "resumed": counts["papers"], "embedded_tokens": 0, "padded_tokens": 0}
            seconds = 0.0
        report = ShardEmbedded(shard=key, **counts, seconds=seconds)
        self.journal.record(report)
        return report

    def _is_to_be_embedded(self, held: Checkpoint, papers: Checkpoint) -> bool:
        """Whether papers have come or changed since, or papers that failed are to be tried again."""
        failed = held.manifest.counts.get("failed", 0) > 0
        retried = self.options.retry_failed and failed and held.manifest.run_id != self.run_id
        return retried or held.manifest.source.sha256 != papers.manifest.source.sha256

    def store(self, key: str) -> ShardStored:
        """Both checkpoints → rows of the vector store."""
        begun = time.monotonic()
        rows, written, skipped = self._store_shard(self._equipment.store(), key)
        report = ShardStored(key, rows, written, skipped, time.monotonic() - begun)
        self.journal.record(report)
        return report

    def _store_shard(self, store: VectorStore, key: str) -> tuple[int, int, int]:
        """The shard's rows in the store, how many were written, and how many papers are there in a newer record."""
        papers, embeddings = self.checkpoints.both(key)
        identity = stored_identity(papers.manifest, embeddings.manifest)
        rows, rows_written, skipped = embeddings.manifest.files["vectors"].rows, 0, 0
        if store.shards(self.space.fingerprint).get(key) != identity:
            table = stored_rows(
                papers.tables["papers"],
                embeddings.tables["vectors"],
                space=self.space.fingerprint,
                shard=key,
                run_id=self.run_id,
            )
            written = store.write_shard(self.space, key, table, identity, listed=self.plan.listed)
            rows, rows_written, skipped = written.rows, written.rows, written.skipped_papers
            self._stored_last = key
            self._uncovered.update(written.uncovered)
        self._uncovered.discard(key)
        return rows, rows_written, skipped

    def check(self, asset: str, key: str, *, thorough: bool) -> list[CheckResult]:
        """What must hold of what was made of a shard for that asset; `thorough` starts the pool for it if need be."""
        if asset == "papers":
            return check_papers(self.checkpoints.papers(key))
        if asset == "embeddings":
            papers, embeddings = self.checkpoints.both(key)
            whole = (asset, key) not in self.journal.damages
            return check_embeddings(papers, embeddings, self.space, whole=whole)
        papers, embeddings = self.checkpoints.both(key)
        identity = stored_identity(papers.manifest, embeddings.manifest)
        encode = self._vectors_of if thorough or self._equipment.has_pool else None
        store = self._equipment.store()
        results = check_store(store, papers, embeddings, self.space, key, identity, encode)
        return [*results, check_index(store, embeddings, self.space)] if thorough else results

    def _vectors_of(self, texts: Sequence[str]) -> dict[int, npt.NDArray[np.float32]]:
        """The vectors [dimensions] of those texts that can be embedded, by number."""
        outcomes = self._equipment.pool().encode(texts)
        return {outcome.index: outcome.vectors[0] for outcome in outcomes if isinstance(outcome, EncodedPaper)}
