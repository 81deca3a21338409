"""The command `arxiv-embed`: its commands, and the exit codes that all of them keep."""

from __future__ import annotations

import sys

import typer

from arxiv_embed.cli.bench import bench
from arxiv_embed.cli.demo import demo
from arxiv_embed.cli.plan import plan
from arxiv_embed.cli.run import run
from arxiv_embed.cli.search import search
from arxiv_embed.cli.status import status
from arxiv_embed.settings import ArxivEmbedError

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Turns a folder of arXiv metadata into a searchable vector store.",
    epilog="Exit codes: 0 all done, 1 something failed and is listed, 2 bad input, 130 interrupted and saved.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (run, plan, status, search, demo, bench):
    app.command()(command)


def main() -> None:
    """What the installed script calls: an error that the user can mend is one sentence and exit code 2."""
    try:
        app()
    except ArxivEmbedError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
