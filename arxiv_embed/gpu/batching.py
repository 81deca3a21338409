"""Batches: which papers one device runs in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from arxiv_embed.encoding.tokens import TokenizedPaper

TOKEN_BUDGET = {"cpu": 1536, "cuda": 16384}
"""Tokens of one batch by kind of device: enough to fill its matrix unit, little enough to stay in a CPU's cache."""

FIRST_WINDOW, LARGEST_WINDOW = 128, 4096


def windows(papers: int) -> Iterator[range]:
    """Cuts a sequence into spans that are tokenized and sorted together: a short first one, as devices wait for it,
    each next one twice as long, up to a bound that keeps memory flat."""
    start, size = 0, FIRST_WINDOW
    while start < papers:
        yield range(start, min(start + size, papers))
        start, size = start + size, min(2 * size, LARGEST_WINDOW)


def batches_by_tokens(
    papers: Sequence[TokenizedPaper], budget: int, most_papers: int
) -> Iterator[list[TokenizedPaper]]:
    """Papers of similar length together, longest first, each batch within `most_papers` and, all of them padded to
    the longest, within `budget` tokens.

    A paper longer than the budget is a batch of its own.
    """
    batch: list[TokenizedPaper] = []
    for paper in sorted(papers, key=lambda paper: len(paper.ids), reverse=True):
        if batch and ((len(batch) + 1) * len(batch[0].ids) > budget or len(batch) == most_papers):
            yield batch
            batch = []
        batch.append(paper)
    if batch:
        yield batch


def batches_by_count(papers: Sequence[TokenizedPaper], count: int) -> Iterator[list[TokenizedPaper]]:
    """The plain pipeline's batches: `count` papers each, in the order they came."""
    for start in range(0, len(papers), count):
        yield list(papers[start : start + count])
