"""The command `export`: a store's vectors as files for pandas, DuckDB, `datasets` and NumPy."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.spaces import described
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.encoding.space import Space
from arxiv_embed.export import Exported, Form, export_store
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.stores.naming import space_named
from arxiv_embed.stores.protocol import StoreError, VectorStore, open_store
from arxiv_embed.wording import duration, plural, size

INTERRUPTED = 130


def export(
    target: Annotated[Path, typer.Argument(help="A new or empty folder; or, for one space, a file NAME.parquet.")],
    form: Annotated[Form, typer.Option("--format", help="What to write.")] = Form.PARQUET,
    space: Annotated[
        str | None,
        typer.Option(help="A space that `spaces` lists, or its model. [default: all]", show_default=False),
    ] = None,
    papers_only: Annotated[bool, typer.Option("--papers-only", help="Whole papers' vectors, without chunks'.")] = False,
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
) -> None:
    """Write the store's vectors, with what they are of, to files that other programs read.

    Parquet: a file a space, named by its fingerprint, with every row and its vector.

    NumPy: a folder a space; row i of vectors.npy (float32, can be mapped into memory) is that of rows.parquet.

    spaces.json beside them says what the vectors of each space mean.

    Examples:

      arxiv-embed export vectors

      arxiv-embed export papers.parquet --space all-MiniLM-L6-v2 --papers-only

      arxiv-embed export matrix --format numpy
    """
    settings = settings_from_environment()
    console = open_console()
    began = time.monotonic()
    place = target.expanduser().absolute()
    with open_store(ask.store_url(db_name, settings, db_host, db_port, db_user)) as store:
        meant = _with_rows(store) if space is None else [space_named(store, space, settings.model)]
        count = sum(store.count(one.fingerprint)[0 if papers_only else 1] for one in meant)
        try:
            with _progress(console) as progress:
                task = progress.add_task("rows", total=count)
                exported = export_store(
                    store,
                    meant,
                    place,
                    form,
                    papers_only=papers_only,
                    on_rows=lambda rows: progress.advance(task, rows),
                )
        except KeyboardInterrupt:
            say(console, "Interrupted: nothing was exported.")
            raise typer.Exit(INTERRUPTED) from None
    _sum_up(exported, target, time.monotonic() - began, console)


def _with_rows(store: VectorStore) -> list[Space]:
    """All but those whose removal was interrupted."""
    held = [space for space in store.spaces() if store.count(space.fingerprint)[1]]
    if not held:
        raise StoreError(f"The store {store.url} is empty: fill it with `arxiv-embed run --metadata-dir DIR`.")
    return held


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _sum_up(exported: Sequence[Exported], target: Path, seconds: float, console: Console) -> None:
    for one in exported:
        say(console, f"{plural(one.papers, 'paper')}, {plural(one.rows, 'row')} of {described(one.space)}")
        for name in one.files if target.suffix != ".parquet" else ():
            say(console, f"  {target / name}")
    rows, written = sum(one.rows for one in exported), sum(one.bytes for one in exported)
    say(console, f"{plural(rows, 'row')}, {size(written)} → {target} in {duration(seconds)}")
