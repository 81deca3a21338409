"""Reuse: where the vectors of a text may be had that was embedded before, whatever file it lay in then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from arxiv_embed.checkpoint.store import Checkpoint, CheckpointStore
from arxiv_embed.journal import Journal
from arxiv_embed.plan import RunPlan, is_filled_from
from arxiv_embed.stores.protocol import StoreError, VectorStore
from arxiv_embed.text_index import TextIndex, dtype_of
from arxiv_embed.vectors import sound_ones

OWN, CHECKPOINTS, STORE = "own", "checkpoints", "store"

TEXTS_AT_ONCE = 2_000
"""Asked of a store."""


@dataclass(frozen=True)
class Origin:
    """Where reused vectors come from: the shard's `OWN` last checkpoint and segments, other `CHECKPOINTS` and segments,
    or the `STORE`; and the arithmetic that they were computed in, "" where that was not recorded."""

    place: str
    dtype: str = ""


Source: TypeAlias = Callable[[pa.Array], Iterable[tuple[Origin, pa.Table]]]
"""Asked for the vectors of texts (sha256 each); what it gives is sound, and may be of others too."""


class Reuse:
    """What a run may reuse: in a fresh start what its own runs have committed (`fresh` names them), else all there is.
    `open_store` is called only where the store holds what the checkpoints do not."""

    def __init__(
        self,
        plan: RunPlan,
        fresh: Collection[str] | None,
        checkpoints: CheckpointStore,
        open_store: Callable[[], VectorStore],
        journal: Journal,
    ) -> None:
        self._space = plan.space
        self._index = TextIndex(checkpoints, plan.space.fingerprint, fresh)
        self._asks_store = fresh is None and plan.space in plan.held
        self._open_store = open_store
        self._journal = journal

    def sources(self, before: Checkpoint | None, finished: Sequence[pa.Table]) -> list[Source]:
        """In the order of their cost: the shard's own last checkpoint and segments, all others', the store."""

        def own(texts: pa.Array) -> Iterator[tuple[Origin, pa.Table]]:
            if before is not None:
                yield Origin(OWN, dtype_of(before.manifest.details)), before.tables["vectors"]
            for table in finished:
                yield Origin(OWN), table

        return [own, self._from_checkpoints, self._from_store]

    def _from_checkpoints(self, texts: pa.Array) -> Iterator[tuple[Origin, pa.Table]]:
        for dtype, vectors in self._index.vectors_of(texts):
            yield Origin(CHECKPOINTS, dtype), vectors

    def _from_store(self, texts: pa.Array) -> Iterator[tuple[Origin, pa.Table]]:
        if not self._asks_store:
            return
        try:
            store = self._open_store()
            if is_filled_from(store.shards(self._space.fingerprint).values(), self._index.identities()):
                return  # it holds nothing that was not looked for already
            for first in range(0, len(texts), TEXTS_AT_ONCE):
                some = texts.slice(first, TEXTS_AT_ONCE).to_pylist()
                found = store.vectors_of_texts(self._space.fingerprint, some)
                yield Origin(STORE), sound_ones(found, self._space.dimensions)
        except StoreError as fault:
            # Whether it can be written is found out when that is needed; until then the devices do the work.
            self._journal.tell(f"The store is not asked for vectors: {fault}")
