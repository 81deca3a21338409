"""The command `spaces`: what a store holds side by side, and the end of one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.encoding.recipe import RETRIEVAL
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import masked
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.stores.naming import by_default, space_named
from arxiv_embed.stores.protocol import NoStore, open_store
from arxiv_embed.wording import count, plural


@dataclass(frozen=True)
class Held:
    """What the store has of a space."""

    space: Space
    shards: int
    papers: int
    rows: int


def spaces(
    drop: Annotated[
        str | None,
        typer.Option(help="Remove this space from the store: its fingerprint, or its model.", show_default=False),
    ] = None,
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the spaces of a store: what was embedded with which model, and how.

    A run with another model, chunker or limit adds one; vectors of two never mix. `search --space` names one.

    Example: arxiv-embed spaces --drop all-MiniLM-L6-v2
    """
    settings = settings_from_environment()
    url = ask.store_url(db_name, settings, db_host, db_port, db_user)
    if drop is not None:
        with open_store(url) as store:
            space = space_named(store, drop, whole=True)
            papers, rows = store.count(space.fingerprint)
            store.drop(space.fingerprint)
        say(
            open_console(),
            f"Removed from {masked(url)}: {plural(papers, 'paper')}, {plural(rows, 'row')} of {described(space)}. Its "
            "checkpoints stay: a run with the same model and chunker puts it back, and embeds nothing.",
        )
        return
    held = held_by_store(url)
    if as_json:
        typer.echo(json.dumps([_as_json(one) for one in held], indent=1, ensure_ascii=False))
    elif held:
        show(held, settings.model, open_console())
    else:
        say(open_console(), f"{masked(url)} holds nothing yet: fill it with `arxiv-embed run --metadata-dir DIR`.")


def show(held: Sequence[Held], model: str, console: Console) -> None:
    """A line a space."""
    numbers = (Column(heading, justify="right") for heading in ("papers", "rows", "shards"))
    table = Table("space", Column("model", overflow="fold"), "vectors", *numbers, box=None)
    for one in held:
        amounts = (count(number) for number in (one.papers, one.rows, one.shards))
        table.add_row(one.space.fingerprint, one.space.model, recipe(one.space), *amounts)
    console.print(table)
    if len(held) > 1:
        default = by_default([one.space for one in held], model)
        say(console, f"`search` takes {default.fingerprint}, unless --space names another")


def recipe(space: Space) -> str:
    """How a space's vectors are made, the model aside."""
    tokens = f"{space.max_tokens} tokens, paper vectors from the first {space.paper_reach}"
    task = "" if space.task == RETRIEVAL else f", for {space.task}"
    return f"{space.dimensions} dimensions, {space.chunker}, {tokens}{task}"


def described(space: Space) -> str:
    return f"{space.model}, {recipe(space)} (space {space.fingerprint})"


def held_by_store(url: str) -> list[Held]:
    """What the store has, space by space, the last begun first; nothing where there is no store."""
    try:
        store = open_store(url)
    except NoStore:
        return []
    with store:
        return [
            Held(space, len(store.shards(space.fingerprint)), *store.count(space.fingerprint))
            for space in store.spaces()
        ]


def _as_json(held: Held) -> dict[str, object]:
    amounts = {"papers": held.papers, "rows": held.rows, "shards": held.shards}
    return {"space": held.space.fingerprint, **asdict(held.space), **amounts}
