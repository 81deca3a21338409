"""Words: a full-text query as PostgreSQL is asked it, any word of it enough, rare ones worth more.

PostgreSQL's own ranking knows nothing of how rare a word is; its statistics do, as far as it is common.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from arxiv_embed.stores.postgres.rows import storable
from arxiv_embed.stores.postgres.schema import rows_of
from arxiv_embed.stores.postgres.server import Connection

LONGEST_QUERY = 2_000
"""Characters of a query that are used; what follows adds nothing to the ranking but time."""
KNOWN_SECONDS = 60.0
MOST_WORDS = 16
"""The rarest of a query; each is looked for in every paper that is ranked."""
MOST_RANKED = 1_000
"""Papers of one question, which takes some 2 µs for each and each word."""


@dataclass(frozen=True)
class Words:
    """The words of a query, the rarest first, with what each is worth, and how many of the first are in fewer papers
    together than can be ranked (1 at least)."""

    words: tuple[str, ...]
    worth: tuple[float, ...]
    rarer: int

    def selections(self) -> Iterator[str]:
        """Which papers are to be ranked, as a `tsquery`: the next where the one before finds too few. What a paper is
        worth grows with each word that it has, so those that have all come first."""
        if self.words:
            yield " & ".join(self.words)
            yield " | ".join(self.words[: self.rarer])
            yield " | ".join(self.words)


class Vocabulary:
    """What a store's statistics say of its words, asked once a minute; many threads may share it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, dict[str, float], float]] = {}

    def words_of(self, connection: Connection, space: str, text: str) -> Words:
        """The words of any text, brought to their stems; none where it has nothing but stop words."""
        found = connection.execute(
            "SELECT lexeme FROM unnest(to_tsvector('pg_catalog.english', %s))", [storable(text[:LONGEST_QUERY])]
        ).fetchall()
        asked, shares, papers = self._known.get(space, (0.0, {}, 0.0))
        if not papers or time.monotonic() - asked > KNOWN_SECONDS:
            shares, papers = _statistics(connection, space)
            self._known[space] = time.monotonic(), shares, papers
        return ranked([lexeme for (lexeme,) in found], shares, papers)


def ranked(lexemes: Sequence[str], shares: Mapping[str, float], papers: float) -> Words:
    """`shares` says of common words in which part of the papers they are found; one that is not there is rarer."""
    rare = min(shares.values(), default=0.5) / 2
    share = {lexeme: shares.get(lexeme, rare) for lexeme in lexemes}
    rarest = sorted(lexemes, key=lambda lexeme: (share[lexeme], lexeme))[:MOST_WORDS]
    together = itertools.accumulate(share[lexeme] * papers for lexeme in rarest)
    rarer = sum(found <= MOST_RANKED for found in together)
    worth = tuple(math.log1p(1 / share[lexeme]) for lexeme in rarest)
    return Words(tuple(map(_quoted, rarest)), worth, max(1, rarer))


def _statistics(connection: Connection, space: str) -> tuple[dict[str, float], float]:
    """As of the last ANALYZE: common words → the part of the papers that have them, and how many papers there are;
    nothing before the first."""
    found = connection.execute(
        "SELECT most_common_elems::text::text[], most_common_elem_freqs, reltuples * (1 - null_frac)"
        " FROM pg_stats JOIN pg_class ON pg_class.oid = %s::regclass"
        " WHERE schemaname = 'arxiv_embed' AND tablename = relname AND attname = 'words'",
        [rows_of(space).as_string(connection)],
    ).fetchone()
    if found is None or found[0] is None:
        return {}, 0
    words, shares, papers = found
    return dict(zip(words, shares, strict=False)), papers  # behind the shares stand their least and most


def _quoted(lexeme: str) -> str:
    doubled = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
