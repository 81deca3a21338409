"""The command `search`: papers by meaning and words, or the neighbours of one."""

from __future__ import annotations

from typing import Annotated

import typer

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.formats import Format, print_hits
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.searcher import Searcher
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.stores.protocol import Filters


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
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    form: Annotated[Format, typer.Option("--format", help="How to print what was found.")] = Format.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Find papers by meaning and by words, the two rankings fused; or those nearest to one.

    A score is the sum of 1 / (60 + rank) over the two; the cosine, of the best chunk, counts for nothing in it.

    Examples:

      arxiv-embed search "graph sparsity and rigidity" -k 5 --category math

      arxiv-embed search --like 0704.0002

      arxiv-embed search "hadron colliders" --since 2007-01-01 --no-withdrawn --format bibtex > colliders.bib
    """
    if (query is None) == (like is None):
        raise ArxivEmbedError("Give a query or --like with a paper's id, one of the two.")
    if as_json:
        if form not in (Format.TEXT, Format.JSON):
            raise ArxivEmbedError(f"--json and --format {form} contradict each other: give one of the two.")
        form = Format.JSON
    filters = Filters(category, since, until, withdrawn)
    settings = settings_from_environment()
    with Searcher(settings, ask.store_url(db_name, settings, db_host, db_port, db_user), space) as searcher:
        if like is not None:
            hits = searcher.neighbours(like, k, filters)
        else:
            hits = searcher.search(query or "", k, filters)
    print_hits(hits, form)
