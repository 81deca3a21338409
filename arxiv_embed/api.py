"""The Python API: a store searched by one call, and how fast its home's runs went as a table."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from arxiv_embed.searcher import Searcher
    from arxiv_embed.stores.search import Hit

KEPT_OPEN = 4

MOST_PAPERS = 10_000
"""Of one search."""

_opening = threading.Lock()
_kept: dict[tuple[Path, str, str | None, str], Searcher] = {}


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
    """The `k` best papers for a query, best first, or the neighbours of the paper `like`; none for an empty query.

    Over the sample in `examples/metadata`:

    >>> import arxiv_embed
    >>> [hit] = arxiv_embed.search("sparse graphs and pebbles", 1, category="math")
    >>> hit.paper.paper_id, hit.paper.title
    ('0704.0002', 'Sparsity-certifying Graph Decompositions')
    >>> f"{hit.score:.4f}", {ranking: f"{part:.4f}" for ranking, part in hit.parts.items()}
    ('0.0328', {'meaning': '0.0164', 'words': '0.0164'})

    `category` is one ("cs.LG") or a whole archive ("cs"); `since` and `until` are days (YYYY-MM-DD), both included;
    `withdrawn` says whether those papers alone or the others alone. `store` is a folder or a URL (ARXIV_EMBED_STORE,
    or the one in the home), `space` a fingerprint or a model's name. Store and model stay open for the next call, which
    sees what was written meanwhile; many threads may call at once.
    Raises `ArxivEmbedError` where there is no such store, space or paper, or a filter is no day.
    """
    from arxiv_embed.errors import ArxivEmbedError
    from arxiv_embed.stores.protocol import Filters

    if (query is None) == (like is None):
        raise ArxivEmbedError("Give a query or the id of a paper as `like`, one of the two.")
    if not 1 <= k <= MOST_PAPERS:
        raise ArxivEmbedError(f"k is {k}: ask for 1 to {MOST_PAPERS:,} papers.")
    filters = Filters(category, since, until, withdrawn)
    searcher = _searcher(store, space)
    return searcher.search(query or "", k, filters) if like is None else searcher.neighbours(like, k, filters)


def performance(home: str | Path | None = None) -> pd.DataFrame:
    """Every batch of every run that has ended, in the order of their time; empty before there is one.

    >>> import arxiv_embed
    >>> batches = arxiv_embed.performance()
    >>> speed = batches.groupby("device")[["papers", "tokens", "seconds"]].sum()

    Columns: run_id, time (UTC), shard, device, product, model, dtype, number (of the batch on its device), papers,
    tokens, padded_tokens, longest (tokens of its longest paper), seconds, predicted_memory, peak_memory (bytes),
    waiting (papers tokenized by then). `home` is the folder of ARXIV_EMBED_HOME, or that. A run that was killed is
    there once another has begun. `pandas.read_parquet(home / "history" / "performance")` reads the same rows.
    Raises `ArxivEmbedError` for a file that is not whole.
    """
    from arxiv_embed.batch_history import kept_batches
    from arxiv_embed.settings import settings_from_environment

    settings = (
        settings_from_environment() if home is None else settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    )
    frame: pd.DataFrame = kept_batches(settings).to_pandas()
    return frame


def _searcher(store: str | None, space: str | None) -> Searcher:
    """One that was opened before, as long as its space is the one that is meant now."""
    from arxiv_embed.searcher import Searcher
    from arxiv_embed.settings import settings_from_environment
    from arxiv_embed.stores.naming import space_named

    settings = settings_from_environment()
    key = (Path.cwd(), store or settings.store, space, settings.model)
    with _opening:
        kept = _kept.get(key)
        if kept is None or space_named(kept.store, space, settings.model) != kept.space:
            _kept.pop(key, None)
            while len(_kept) >= KEPT_OPEN:  # not closed here, as another thread may be at it
                del _kept[next(iter(_kept))]
            kept = _kept[key] = Searcher(settings, store, space)
        return kept
