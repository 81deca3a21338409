"""Windows: a text longer than a model has positions, embedded in overlapping pieces of that length.

After jina-ai/late-chunking: windows of `window` tokens begin every `window − overlap`; the states of the first are all
kept, those of each later one but for its first `overlap`, which the window before has seen with more behind them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from arxiv_embed.encoding.batch import TokenBatch

Places = npt.NDArray[np.int64]


def windows_of(length: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Where the windows of a text of so many tokens begin and end; the last one ends with it."""
    edges = [(0, min(length, window))]
    while edges[-1][1] < length:
        start = edges[-1][0] + window - overlap
        edges.append((start, min(length, start + window)))
    return edges


def cut_into_windows(batch: TokenBatch, window: int, overlap: int) -> tuple[TokenBatch, Places | None]:
    """The batch with each window as a text of its own, and which of its tokens' states are to be kept: they are then
    those of the batch's own tokens, in order. Where no text is too long, the batch as it is, and None.

    The spans remain the batch's own.
    """
    if window == 0 or batch.lengths.max(initial=0) <= window:
        return batch, None
    ids, lengths, kept = [], [], []
    start = placed = 0
    for length in batch.lengths.tolist():
        for number, (first, last) in enumerate(windows_of(length, window, overlap)):
            ids.append(batch.ids[start + first : start + last])
            lengths.append(last - first)
            kept.append(np.arange(placed + (overlap if number else 0), placed + last - first))
            placed += last - first
        start += length
    cut = replace(batch, ids=np.concatenate(ids), lengths=np.array(lengths, np.int32))
    return cut, np.concatenate(kept)
