"""The embedder: a shard's papers through the pool, by way of segments, into a committed checkpoint."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.checkpoint.store import Checkpoint, CheckpointStore
from arxiv_embed.embed import TextPool, embed_shard, texts_of
from arxiv_embed.equipment import Equipment
from arxiv_embed.estimates import evenly_spread
from arxiv_embed.events import BatchDone, DeviceIncident, PaperFailed, SegmentSaved, TextsWaiting
from arxiv_embed.gpu.outcomes import BatchReport, Incident
from arxiv_embed.journal import Journal
from arxiv_embed.plan import RunPlan, embeddings_key
from arxiv_embed.reuse import CHECKPOINTS, STORE, Reuse
from arxiv_embed.vectors import of_whole_papers

ESTIMATED, LEARNED = 1_000, 2_000
"""Papers of a shard, evenly spread, by which its tokens are estimated, and of which lengths are learned: few enough to
take no time beside the shard's embedding."""


class Embedder:
    """`fresh` names the runs of a fresh start, whose segments alone count. `batches` are of the shard that was embedded
    last: each one, and how many seconds after the first was asked for."""

    def __init__(
        self,
        plan: RunPlan,
        run_id: str,
        fresh: Collection[str] | None,
        checkpoints: CheckpointStore,
        equipment: Equipment,
        journal: Journal,
    ) -> None:
        self.batches: list[tuple[float, BatchReport]] = []
        self._plan = plan
        self._run_id = run_id
        self._fresh = fresh
        self._checkpoints = checkpoints
        self._equipment = equipment
        self._journal = journal
        self._reuse = Reuse(plan, fresh, checkpoints, equipment.store, journal)

    @property
    def packed(self) -> bool:
        """Whether the devices compute without padding."""
        return self._equipment.packed

    def embed(self, key: str, papers: Checkpoint, before: Checkpoint | None, urgent: Sequence[bool] | None) -> Manifest:
        """Commits the papers' vectors, those of texts that were embedded before taken from `before` or elsewhere. The
        `urgent` come first."""
        space = self._plan.space
        target = embeddings_key(key, space)
        self.batches = []
        segments = self._checkpoints.segments(target, papers.manifest.source.sha256, self._run_id)
        if self._fresh is not None:
            segments.forget_other_runs(self._fresh)
        finished = self._finished_before(target, segments)
        begun = time.monotonic()

        def on_batch(report: BatchReport) -> None:
            self.batches.append((time.monotonic() - begun, report))
            self._journal.record(BatchDone(key, **vars(report)))

        def on_incident(incident: Incident) -> None:
            self._journal.record(DeviceIncident(key, **vars(incident)))
            self._journal.tell(f"{incident.device} {incident.what}: {incident.detail}", recorded=True)

        def on_texts(texts: Sequence[str]) -> None:
            some = self._equipment.tokens.quick([texts[place] for place in evenly_spread(len(texts), ESTIMATED)])
            tokens = len(texts) * float(np.minimum(some, space.max_tokens).mean())
            self._journal.record(TextsWaiting(key, len(texts), round(tokens)))

        def pool() -> TextPool:
            nonlocal begun
            ready = self._equipment.pool()
            begun = time.monotonic()
            return ready

        try:
            embedded = embed_shard(
                papers.tables["papers"],
                space.dimensions,
                pool,
                sources=self._reuse.sources(before, finished),
                segments=segments,
                urgent=urgent,
                on_batch=on_batch,
                on_segment=lambda count: self._journal.record(SegmentSaved(key, count)),
                on_texts=on_texts,
                on_incident=on_incident,
            )
        except BaseException:
            self._equipment.close_pool()  # what its workers still answer is of this shard; the next one starts anew
            raise
        seconds = time.monotonic() - begun
        for failure in embedded.failures.to_pylist():
            self._journal.record(PaperFailed(key, **failure))
        whole = of_whole_papers(embedded.vectors)
        cut = whole["cut_tokens"].to_numpy()
        batches = [batch for _, batch in self.batches]
        peaks: dict[str, int] = {}
        for batch in batches:
            peaks[batch.device] = max(peaks.get(batch.device, 0), batch.peak_memory)
        dtype = self._equipment.dtype or ""
        dtypes = Counter({dtype: whole.num_rows - embedded.resumed + embedded.same_text})
        for origin, count in embedded.reused.items():
            dtypes[origin.dtype] += count
        manifest = self._checkpoints.commit(
            target,
            {"vectors": embedded.vectors, "failures": embedded.failures},
            source=papers.manifest.source,
            counts={
                "papers": whole.num_rows,
                "resumed": embedded.resumed,
                "from_checkpoints": embedded.reused_from(CHECKPOINTS),
                "from_store": embedded.reused_from(STORE),
                "same_text": embedded.same_text,
                "chunks": embedded.vectors.num_rows - whole.num_rows,
                "tokens": int(whole["tokens"].to_numpy().sum()),
                "embedded_tokens": sum(batch.tokens for batch in batches),
                "padded_tokens": sum(batch.padded_tokens for batch in batches),
                "long_papers": int(np.count_nonzero(whole["tokens"].to_numpy() > space.paper_reach)),
                "cut_papers": int(np.count_nonzero(cut)),
                "cut_tokens": int(cut.sum()),
                "failed": embedded.failures.num_rows,
            },
            run_id=self._run_id,
            details={
                "space": vars(space),
                "dtypes": {name: papers for name, papers in sorted(dtypes.items()) if papers},
                "devices": [device.name for device in self._equipment.devices],
                "seconds": round(seconds, 3),
                "memory": peaks,
            },
        )
        segments.clear()
        self._learn_lengths(papers.tables["papers"], whole)
        return manifest

    def _learn_lengths(self, papers: pa.Table, whole: pa.Table) -> None:
        """Learns from some of the papers how many tokens texts have; `whole` are the rows of the papers' vectors."""
        places = np.array(evenly_spread(whole.num_rows, LEARNED), int)
        some = whole.select(["paper_id", "tokens", "cut_tokens"]).take(places)
        known = papers.take(pc.index_in(some["paper_id"], papers["paper_id"]))
        tokens = pc.add(some["tokens"], some["cut_tokens"]).to_pylist()
        self._equipment.tokens.learn(texts_of(known), known["categories"].to_pylist(), tokens)

    def _finished_before(self, target: CheckpointKey, segments: Segments) -> list[pa.Table]:
        """What earlier attempts have finished of a shard; says what of it is gone on from, and why if not all is."""
        finished = segments.tables()
        if finished:
            others = segments.from_other_sources
            some = f", {others} of another content: papers whose text has changed start clean" if others else ""
            self._journal.tell(f"{target.shard}: goes on from {len(finished)} segments{some}")
        elif elsewhere := self._checkpoints.unfinished_elsewhere(target):
            self._journal.tell(
                f"{target.shard}: starts clean, as its segments are of another space ({', '.join(elsewhere)})"
            )
        return finished
