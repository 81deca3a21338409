"""Slots: memory that the pool and a worker share, a batch's tokens on the way there and its vectors on the way back.

A slot is an anonymous file that lives while one of the two processes has it open: a kill leaves nothing behind.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Self

import numpy as np
import numpy.typing as npt

from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.encoding.tokens import FloatArray

LEAST_BYTES = 1 << 20
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
"""Types of vectors as they travel."""


class Slot:
    """One batch at a time: its tokens until they are read, then its vectors."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> Self:
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("batch", os.MFD_CLOEXEC))
        with tempfile.TemporaryFile() as file:  # macOS: a file without a name
            return cls(os.dup(file.fileno()))

    def close(self) -> None:
        self._map = None  # what still looks at it keeps it until then
        os.close(self.descriptor)

    def grow(self, size: int) -> int:
        """Makes room for `size` bytes; returns how large the slot is. Only its creator does this."""
        held = os.fstat(self.descriptor).st_size
        if held < size:
            held = max(LEAST_BYTES, 1 << (size - 1).bit_length())
            os.ftruncate(self.descriptor, held)
        return held

    def put_batch(self, batch: TokenBatch) -> None:
        values = np.frombuffer(self._mapped(), np.int32)
        at = 0
        for part in (batch.lengths, batch.spans.ravel(), batch.ids):
            values[at : at + len(part)] = part
            at += len(part)

    def get_batch(self, papers: int, spans: int, tokens: int) -> TokenBatch:
        """The batch as it lies here: read it before vectors are put in its place."""
        values = np.frombuffer(self._mapped(), np.int32, count=papers + 2 * spans + tokens)
        return TokenBatch(
            lengths=values[:papers],
            spans=values[papers : papers + 2 * spans].reshape(-1, 2),
            ids=values[papers + 2 * spans :],
        )

    def put_vectors(self, vectors: FloatArray | npt.NDArray[np.uint16]) -> None:
        """float32 [rows, width], or bfloat16 as uint16."""
        np.frombuffer(self._mapped(), vectors.dtype, count=vectors.size).reshape(vectors.shape)[...] = vectors

    def get_vectors(self, rows: int, width: int, vector_type: str) -> FloatArray:
        """A copy, float32 [rows, width]."""
        if vector_type == "float32":
            return np.frombuffer(self._mapped(), np.float32, count=rows * width).reshape(rows, width).copy()
        halves = np.frombuffer(self._mapped(), np.uint16, count=rows * width)
        wide = np.left_shift(halves, 16, dtype=np.uint32)
        vectors: FloatArray = wide.view(np.float32).reshape(rows, width)
        return vectors

    def _mapped(self) -> mmap.mmap:
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) != size:
            self._map = mmap.mmap(self.descriptor, size)
        return self._map


def bytes_needed(batch: TokenBatch, width: int, vector_type: str) -> int:
    """What a slot must hold for this batch, on the way there and on the way back."""
    there = 4 * (len(batch.lengths) + batch.spans.size + len(batch.ids))
    return max(there, len(batch.spans) * width * ITEM_BYTES[vector_type])
