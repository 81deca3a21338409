"""Words: a full-text query as PostgreSQL is asked it, any word of it enough, rare ones worth more.

PostgreSQL's own ranking knows nothing of how rare a word is; its statistics do, as far as it is common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from arxiv_embed.stores.postgres.rows import storable
from arxiv_embed.stores.postgres.server import Connection

LONGEST_QUERY = 2_000
"""Characters of a query that are used; what follows adds nothing to the ranking but time."""
MOST_WORDS = 32
"""The rarest of a query; each is looked for in every paper that is ranked."""
ENOUGH = 0.2
"""Of all papers: once the rarer words are found in so many, the papers that have a commoner one only are not ranked, as
they would come last."""


@dataclass(frozen=True)
class Words:
    """The words of a query, the rarest first, with what each is worth; those that select are `selecting` of them."""

    words: tuple[str, ...]
    worth: tuple[float, ...]
    selecting: int

    @property
    def any_of_the_rarer(self) -> str:
        return " | ".join(self.words[: self.selecting])

    @property
    def any(self) -> str:
        return " | ".join(self.words)


def words_of(connection: Connection, space: str, text: str) -> Words:
    """The words of any text, brought to their stems; none where it has nothing but stop words."""
    found = connection.execute(
        "SELECT lexeme FROM unnest(to_tsvector('pg_catalog.english', %s))", [storable(text[:LONGEST_QUERY])]
    ).fetchall()
    return ranked([lexeme for (lexeme,) in found], _shares(connection, space) if found else {})


def ranked(lexemes: Sequence[str], shares: Mapping[str, float]) -> Words:
    """`shares` says of common words in which part of the papers they are found; one that is not there is rarer."""
    rare = min(shares.values(), default=0.5) / 2
    share = {lexeme: shares.get(lexeme, rare) for lexeme in lexemes}
    rarest = sorted(lexemes, key=lambda lexeme: (share[lexeme], lexeme))[:MOST_WORDS]
    selecting, together = 0, 0.0
    while selecting < len(rarest) and together < ENOUGH:
        together += share[rarest[selecting]] if shares else 0.0
        selecting += 1
    worth = tuple(math.log1p(1 / share[lexeme]) for lexeme in rarest)
    return Words(tuple(map(_quoted, rarest)), worth, selecting)


def _shares(connection: Connection, space: str) -> dict[str, float]:
    """Common words → the part of the papers that have them, as of the last ANALYZE; empty before the first."""
    found = connection.execute(
        "SELECT most_common_elems::text::text[], most_common_elem_freqs FROM pg_stats"
        " WHERE schemaname = 'arxiv_embed' AND tablename = %s AND attname = 'words'",
        [f"rows_{space}"],
    ).fetchone()
    if found is None or found[0] is None:
        return {}
    return dict(zip(*found, strict=False))  # behind the frequencies stand their least and most


def _quoted(lexeme: str) -> str:
    doubled = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
