"""The command `search`: papers by meaning and words, or the neighbours of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.cli.wording import plural
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.searcher import Searcher
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.stores.protocol import Filters
from arxiv_embed.stores.search import Hit

CONTEXT = 160
"""Characters shown on either side of the matching chunk."""

OPENING, CLOSING = "»", "«"
WITHDRAWN = " (withdrawn)"


def search(
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.", show_default=False)] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many papers.")] = 10,
    like: Annotated[str | None, typer.Option(help="Find the neighbours of this paper instead.")] = None,
    category: Annotated[str | None, typer.Option(help="A category (cs.LG) or a whole archive (cs).")] = None,
    since: Annotated[str | None, typer.Option(help="Published on this day or later, YYYY-MM-DD.")] = None,
    until: Annotated[str | None, typer.Option(help="Published on this day or earlier.")] = None,
    withdrawn: Annotated[
        bool | None, typer.Option(help="Withdrawn papers alone, or the others alone.", show_default=False)
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="A space that `spaces` lists, or its model. [default: that of ARXIV_EMBED_MODEL]", show_default=False
        ),
    ] = None,
    db_name: ask.DbName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find papers by meaning and by words, the two rankings fused; or those nearest to one.

    Examples:

      arxiv-embed search "graph sparsity and rigidity" -k 5 --category math

      arxiv-embed search --like 0704.0002
    """
    if (query is None) == (like is None):
        raise ArxivEmbedError("Give a query or --like with a paper's id, one of the two.")
    filters = Filters(category, since, until, withdrawn)
    settings = settings_from_environment()
    with Searcher(settings, ask.store_url(db_name, settings), space) as searcher:
        if like is not None:
            hits = searcher.neighbours(like, k, filters)
        else:
            hits = searcher.search(query or "", k, filters)
    if as_json:
        typer.echo(json.dumps([hit.to_json() for hit in hits], indent=1, ensure_ascii=False))
    else:
        show(hits, open_console())


def show(hits: Sequence[Hit], console: Console) -> None:
    """The hits as a person reads them, the matching chunk marked in its paper."""
    if not hits:
        say(console, "No paper was found: try other words or fewer filters.")
    for number, hit in enumerate(hits, 1):
        paper = hit.paper
        facts = [paper.paper_id, paper.published or paper.updated, " ".join(paper.categories), _explained(hit)]
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


def _explained(hit: Hit) -> str:
    ranks = [("meaning", hit.vector_rank), ("words", hit.text_rank)]
    named = [f"{name} #{rank}" for name, rank in ranks if rank is not None]
    similarity = [f"cosine {hit.similarity:.3f}"] if hit.similarity is not None else []
    return ", ".join(named + similarity)
