"""The catalog: what a space of the store holds, so far as it has been looked through."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.searcher import Searcher
from arxiv_embed.stores.protocol import PAPER_CHUNK

READ = ["chunk_index", "categories", "published", "updated"]


@dataclass(frozen=True)
class Contents:
    """`newest` is the latest day of publication, None until it is known; `categories` are those of its papers and how
    many papers each has, archives too."""

    papers: int
    newest: str | None = None
    categories: Mapping[str, int] = field(default_factory=dict)


class Catalog:
    """Counts at once, and reads days and categories in a thread of its own: a large store takes seconds. Many threads
    may ask."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._known = Contents(0)
        self._asking = threading.Lock()
        self._reading: threading.Thread | None = None

    @property
    def known(self) -> Contents:
        """What was last read, without a question to the store."""
        return self._known

    def contents(self) -> Contents:
        """With the number of papers as it is now, the rest as last read; looks again where that number has changed."""
        papers, _ = self._searcher.store.count(self._searcher.space.fingerprint)
        with self._asking:
            if papers != self._known.papers and not self.is_reading:
                self._reading = threading.Thread(target=self._read, args=(papers,), daemon=True, name="catalog")
                self._reading.start()
            return Contents(papers, self._known.newest, self._known.categories)

    @property
    def is_reading(self) -> bool:
        return self._reading is not None and self._reading.is_alive()

    def wait(self) -> None:
        """Until what is being read has been read."""
        if self._reading is not None:
            self._reading.join()

    def _read(self, papers: int) -> None:
        newest = ""
        counts: Counter[str] = Counter()
        try:
            for batch in self._searcher.store.scan(self._searcher.space.fingerprint, READ):
                rows = batch.select(READ).to_pydict()
                for chunk, categories, published, updated in zip(*rows.values(), strict=True):
                    if chunk == PAPER_CHUNK:
                        newest = max(newest, published or updated or "")
                        counts.update({*categories, *(name.partition(".")[0] for name in categories)})
        except ArxivEmbedError:
            return  # a store that is away is said so by whatever asks it next
        self._known = Contents(papers, newest or None, counts)
