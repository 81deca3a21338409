"""A text index: which checkpoints and segments of a space hold the vectors of which texts, those of other shards and of
shards that are no more too.

It holds eight bytes a text and no vectors: what it leads to is verified, and of that only the rows wanted are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.parts import Part
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.vectors import texts_in

HEAD = 16
"""Hexadecimal digits of a text's sha256 that the index holds, as one number."""

Heads = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class _Held:
    """What is known of a part; `texts` are sorted."""

    part: Part
    texts: Heads
    identity: str
    dtype: str


class TextIndex:
    """Of one space; `runs` are those whose work counts, None for all. Whoever asks looks at what has been committed
    since, by this process or another."""

    def __init__(self, checkpoints: CheckpointStore, space: str, runs: Collection[str] | None) -> None:
        self._checkpoints = checkpoints
        self._space = space
        self._runs = runs
        self._held: dict[Path, _Held] = {}

    def identities(self) -> set[str]:
        """Of the checkpoints that it knows (`Manifest.identity`), as they lie there now."""
        self._look_again()
        return {held.identity for held in self._held.values()}

    def vectors_of(self, texts: pa.Array) -> Iterator[tuple[str, pa.Table]]:
        """The vectors of those of the texts (sha256 each) that something holds, from one checkpoint or segment at a
        time, and the arithmetic that they were computed in, "" where that was not recorded."""
        tried: set[Path] = set()
        left = np.ones(len(texts), bool)
        is_stale = True
        while is_stale and left.any():
            self._look_again()
            candidates = [held for path, held in self._held.items() if path not in tried and len(held.texts)]
            holds = _holdings(_heads_of(texts), candidates)
            is_stale = False
            while not is_stale and (holds & left).any():
                best = int(np.argmax((holds & left).sum(axis=1)))  # the most first: what two hold is read once
                wanted = texts.filter(pa.array(holds[best] & left))
                holds[best] = False
                tried.add(candidates[best].part.path)
                rows = candidates[best].part.rows("vectors", lambda piece, of=wanted: _rows_of(piece, of))  # type: ignore[misc]
                if rows is None:
                    is_stale = True  # its shard may have been committed anew meanwhile
                    continue
                yield candidates[best].dtype, rows
                left &= ~pc.is_in(texts, rows["text_sha256"]).to_numpy(zero_copy_only=False)

    def _look_again(self) -> None:
        """At what lies there: what has come is read, what has gone is forgotten."""
        parts = {part.path: part for part in self._checkpoints.parts("embeddings", self._space)}
        self._held = {path: self._held.get(path) or self._look_at(part) for path, part in parts.items()}

    def _look_at(self, part: Part) -> _Held:
        """What cannot be understood, or is not to count, holds nothing."""
        glance = part.glance("vectors", ["chunk_index", "text_sha256"])
        if glance is None or (self._runs is not None and glance.run_id not in self._runs):
            return _Held(part, np.zeros(0, np.uint64), "", "")
        try:
            heads = np.unique(_heads_of(pc.unique(texts_in(glance.columns))))
        except ValueError:  # what was glanced at is not verified
            return _Held(part, np.zeros(0, np.uint64), "", "")
        return _Held(part, heads, glance.identity, dtype_of(glance.details))


def dtype_of(details: Mapping[str, Any]) -> str:
    """The arithmetic, or several, that a checkpoint's vectors were computed in, as far as its details say."""
    dtypes = details.get("dtypes") or {details.get("dtype", ""): 0}
    return ", ".join(sorted(dtypes))


def _heads_of(texts: pa.Array) -> Heads:
    """Raises `ValueError` for what is no sha256."""
    heads = pc.utf8_slice_codeunits(texts, 0, HEAD).to_pylist()
    digits = "".join(head or "" for head in heads)
    if len(digits) != HEAD * len(heads):
        raise ValueError("a sha256 is cut")
    return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)


def _holdings(heads: Heads, candidates: Sequence[_Held]) -> npt.NDArray[np.bool_]:
    """Which of the candidates (first axis) may hold which text."""
    found = np.zeros((len(candidates), len(heads)), bool)
    for number, held in enumerate(candidates):
        place = np.minimum(np.searchsorted(held.texts, heads), len(held.texts) - 1)
        found[number] = held.texts[place] == heads
    return found


def _rows_of(vectors: pa.Table, texts: pa.Array) -> pa.Table:
    return vectors.filter(pc.is_in(vectors["text_sha256"], texts))
