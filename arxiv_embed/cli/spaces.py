"""The command `spaces`: what a store holds side by side, and the end of one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.cli.wording import count, plural
from arxiv_embed.encoding.hub import cached_commit
from arxiv_embed.encoding.model import BUNDLED_NAMES, COMMIT
from arxiv_embed.encoding.recipe import RETRIEVAL
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import DEFAULT_MODEL, RunOptions, settings_from_environment
from arxiv_embed.stores.protocol import StoreError, VectorStore, open_store


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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the spaces of a store: what was embedded with which model, and how.

    A run with another model, chunker or limit adds one; vectors of two never mix. `search --space` names one.

    Example: arxiv-embed spaces --drop all-MiniLM-L6-v2
    """
    settings = settings_from_environment()
    url = ask.store_url(db_name, settings)
    if drop is not None:
        with open_store(url) as store:
            space = space_named(store, drop, whole=True)
            papers, rows = store.count(space.fingerprint)
            store.drop(space.fingerprint)
        say(
            open_console(),
            f"Removed from {url}: {plural(papers, 'paper')}, {plural(rows, 'row')} of {described(space)}. Its "
            "checkpoints stay: a run with the same model and chunker puts it back, and embeds nothing.",
        )
        return
    held = held_by_store(url)
    if as_json:
        typer.echo(json.dumps([_as_json(one) for one in held], indent=1, ensure_ascii=False))
    elif held:
        show(held, settings.model, open_console())
    else:
        say(open_console(), f"{url} holds nothing yet: fill it with `arxiv-embed run --metadata-dir DIR`.")


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


def space_named(store: VectorStore, name: str | None, model: str = DEFAULT_MODEL, *, whole: bool = False) -> Space:
    """The space that a fingerprint (or how it begins, unless it must be `whole`) or a model names; without a name the
    one `by_default`. Raises `ArxivEmbedError` where it names none, or several."""
    held = store.spaces()
    if not held:
        raise StoreError(f"The store {store.url} is empty: fill it with `arxiv-embed run --metadata-dir DIR`.")
    if name is None:
        return by_default(held, model)
    end = None if whole else len(name)
    meant = [space for space in held if name and (space.fingerprint[:end] == name or _is_of(space, name))]
    if len(meant) == 1:
        return meant[0]
    which = "; ".join(f"{space.fingerprint} ({space.model}, {space.chunker})" for space in meant or held)
    problem = "names several spaces" if meant else "names no space"
    raise ArxivEmbedError(f"'{name}' {problem} of {store.url}: give one of {which}.")


def by_default(held: Sequence[Space], model: str) -> Space:
    """Of that model, where there is none of another of its revisions, else of any: the last begun with the usual
    chunker, or with any, so that what is tried beside does not change what is searched."""
    names = (model,) if Path(model).is_absolute() else (model, model.partition("@")[0])
    among = next((its for name in names if (its := [space for space in held if _is_of(space, name)])), held)
    return next((space for space in among if space.chunker == RunOptions.chunker), among[0])


def _is_of(space: Space, model: str) -> bool:
    """Whether a name, as a run would be given it, is that of the space's model."""
    name, _, revision = model.partition("@")
    if space.model == name and not Path(name).is_absolute():  # a name on the hub
        return not revision or space.revision == (revision if COMMIT.fullmatch(revision) else cached_commit(model))
    names = (model, str(Path(model).expanduser().absolute()), *(BUNDLED_NAMES[:1] if model in BUNDLED_NAMES else ()))
    return space.model in names


def held_by_store(url: str) -> list[Held]:
    """What the store has, space by space, the last begun first; nothing where there is no store."""
    try:
        store = open_store(url)
    except StoreError:
        if "://" in url:
            raise
        return []
    with store:
        return [
            Held(space, len(store.shards(space.fingerprint)), *store.count(space.fingerprint))
            for space in store.spaces()
        ]


def _as_json(held: Held) -> dict[str, object]:
    amounts = {"papers": held.papers, "rows": held.rows, "shards": held.shards}
    return {"space": held.space.fingerprint, **asdict(held.space), **amounts}
