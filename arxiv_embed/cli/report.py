"""The command `report`: what a run did and what to change, as one page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.run import shown
from arxiv_embed.cli.terminal import complain
from arxiv_embed.runs import find_record
from arxiv_embed.settings import settings_from_environment

Named = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="A run's id or its beginning; default: the last run.")
]
Output = Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Where to; default: beside its record.")]
Open = Annotated[bool, typer.Option("--open", help="Show it in the browser.")]


def report(
    run: Named = None, output: Output = None, checkpoint_dir: ask.CheckpointDir = None, open_it: Open = False
) -> None:
    """Write the report of a run: what it did, in pictures and tables, and what to change.

    Every run leaves one; this makes it again, also of a run that was killed or is going on.

    Examples:

      arxiv-embed report --open

      arxiv-embed report 4f2a91c0 --output report.html
    """
    from arxiv_embed.report.writing import write_report  # so that no other command waits for what it needs

    settings = settings_from_environment()
    checkpoints = checkpoint_dir.expanduser().absolute() if checkpoint_dir else settings.checkpoints
    where = output.expanduser().absolute() if output else None
    written = write_report(settings, find_record(settings, run).parent.name, checkpoints, where)
    typer.echo(shown(written))
    if open_it and not webbrowser.open(written.as_uri()):
        complain("No browser was found here: open that file in one.")
