"""Formats: papers found, as a person reads them, as notes quote them, or as other programs take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from arxiv_embed.citations import arxiv_url, bibtex
from arxiv_embed.cli.markdown import escaped, with_bold
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.stores.protocol import StoredPaper
from arxiv_embed.stores.search import MEANING, WORDS, Hit
from arxiv_embed.wording import plural

CONTEXT = 160
"""Characters shown on either side of the matching chunk."""

OPENING, CLOSING = "»", "«"
WITHDRAWN = " (withdrawn)"
NONE_FOUND = "No paper was found: try other words or fewer filters."


class Format(StrEnum):
    """How hits are printed."""

    TEXT = "text"
    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"
    BIBTEX = "bibtex"


def print_hits(hits: Sequence[Hit], form: Format) -> None:
    """On standard output. Where there are none, all but JSON say so; BibTeX takes that line for a comment."""
    console = open_console()
    if form is Format.JSON:
        typer.echo(json.dumps([hit.to_json() for hit in hits], indent=1, ensure_ascii=False))
    elif not hits:
        say(console, NONE_FOUND)
    elif form is Format.MARKDOWN:
        typer.echo(markdown(hits))
    elif form is Format.BIBTEX:
        typer.echo(bibtex(hit.paper for hit in hits), nl=False)
    elif form is Format.TABLE:
        console.print(table(hits))
    else:
        show(hits, console)


def show(hits: Sequence[Hit], console: Console) -> None:
    """The hits as a person reads them, the matching chunk marked in its paper."""
    for number, hit in enumerate(hits, 1):
        paper = hit.paper
        facts = [paper.paper_id, _day(paper), " ".join(paper.categories), explained(hit)]
        grid = Table.grid(padding=(0, 1))
        grid.add_column(justify="right", width=len(str(len(hits))) + 1)
        grid.add_row(f"{number}.", Text.assemble((paper.title, "bold"), (WITHDRAWN if paper.withdrawn else "", "red")))
        grid.add_row("", Text(" · ".join(fact for fact in facts if fact), style="dim"))
        grid.add_row("", excerpt(hit, marks=not console.is_terminal))
        if paper.cut_tokens:
            cut = f"not embedded: its last {plural(paper.cut_tokens, 'token')}, beyond the token limit"
            grid.add_row("", Text(cut, style="dim"))
        console.print(grid)
        console.print()


def excerpt(hit: Hit, *, marks: bool) -> Text:
    """The matching chunk with a little of its paper around it; with `marks` it stands between » and «."""
    before, after = hit.text[: hit.start], hit.text[hit.end :]
    head = f"… {before[-CONTEXT:].partition(' ')[2]}" if len(before) > CONTEXT else before
    tail = f"{after[:CONTEXT].rpartition(' ')[0]} …" if len(after) > CONTEXT else after
    chunk = f"{OPENING}{hit.matching_chunk}{CLOSING}" if marks else hit.matching_chunk
    parts = [(head, ""), (chunk, "" if marks else "bold green"), (tail, "")]
    return Text.assemble(*((part.replace("\n\n", " — "), style) for part, style in parts))


def table(hits: Sequence[Hit]) -> Table:
    """A line a hit: what the text says in prose, in columns."""
    numbers = (Column(heading, justify="right", no_wrap=True) for heading in ("score", MEANING, WORDS, "cosine"))
    facts = (Column(heading, no_wrap=True) for heading in ("paper", "date", "category"))
    rows = Table(Column(justify="right", no_wrap=True), *facts, "title", *numbers, box=None, pad_edge=False)
    for number, hit in enumerate(hits, 1):
        paper = hit.paper
        title = f"{paper.title}{WITHDRAWN if paper.withdrawn else ''}"
        parts = (f"{hit.parts[name]:.4f}" if name in hit.parts else "-" for name in (MEANING, WORDS))
        cosine = "-" if hit.similarity is None else f"{hit.similarity:.3f}"
        category = next(iter(paper.categories), "")
        rows.add_row(str(number), paper.paper_id, _day(paper), category, title, f"{hit.score:.4f}", *parts, cosine)
    return rows


def markdown(hits: Sequence[Hit]) -> str:
    """A numbered list with links to arXiv, each abstract quoted with the matching chunk in bold."""
    items = []
    for number, hit in enumerate(hits, 1):
        paper = hit.paper
        abstract_begins = len(hit.text) - len(paper.abstract)
        quoted = with_bold(paper.abstract, hit.start - abstract_begins, hit.end - abstract_begins)
        link = f"[arXiv:{paper.paper_id}]({arxiv_url(paper.paper_id)})"
        facts = [link, _day(paper), escaped(", ".join(paper.categories)), explained(hit)]
        mark = f"{number}. "
        lines = [
            f"**{escaped(paper.title)}**{WITHDRAWN if paper.withdrawn else ''}  ",
            " · ".join(fact for fact in facts if fact),
            "",
            f"> {quoted}",
        ]
        items.append(
            "\n".join((mark if not at else " " * len(mark) if line else "") + line for at, line in enumerate(lines))
        )
    return "\n\n".join(items)


def explained(hit: Hit) -> str:
    """The score and what it is the sum of, and the best chunk's cosine: "score 0.0325 = meaning #1 0.0164 + words #3
    0.0159, cosine 0.512"."""
    ranks = {MEANING: hit.vector_rank, WORDS: hit.text_rank}
    parts = " + ".join(f"{name} #{ranks[name]} {part:.4f}" for name, part in hit.parts.items())
    similarity = "" if hit.similarity is None else f", cosine {hit.similarity:.3f}"
    return f"score {hit.score:.4f} = {parts}{similarity}"


def _day(paper: StoredPaper) -> str:
    return paper.published or paper.updated
