"""Outcomes: what a pool gives back for a paper, and tells of a batch and of a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from arxiv_embed.encoding.tokens import FloatArray, IntArray
from arxiv_embed.gpu.batching import Batch


@dataclass(frozen=True)
class BatchReport:
    """One batch as it was done: real tokens, tokens computed (padding included), seconds on the device; the bytes that
    the device's worker held at most, as predicted and as measured, its model included. `number` counts the device's
    batches, `longest` is the tokens of the longest paper, `waiting` how many papers waited tokenized by then."""

    device: str
    papers: int
    tokens: int
    padded_tokens: int
    seconds: float
    predicted_memory: int
    peak_memory: int
    number: int = 0
    longest: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class Incident:
    """Something that went wrong on a device, or came right again.

    `what` is "out of memory", "failed", "lost", "hung", "waiting" (for memory that others hold), "retired" or "back";
    by what the watch has found "paused", "cool again", "shrunk", "grows again", "restarted", "seen again", or
    "unwatched".
    """

    device: str
    what: str
    detail: str


@dataclass(frozen=True)
class EncodedPaper:
    """One paper's vectors.

    `index` is its place in the sequence given; `spans` int32 [chunks, 2], characters of the paper's text;
    `chunk_tokens` int32 [chunks]; `vectors` float32 [1 + chunks, dimensions] of unit length, row 0 the whole paper;
    `tokens` embedded and `cut_tokens` beyond the limit.
    """

    index: int
    spans: IntArray
    chunk_tokens: IntArray
    vectors: FloatArray
    tokens: int
    cut_tokens: int


@dataclass(frozen=True)
class FailedPaper:
    """A paper that no device could embed, and why."""

    index: int
    reason: str


Outcome = EncodedPaper | FailedPaper


def encoded_papers(batch: Batch, vectors: FloatArray) -> Iterator[EncodedPaper]:
    """The papers of a batch with their rows of its vectors."""
    row = 0
    for paper in batch.papers:
        count = len(paper.spans)
        yield EncodedPaper(
            index=paper.index,
            spans=paper.chars,
            chunk_tokens=paper.spans[1:, 1] - paper.spans[1:, 0],
            vectors=vectors[row : row + count],
            tokens=len(paper.ids),
            cut_tokens=paper.cut_tokens,
        )
        row += count
