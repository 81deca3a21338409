"""The Python API: a store searched by one call."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arxiv_embed.searcher import Searcher
    from arxiv_embed.stores.search import Hit

KEPT_OPEN = 4


def search(
    query: str | None = None,
    k: int = 10,
    *,
    like: str | None = None,
    category: str | None = None,
    since: str | None = None,
    until: str | None = None,
    withdrawn: bool | None = None,
    store: str | None = None,
    space: str | None = None,
) -> list[Hit]:
    """The `k` best papers for a query, best first, or the neighbours of the paper `like`.

    `category` is one ("cs.LG") or a whole archive ("cs"); `since` and `until` are days (YYYY-MM-DD), both included;
    `withdrawn` says whether those papers alone or the others alone. `store` is a folder or a URL (ARXIV_EMBED_STORE,
    or the one in the home), `space` a fingerprint or a model's name. Store and model stay open for the next call.
    Raises `ArxivEmbedError` where there is no such store, space or paper, or a filter is no day.
    """
    from arxiv_embed.errors import ArxivEmbedError
    from arxiv_embed.stores.protocol import Filters

    if (query is None) == (like is None):
        raise ArxivEmbedError("Give a query or the id of a paper as `like`, one of the two.")
    filters = Filters(category, since, until, withdrawn)
    searcher = _searcher(store, space)
    return searcher.search(query or "", k, filters) if like is None else searcher.neighbours(like, k, filters)


@lru_cache(KEPT_OPEN)
def _searcher(store: str | None, space: str | None) -> Searcher:
    from arxiv_embed.searcher import Searcher
    from arxiv_embed.settings import settings_from_environment

    return Searcher(settings_from_environment(), store, space)
