"""The command `serve`: the search page and the JSON API."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.main import INTERRUPTED
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.searcher import Searcher
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.wording import plural

WARMING_QUERY = "a first query, so that the next one is fast"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8780,
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
) -> None:
    """Serve the search page and the JSON API, until Ctrl-C.

    Whoever reaches the port may search: it asks for no password and changes nothing.

    Example: arxiv-embed serve --port 8780
    """
    from arxiv_embed.web.application import create_app
    from arxiv_embed.web.server import PageServer, address_of, is_open, listening

    console = open_console()
    settings = settings_from_environment()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)  # on standard error
    with (
        listening(host, port) as bound,
        Searcher(settings, ask.store_url(db_name, settings, db_host, db_port, db_user), space) as searcher,
    ):
        papers, _ = searcher.store.count(searcher.space.fingerprint)
        searcher.search(WARMING_QUERY, 1)
        app = create_app(searcher)
        app.state.service.catalog.contents()
        say(console, f"{plural(papers, 'paper')} of {searcher.store.url} by {searcher.space.model}")
        if is_open(bound):
            say(console, "Open to other machines: whoever reaches this port may search, without a password.")
        server = PageServer(app)
        say(console, f"Search page and API: {address_of(bound)} (Ctrl-C ends it)")
        server.run(sockets=[bound])
        say(console, "Ended.")
    if server.interrupted:
        raise typer.Exit(INTERRUPTED)
