"""Citations: stored papers as BibTeX, in the form that arXiv gives."""

from __future__ import annotations

import re
from collections.abc import Iterable

from arxiv_embed.metadata.authors import Author, AuthorLine, split_authors
from arxiv_embed.metadata.ids import month_of
from arxiv_embed.metadata.latex import ascii_letters, math_spans, unmatched_braces
from arxiv_embed.stores.protocol import StoredPaper

ABSTRACT_PAGE = "https://arxiv.org/abs/"
LONGEST_WORD = 40
NOBODY = "arxiv"
"""Begins the key of a paper without authors."""

ARXIV_BEGAN = 91
"""Two digits of a year from here on are of the twentieth century."""

_SMALL_WORD = re.compile(
    "an?|and|are|as|at|by|can|do|does|for|from|how|in|into|is|its?|of|on|or|some|the|their|to|via|"
    "what|when|where|which|why|with|without"
)
_SPECIAL = re.compile(r"\\.|[%&#_^{}$\\]", re.DOTALL)


def arxiv_url(paper_id: str) -> str:
    return f"{ABSTRACT_PAGE}{paper_id}"


def bibtex(papers: Iterable[StoredPaper]) -> str:
    """An `@misc` entry a paper, an empty line between two; each with a key of its own, as `streinu2007sparsity`.

    LaTeX is left as it is, and what LaTeX would take for its own is escaped. The year is that of the first version,
    where arXiv gives that of the last: what the records have of later days is often a change of the metadata alone.
    """
    taken: set[str] = set()
    entries = []
    for paper in papers:
        line = split_authors(paper.authors)
        key = _unused(_key(paper, line), taken)
        taken.add(key)
        entries.append(_entry(key, paper, line))
    return "\n".join(entries)


def _entry(key: str, paper: StoredPaper, line: AuthorLine) -> str:
    names = [*map(_name, line.authors), *(["others"] if line.and_others and line.authors else [])]
    fields = {
        "title": _safe(paper.title),
        "author": " and ".join(names),
        "year": _year(paper),
        "eprint": paper.paper_id,
        "archivePrefix": "arXiv",
        "primaryClass": paper.categories[0] if paper.categories else "",
        "url": arxiv_url(paper.paper_id),
    }
    lines = [f"      {name}={{{value}}},\n" for name, value in fields.items() if value]
    return f"@misc{{{key},\n{''.join(lines)}}}\n"


def _name(author: Author) -> str:
    given, family, suffix = author.parts
    if author.is_group:
        return f"{{{_safe(family)}}}"
    return _safe(f"{family}, {suffix}, {given}" if suffix and given else author.name)


def _year(paper: StoredPaper) -> str:
    if day := paper.published:
        return day[:4]
    digits = month_of(paper.paper_id)[:2]
    return f"{19 if int(digits) >= ARXIV_BEGAN else 20}{digits}"


def _key(paper: StoredPaper, line: AuthorLine) -> str:
    family = line.authors[0].parts[1].split(" ")[-1] if line.authors else ""
    words = map(_letters, ascii_letters(paper.title).split())
    title = next((word for word in words if word and not _SMALL_WORD.fullmatch(word)), _letters(paper.paper_id))
    return f"{_letters(ascii_letters(family)) or NOBODY}{_year(paper)}{title[:LONGEST_WORD]}"


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _unused(key: str, taken: set[str]) -> str:
    number, free = 1, key
    while free in taken:
        number += 1
        free = f"{key}-{number}"
    return free


def _safe(text: str) -> str:
    r"""The text as the inside of braces: no brace without its partner, `%` escaped everywhere, `&`, `#`, `_` and `^`
    outside formulas; what is escaped already stays."""
    unmatched = unmatched_braces(text)
    formulas = {place for start, end in math_spans(text) for place in range(start, end)}

    def escaped(found: re.Match[str]) -> str:
        token, last = found[0], found.end() - 1
        if last in unmatched:
            left = token[-1] == "{"
            name = ("lbrace" if left else "rbrace") if last in formulas else f"textbrace{'left' if left else 'right'}"
            return f"\\{name}{{}}" if len(token) == 2 else ""
        if token == r"\\" and text[found.end() : found.end() + 1] in ("", "{", "}"):
            return r"\\ "  # there, readers of BibTeX may take its second stroke for the brace's
        if len(token) == 2 or token in "{}" or (last in formulas and token != "%"):
            return token
        return {"^": r"\^{}", "\\": r"\textbackslash{}"}.get(token, f"\\{token}")

    return _SPECIAL.sub(escaped, text)
