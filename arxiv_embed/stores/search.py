"""Search: papers found by meaning and by words, the two rankings fused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from arxiv_embed.stores.protocol import Chunk, Filters, Match, StoredPaper, StoreError, VectorStore

FUSION_K = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)."""

MEANING, WORDS = "meaning", "words"
"""The two rankings: by the paper's vector, and by its title's and abstract's words."""

LEAST_CANDIDATES = 50


class QueryEncoder(Protocol):
    def encode_queries(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [queries, dimensions], unit length."""


@dataclass(frozen=True)
class Hit:
    """A paper found. `score` is the sum of its `parts`; the ranks count from 1, None where that ranking has not found
    it; `similarity` is the best chunk's cosine, which counts for nothing in the score, and `start`, `end` its
    characters in the paper's text."""

    paper: StoredPaper
    score: float
    vector_rank: int | None
    text_rank: int | None
    similarity: float | None
    start: int
    end: int

    @property
    def parts(self) -> Mapping[str, float]:
        """What each ranking gave to the score, by its name."""
        ranks = {MEANING: self.vector_rank, WORDS: self.text_rank}
        return {name: part_of_score(rank) for name, rank in ranks.items() if rank is not None}

    @property
    def text(self) -> str:
        return f"{self.paper.title}\n\n{self.paper.abstract}"

    @property
    def matching_chunk(self) -> str:
        return self.text[self.start : self.end]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self.paper),
            "score": self.score,
            "score_parts": dict(self.parts),
            "vector_rank": self.vector_rank,
            "text_rank": self.text_rank,
            "similarity": self.similarity,
            "chunk": {"start": self.start, "end": self.end, "text": self.matching_chunk},
        }


def search(
    store: VectorStore,
    space: str,
    encoder: QueryEncoder,
    query: str,
    k: int = 10,
    filters: Filters | None = None,
) -> list[Hit]:
    """The `k` best papers for a query, by reciprocal rank fusion of the vector and the full-text ranking."""
    filters = filters or Filters()
    query = query.encode("utf-8", "replace").decode()  # a terminal's stray bytes come as lone surrogates
    if not query.strip():
        return []
    candidates = max(5 * k, LEAST_CANDIDATES)
    with ThreadPoolExecutor(1) as beside:
        words = beside.submit(store.matching, space, query, candidates, filters)
        [vector] = encoder.encode_queries([query])
        by_vector = store.nearest(space, vector, candidates, filters, chunks=False)
        by_text = words.result()
    return _hits(store, space, vector, by_vector, by_text, k)


def neighbours(store: VectorStore, space: str, paper_id: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
    """The `k` papers nearest to a stored one, itself left out; raises `StoreError` where it is not stored."""
    vector = store.vector_of(space, paper_id)
    if vector is None:
        raise StoreError(f"The store {store.url} holds no paper {paper_id}: search for its title to see what is there.")
    near = store.nearest(space, vector, k + 1, filters or Filters(), chunks=False)
    return _hits(store, space, vector, [match for match in near if match.paper_id != paper_id], [], k)


def part_of_score(rank: int) -> float:
    """What a ranking gives to the paper at `rank`, counted from 1."""
    return 1.0 / (FUSION_K + rank)


def fuse(rankings: Iterable[Sequence[str]]) -> dict[str, float]:
    """Reciprocal rank fusion: id → sum over the rankings of 1 / (60 + rank), best first; equal scores keep order."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + part_of_score(rank)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def _hits(
    store: VectorStore,
    space: str,
    vector: npt.NDArray[np.float32],
    by_vector: Sequence[Match],
    by_text: Sequence[Match],
    k: int,
) -> list[Hit]:
    vector_ids = [match.paper_id for match in by_vector]
    text_ids = [match.paper_id for match in by_text]
    scores = fuse([vector_ids, text_ids])
    best = list(scores)[:k]
    papers, chunks = store.papers_and_chunks(space, best, vector)
    best_chunks: dict[str, Chunk] = {}
    for chunk in chunks:
        best_chunks.setdefault(chunk.paper_id, chunk)
    vector_ranks = {name: rank for rank, name in enumerate(vector_ids, 1)}
    text_ranks = {name: rank for rank, name in enumerate(text_ids, 1)}
    hits = []
    for name in best:
        if name not in papers:
            continue  # rewritten since it was found
        nearest = best_chunks.get(name)
        hits.append(
            Hit(
                paper=papers[name],
                score=scores[name],
                vector_rank=vector_ranks.get(name),
                text_rank=text_ranks.get(name),
                similarity=nearest.score if nearest else None,
                start=nearest.start if nearest else 0,
                end=nearest.end if nearest else 0,
            )
        )
    return hits
