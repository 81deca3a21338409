"""A pool without a model: vectors that follow from the text alone, and a record of what was embedded."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import arxiv_embed.embed
import arxiv_embed.equipment
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, FailedPaper, Incident, Outcome
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, settings_from_environment

POISON = "poison"
"""No device can embed a text with this word in it."""


def vectors_of(text: str, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The paper's vector and its two chunks', of unit length."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    vectors = np.random.default_rng(seed).standard_normal((3, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class FakePool:
    """Stands in for `Pool`: two chunks a paper, urgent papers first; `fail_after` so many papers it raises `fault`."""

    dtype = "float32"
    packed = True

    def __init__(self, dimensions: int = 384, *, delay: float = 0.0, order: Sequence[int] | None = None) -> None:
        self.dimensions = dimensions
        self.delay = delay
        self.order = order
        self.embedded: list[str] = []
        self.urgent: list[Sequence[bool] | None] = []
        self.open = 0
        self.options: dict[str, object] = {}
        """What it was made with besides."""
        self.fail_after: int | None = None
        self.fail_on = ""
        """A word: a call with a text that has it raises `fault` at once."""
        self.fault: BaseException = RuntimeError("the device fell over")

    def __call__(self, files: object, space: object, devices: object, **options: object) -> Self:
        self.options = options
        return self

    def __enter__(self) -> Self:
        self.open += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.open -= 1

    def encode(
        self,
        texts: Sequence[str],
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        urgent: Sequence[bool] | None = None,
        on_incident: Callable[[Incident], None] = lambda incident: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Iterator[Outcome]:
        if all("\n\n" not in text for text in texts):  # titles, looked for in the store: no papers
            titles = (vectors_of(text, self.dimensions) for text in texts)
            none = np.zeros((0, 2), np.int32)
            yield from (EncodedPaper(i, none, none[:, 0], vectors[:1], 1, 0) for i, vectors in enumerate(titles))
            return
        self.urgent.append(urgent)
        if self.fail_on and any(self.fail_on in text for text in texts):
            raise self.fault
        first = sorted(range(len(texts)), key=lambda index: not (urgent and urgent[index]))
        for done, index in enumerate(self.order or first):
            if done == self.fail_after:
                raise self.fault
            time.sleep(self.delay)
            on_tick()
            text = texts[index]
            if POISON in text:
                on_incident(Incident("cpu:0", "lost", "its worker ended with exit code -11"))
                yield FailedPaper(index, "it ends the worker that embeds it")
                continue
            self.embedded.append(text)
            on_batch(BatchReport("cpu:0", 1, len(text.split()), len(text.split()), 0.001, 1 << 20, 1 << 20))
            middle = len(text) // 2
            yield EncodedPaper(
                index=index,
                spans=np.array([[0, middle], [middle, len(text)]], np.int32),
                chunk_tokens=np.array([1, len(text.split())], np.int32),
                vectors=vectors_of(text, self.dimensions),
                tokens=len(text.split()),
                cut_tokens=0,
            )


def run_shards(options: RunOptions, home: Path, run_id: str, steps: Sequence[str] = ("read", "embed", "store")) -> Run:
    """What a job does: every shard with work to do, step by step."""
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    with Run(options, settings, run_id) as run:
        pending = [plan.shard.key for plan in run.plan.pending]
        run.keep_fresh_start()
        run.start(pending)
        for key in pending:
            for step in steps:
                getattr(run, step)(key)
        run.end_fresh_start()
    return run


def main(folder: str, home: str) -> None:
    """A run slow enough to be killed in the middle of a shard, every paper a segment."""
    patch = pytest.MonkeyPatch()
    patch.setattr(arxiv_embed.equipment, "Pool", FakePool(delay=0.02))
    patch.setattr(arxiv_embed.embed, "SEGMENT_SECONDS", 0.0)
    options = RunOptions(Path(folder), f"{home}/store", Path(home) / "checkpoints", devices="cpu:1")
    run_shards(options, Path(home), "killed")


if __name__ == "__main__":
    main(*sys.argv[1:])
