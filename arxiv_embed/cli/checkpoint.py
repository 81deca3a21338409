"""The commands `checkpoint show|verify|export|restore`: what is kept of each shard, whether it is whole, and how to get
an earlier state back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import uuid4

import typer
from rich.table import Column, Table

from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.cli import options as ask
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.history import history_path, load_history, present_history
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.wording import count, plural, size

DAMAGED = 1
PATTERNS_SHOWN = 10

app = typer.Typer(help="Look at, verify, export and restore checkpoints.", no_args_is_help=True)

Shards = Annotated[list[str] | None, typer.Argument(help="Shards; without any, all.", show_default=False)]


@app.command()
def show(
    shards: Shards = None,
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    checkpoint_dir: ask.CheckpointDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole history document.")] = False,
) -> None:
    """Show what is kept of each shard, what failed and how often, and which errors repeat.

    Example: arxiv-embed checkpoint show
    """
    settings = settings_from_environment()
    store = _store(checkpoint_dir)
    url = ask.store_url(db_name, settings, db_host, db_port, db_user)
    history = present_history(settings, store_url=url, checkpoints=store)
    if as_json:
        typer.echo(history.to_json())
        return
    console = open_console()
    table = Table(Column("shard", overflow="fold"), "asset", "space", box=None, pad_edge=False, header_style="dim")
    for column in ("generation", "papers", "size"):
        table.add_column(column, justify="right")
    table.add_column("committed")
    for manifest in _manifests(store, shards):
        key = manifest.key
        papers = count(manifest.counts["papers"]) if "papers" in manifest.counts else ""
        bytes_kept = size(sum(file.bytes for file in manifest.files.values()))
        generation = str(manifest.generation)
        table.add_row(key.shard, key.asset, key.space or "-", generation, papers, bytes_kept, manifest.created)
    if table.row_count:
        console.print(table)
    else:
        say(console, "No checkpoint is kept yet: `arxiv-embed run --metadata-dir DIR` makes some.")
    for shard, failed in history.failed_files.items():
        if not shards or shard in shards:
            given_up = ", given up" if failed.given_up else ""
            say(console, f"failed: {shard}: {failed.error} ({plural(failed.attempts, 'attempt')}{given_up})")
    for pattern in history.error_patterns.patterns()[:PATTERNS_SHOWN]:
        say(console, f"{pattern.count}×, last {pattern.last}, {pattern.kind}: {pattern.signature}")


@app.command()
def verify(
    checkpoint_dir: ask.CheckpointDir = None,
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set damaged files aside, so that backups are used.")
    ] = False,
) -> None:
    """Read every byte of all generations, segments and the history, and say what is damaged (exit code 1).

    Example: arxiv-embed checkpoint verify --repair
    """
    settings = settings_from_environment()
    console = open_console()
    items = read = damaged = 0
    for item in _store(checkpoint_dir).verify(repair=repair):
        items, read = items + 1, read + item.bytes
        if item.damage is not None:
            damaged += 1
            say(console, str(item.damage))
    of_history: list[Damage] = []
    url = ask.store_url(db_name, settings, db_host, db_port, db_user)
    load_history(history_path(settings, url), of_history.append, sets_aside=repair)
    for damage in of_history:
        say(console, str(damage))
    damaged += len(of_history)
    verdict = plural(damaged, "damaged file") if damaged else "all whole"
    say(console, f"{plural(items, 'checkpoint')}, {size(read)}: {verdict}")
    if damaged:
        done = "set aside: `arxiv-embed run` does again what has no backup" if repair else "--repair sets them aside"
        say(console, done)
        raise typer.Exit(DAMAGED)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder, which can then be given as --checkpoint-dir.")],
    shards: Shards = None,
    checkpoint_dir: ask.CheckpointDir = None,
) -> None:
    """Copy the newest whole generation of each shard to a folder of its own.

    Example: arxiv-embed checkpoint export /backup/arxiv cs.jsonl
    """
    store = _store(checkpoint_dir)
    keys = [manifest.key for manifest in _manifests(store, shards)]
    exported = store.export(folder.expanduser().absolute(), keys)
    console = open_console()
    say(console, f"{plural(exported, 'checkpoint')} of {plural(len({key.shard for key in keys}), 'shard')} → {folder}")
    if exported < len(keys):
        say(console, f"{plural(len(keys) - exported, 'checkpoint')} left out, being damaged: see `arxiv-embed status`")
        raise typer.Exit(DAMAGED)


@app.command()
def restore(
    shard: Annotated[str, typer.Argument(help="The shard.")],
    checkpoint_dir: ask.CheckpointDir = None,
) -> None:
    """Return a shard to its generation before; the present one becomes the backup, so a second time undoes the first.

    Example: arxiv-embed checkpoint restore cs.jsonl
    """
    store = _store(checkpoint_dir)
    console = open_console()
    restored: list[Manifest] = []
    refusals: list[str] = []
    for manifest in _manifests(store, [shard]):  # embeddings first: whoever works on a shard holds their lock
        try:
            restored.append(store.restore(manifest.key, run_id=f"restore-{uuid4()}"))
        except Locked:
            raise
        except ArxivEmbedError as refusal:
            refusals.append(str(refusal))
    if not restored:
        raise ArxivEmbedError(refusals[0])
    for manifest in restored:
        origin = manifest.details["restored_generation"]
        say(console, f"{manifest.key}: generation {manifest.generation} is what generation {origin} was")
    for reason in refusals:
        say(console, reason)
    say(console, "`arxiv-embed run` brings the store up to date; a source that has changed since is read again.")


def _store(folder: Path | None) -> CheckpointStore:
    return CheckpointStore(folder.expanduser().absolute() if folder else settings_from_environment().checkpoints)


def _manifests(store: CheckpointStore, shards: list[str] | None) -> list[Manifest]:
    """Those of the shards, or all; raises `ArxivEmbedError` for a shard of which nothing is kept."""
    manifests = [manifest for key in store.keys() if (manifest := store.manifest(key)) is not None]  # noqa: SIM118
    for shard in shards or ():
        if not any(manifest.key.shard == shard for manifest in manifests):
            raise ArxivEmbedError(f"No checkpoint of a shard '{shard}' is kept: `checkpoint show` lists them.")
    return [manifest for manifest in manifests if not shards or manifest.key.shard in shards]
