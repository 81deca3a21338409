"""The command `bench`: measured values beside their targets."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Annotated

import typer
from rich.table import Table

from arxiv_embed.cli.checkout import REPOSITORY, in_checkout
from arxiv_embed.cli.terminal import open_console
from arxiv_embed.errors import ArxivEmbedError

TARGET_MISSED = 1


def bench(
    name: Annotated[str | None, typer.Argument(help="Which; without it, all are listed.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure, and print a table of measured value, target and verdict. Exit code 1 where a target is missed.

    Example: arxiv-embed bench embed
    """
    in_checkout("bench", "bench")
    sys.path.insert(0, str(REPOSITORY))
    catalogue = importlib.import_module("bench.catalogue")
    if name is None:
        for known, module in catalogue.BENCHES.items():
            typer.echo(f"{known:12} {catalogue.describe(module)}")
        return
    if name not in catalogue.BENCHES:
        raise ArxivEmbedError(f"There is no bench '{name}': choose one of {', '.join(catalogue.BENCHES)}.")
    metrics = catalogue.load(name)()
    if as_json:
        typer.echo(json.dumps(catalogue.to_json(name, metrics), indent=1))
    else:
        table = Table("metric", box=None, pad_edge=False, header_style="dim")
        for column in ("measured", "unit", "target", "verdict"):
            table.add_column(column, justify="left" if column == "unit" else "right")
        for metric in metrics:
            table.add_row(metric.name, *metric.cells)
        open_console().print(table)
    if any(metric.ok is False for metric in metrics):
        raise typer.Exit(TARGET_MISSED)
