"""A corpus: 100,000 real papers through whole runs, a tenth embedded by the real model and the rest by jittered copies.

A copy has a real vector turned by a random one of 0.45 times its length: a cosine of 0.91, further than two versions of
a paper and nearer than two papers of one field.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

import arxiv_embed.equipment
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident, Outcome
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from bench.data import real_data

PAPERS, REAL_PAPERS = 100_000, 10_000
FILE = "arxiv_100k.jsonl.gz"
JITTER = 0.45
DEVICES = "cpu:2"


class CopyingPool(Pool):
    """Embeds the first `REAL_PAPERS` texts that it is given; each later one gets a jittered copy of a vector of those,
    its chunks cut where those of that paper are cut."""

    _real: list[EncodedPaper]
    _lengths_of_real: list[int]
    _random: np.random.Generator

    def encode(
        self,
        texts: Sequence[str],
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        urgent: Sequence[bool] | None = None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Iterator[Outcome]:
        if not hasattr(self, "_real"):
            self._real, self._lengths_of_real = [], []
            self._random = np.random.default_rng(0)
        embedded = min(len(texts), REAL_PAPERS - len(self._real))
        if embedded > 0:
            for outcome in super().encode(texts[:embedded], on_batch, None, on_incident, on_tick):
                if isinstance(outcome, EncodedPaper):
                    self._real.append(outcome)
                    self._lengths_of_real.append(len(texts[outcome.index]))
                yield outcome
        for index in range(max(embedded, 0), len(texts)):
            yield self._copy(index, len(texts[index]))

    def _copy(self, index: int, length: int) -> EncodedPaper:
        turn = index % len(self._real)
        paper = self._real[turn]
        noise = self._random.standard_normal(paper.vectors.shape, np.float32)
        vectors = paper.vectors + JITTER * noise / np.linalg.norm(noise, axis=1, keepdims=True)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        spans = (paper.spans.astype(np.int64) * length // self._lengths_of_real[turn]).astype(np.int32)
        return replace(paper, index=index, spans=spans, vectors=vectors)


def make_corpus(place: Path) -> tuple[RunOptions, Settings]:
    """A home under `place` whose store holds the corpus, and the metadata folder beside it; takes about four minutes on
    two cores. Raises `ArxivEmbedError` where the real data is not there."""
    folder = place / "metadata"
    folder.mkdir(parents=True)
    shutil.copy2(real_data() / FILE, folder)
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(place / "home")})
    options = RunOptions(folder, settings.store, settings.checkpoints, devices=DEVICES)
    with patch.object(arxiv_embed.equipment, "Pool", CopyingPool), Run(options, settings, "corpus") as run:
        keys = [plan.shard.key for plan in run.plan.pending]
        run.start(keys)
        for key in keys:
            for step in (run.read, run.embed, run.store):
                step(key)
        run.finish_store()
    return options, settings
