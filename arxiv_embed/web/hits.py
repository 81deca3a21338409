"""Hits as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from markupsafe import Markup

from arxiv_embed.stores.protocol import StoredPaper
from arxiv_embed.stores.search import Hit
from arxiv_embed.web.categories import CATEGORY_NAMES
from arxiv_embed.web.forms import Form
from arxiv_embed.web.marking import excerpt, rendered

LONG_AUTHORS = 240
LONG_QUERY = 2_000
"""Beyond so many characters a query is not repeated with every category: a page of a hundred papers was 13 MB."""

BETWEEN_TITLE_AND_ABSTRACT = 2
"""Characters of a paper's text."""

EXPLANATION = (
    "By meaning: the place among all papers by the nearness of their vectors to the query's. By words: the place by "
    "the words that they share with it. Cosine: how near the marked passage is, 1 at most."
)


@dataclass(frozen=True)
class CategoryLink:
    """`address` is that of the same search in it alone; "" for a long query."""

    name: str
    title: str
    address: str


@dataclass(frozen=True)
class ShownHit:
    """`whole` is the abstract where `abstract` is a part of it; `ranks` says in words why it was found."""

    paper_id: str
    title: Markup
    authors: Markup
    more_authors: bool
    date: str
    categories: tuple[CategoryLink, ...]
    withdrawn: bool
    abstract: Markup
    whole: Markup | None
    is_cut_before: bool
    is_cut_after: bool
    ranks: str
    cut: str
    abs_url: str
    pdf_url: str
    similar: str


def abs_url(paper_id: str) -> str:
    return f"https://arxiv.org/abs/{quote(paper_id)}"


def pdf_url(paper_id: str) -> str:
    return f"https://arxiv.org/pdf/{quote(paper_id)}"


def shown(hit: Hit, form: Form) -> ShownHit:
    """A hit of the search that `form` asked for."""
    paper = hit.paper
    start, end = _passage(hit)
    low, high = excerpt(paper.abstract, start, end)
    is_part = (low, high) != (0, len(paper.abstract))
    authors, more = _first_authors(paper)
    return ShownHit(
        paper_id=paper.paper_id,
        title=rendered(paper.title),
        authors=rendered(authors),
        more_authors=more,
        date=paper.published or paper.updated,
        categories=tuple(
            CategoryLink(
                name, CATEGORY_NAMES.get(name, name), form.address(category=name) if len(form.q) <= LONG_QUERY else ""
            )
            for name in paper.categories
        ),
        withdrawn=paper.withdrawn,
        abstract=rendered(paper.abstract, start, end, low, high),
        whole=rendered(paper.abstract, start, end) if is_part else None,
        is_cut_before=low > 0,
        is_cut_after=high < len(paper.abstract),
        ranks=explained(hit),
        cut=_cut(paper.cut_tokens),
        abs_url=abs_url(paper.paper_id),
        pdf_url=pdf_url(paper.paper_id),
        similar=form.address(q="", like=paper.paper_id),
    )


def explained(hit: Hit) -> str:
    """1st by meaning, 3rd by words, cosine 0.61"""
    ranks = [("by meaning", hit.vector_rank), ("by words", hit.text_rank)]
    said = [f"{ordinal(rank)} {name}" for name, rank in ranks if rank is not None]
    return ", ".join(said + ([f"cosine {hit.similarity:.2f}"] if hit.similarity is not None else []))


def ordinal(number: int) -> str:
    """1st, 2nd, 11th, 21st"""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _passage(hit: Hit) -> tuple[int, int]:
    """The best chunk within the abstract; nothing where it is all of it, as there is then nothing to tell apart."""
    before = len(hit.paper.title) + BETWEEN_TITLE_AND_ABSTRACT
    start, end = max(0, hit.start - before), max(0, hit.end - before)
    return (0, 0) if start == 0 and end >= len(hit.paper.abstract) else (start, end)


def _first_authors(paper: StoredPaper) -> tuple[str, bool]:
    if len(paper.authors) <= LONG_AUTHORS:
        return paper.authors, False
    first = paper.authors[:LONG_AUTHORS]
    return first[: first.rfind(", ")] if ", " in first else first, True


def _cut(tokens: int | None) -> str:
    if not tokens:
        return ""
    return f"not embedded: its last {tokens:,} token{'' if tokens == 1 else 's'}, beyond the token limit"
