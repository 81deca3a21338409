"""The searcher: a store, one of its spaces and the model that made it, kept open for many queries."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.ids import canonical_id
from arxiv_embed.metadata.paper import NotAPaper
from arxiv_embed.settings import Settings
from arxiv_embed.stores import search as searching
from arxiv_embed.stores.naming import space_named
from arxiv_embed.stores.protocol import Filters, StoredPaper, VectorStore, open_store
from arxiv_embed.stores.search import Hit, QueryEncoder


class Searcher:
    """A context manager that many threads may share. The model is loaded by the first query that needs it.

    `space` is a fingerprint or a model's name (`space_named`). Raises `ArxivEmbedError` where it names none, and
    `StoreError` where there is no store or it holds nothing.
    """

    def __init__(self, settings: Settings, url: str | None = None, space: str | None = None) -> None:
        self.store: VectorStore = open_store(url or settings.store)
        try:
            self.space = space_named(self.store, space, settings.model)
        except BaseException:
            self.store.__exit__()
            raise
        self._encoding = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.store.__exit__(kind, error, trace)

    def search(self, query: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` best papers for a query, by meaning and by words; nothing for an empty one."""
        return searching.search(self.store, self.space.fingerprint, self, query, k, filters)

    def neighbours(self, paper_id: str, k: int = 10, filters: Filters | None = None) -> list[Hit]:
        """The `k` papers nearest to a stored one, its id written in any usual way; raises `ArxivEmbedError` where it is
        no id, or not stored."""
        return searching.neighbours(self.store, self.space.fingerprint, _canonical(paper_id), k, filters)

    def paper(self, paper_id: str) -> StoredPaper | None:
        """None where it is not stored; raises `ArxivEmbedError` where it is no id."""
        name = _canonical(paper_id)
        return self.store.papers(self.space.fingerprint, [name]).get(name)

    def encode_queries(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [queries, dimensions], unit length."""
        with self._encoding:
            return self._encoder.encode_queries(queries)

    @cached_property
    def _encoder(self) -> QueryEncoder:
        return encoder_of(self.space)


def _canonical(paper_id: str) -> str:
    try:
        return canonical_id(paper_id)[0]
    except NotAPaper:
        raise ArxivEmbedError(f"'{paper_id}' is no arXiv id: write it as 2401.01234 or hep-th/9901001.") from None


def encoder_of(space: Space) -> QueryEncoder:
    """The model that a space was made with, loaded here; raises `ArxivEmbedError` where it is another one now."""
    from arxiv_embed.encoding.encoder import TextEncoder
    from arxiv_embed.encoding.model import COMMIT, resolve_model

    on_the_hub = COMMIT.fullmatch(space.revision) and not space.model.endswith(".toml")
    files = resolve_model(f"{space.model}@{space.revision}" if on_the_hub else space.model)
    if files.revision != space.revision:
        raise ArxivEmbedError(
            f"The store was made with revision {space.revision[:12]} of model '{space.model}', and {files.folder} "
            f"holds {files.revision[:12]}: bring the old one back, or run again into another --db-name."
        )
    return TextEncoder(files, space)
