"""A token batch: the papers of one forward pass, packed one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from arxiv_embed.encoding.tokens import IntArray, TokenizedPaper


@dataclass(frozen=True)
class TokenBatch:
    """`ids` int32 [tokens], `lengths` int32 [papers], `spans` int32 [vectors, 2]: positions in `ids`."""

    ids: IntArray
    lengths: IntArray
    spans: IntArray


def pack(papers: Sequence[TokenizedPaper]) -> TokenBatch:
    """Packs papers in the order given; the vectors of a paper stand together, its own first."""
    lengths = np.array([len(paper.ids) for paper in papers], np.int32)
    starts = np.cumsum(lengths) - lengths
    return TokenBatch(
        ids=np.concatenate([np.empty(0, np.int32), *(paper.ids for paper in papers)]),
        lengths=lengths,
        spans=np.concatenate(
            [
                np.empty((0, 2), np.int32),
                *(paper.spans + np.int32(start) for paper, start in zip(papers, starts, strict=True)),
            ]
        ),
    )
