"""The command `arxiv-embed`: all its commands."""

from __future__ import annotations

import typer

from arxiv_embed.cli import checkpoint
from arxiv_embed.cli.bench import bench
from arxiv_embed.cli.demo import demo
from arxiv_embed.cli.doctor import doctor
from arxiv_embed.cli.export import export
from arxiv_embed.cli.harvest import harvest
from arxiv_embed.cli.monitor import monitor
from arxiv_embed.cli.plan import plan
from arxiv_embed.cli.report import report
from arxiv_embed.cli.run import run
from arxiv_embed.cli.search import search
from arxiv_embed.cli.serve import serve
from arxiv_embed.cli.spaces import spaces
from arxiv_embed.cli.status import status

app = typer.Typer(
    help="Turns a folder of arXiv metadata into a searchable vector store.",
    epilog="Exit codes: 0 all done, 1 something failed and is listed, 2 bad input, 130 interrupted and saved.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    run,
    plan,
    status,
    monitor,
    report,
    doctor,
    search,
    serve,
    export,
    spaces,
    harvest,
    demo,
    bench,
):
    app.command()(command)
app.add_typer(checkpoint.app, name="checkpoint")
