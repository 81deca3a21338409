"""The command `status`: what the last run did, and what checkpoints and store hold."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checkpoint.quarantine import Damage, Quarantine
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.cli import options as ask
from arxiv_embed.cli.spaces import Held, described, held_by_store
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.cli.wording import papers_done
from arxiv_embed.errors import masked
from arxiv_embed.progress import RunProgress
from arxiv_embed.runs import last_run
from arxiv_embed.settings import Settings, settings_from_environment
from arxiv_embed.wording import duration, plural

DAMAGES_SHOWN = 5


def status(
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    checkpoint_dir: ask.CheckpointDir = None,
    rejects: Annotated[bool, typer.Option("--rejects", help="List what is no paper, and why.")] = False,
    failures: Annotated[bool, typer.Option("--failures", help="List papers that no device could embed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what the last run did, and what checkpoints and store hold.

    Example: arxiv-embed status --rejects
    """
    settings = settings_from_environment()
    checkpoints = CheckpointStore(checkpoint_dir.expanduser().absolute() if checkpoint_dir else settings.checkpoints)
    url = ask.store_url(db_name, settings, db_host, db_port, db_user)
    store = masked(url)
    last = last_run(settings)
    read = of_asset(checkpoints, "papers")
    held = held_by_store(url)
    damages = [*checkpoints.quarantined(), *Quarantine(settings.history / "quarantine").damages()]
    unembedded = sum(manifest.counts.get("failed", 0) for manifest in of_asset(checkpoints, "embeddings"))
    rejected = rejected_records(checkpoints, read) if rejects else None
    failed = failed_papers(checkpoints) if failures else None
    if as_json:
        shown = _as_json(settings, store, last, read, held, damages, rejected, failed)
        typer.echo(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    console = open_console()
    grid = Table.grid(Column(), Column(overflow="fold"), padding=(0, 2))
    grid.add_row("home", str(settings.home))
    grid.add_row("read", _read_so_far(read))
    grid.add_row("store", store if held else f"{store}: nothing yet, fill it with `arxiv-embed run --metadata-dir DIR`")
    for space in held:
        grid.add_row("", _described(space))
    grid.add_row("last run", _outcome(last) if last else "none yet")
    if unembedded:
        grid.add_row("failed", f"{plural(unembedded, 'paper')}: --failures lists them, `run --resume` tries them again")
    if damages:
        grid.add_row("quarantine", f"{plural(len(damages), 'damaged file')} set aside, the newest first:")
    console.print(grid)
    for shard, error in last.failed.items() if last else ():
        say(console, f"failed: {shard}: {error}")
    for shard, error in last.given_up.items() if last else ():
        say(console, f"not tried again: {shard}: {error}: `arxiv-embed run --resume` tries it")
    for damage in damages[:DAMAGES_SHOWN]:
        say(console, str(damage))
    for record in rejected or ():
        place = f"{record['file']}, {record['position']}"
        say(console, f"{place}: {record['reason']}: {record['excerpt']}")
    for paper in failed or ():
        say(console, f"{paper['shard']}, {paper['paper_id']}: {paper['reason']}")


def of_asset(checkpoints: CheckpointStore, asset: str) -> list[Manifest]:
    """The manifests of all of an asset's shards."""
    keys = checkpoints.keys()
    manifests = (checkpoints.manifest(key) for key in keys if key.asset == asset)
    return [manifest for manifest in manifests if manifest is not None]


def rejected_records(checkpoints: CheckpointStore, read: Sequence[Manifest]) -> list[dict[str, str]]:
    """Every reject: file, position, reason, excerpt."""
    records: list[dict[str, str]] = []
    for manifest in read:
        loaded = checkpoints.load(manifest.key) if manifest.counts["rejects"] else None
        if loaded is not None:
            records.extend(loaded.tables["rejects"].to_pylist())
    return records


def failed_papers(checkpoints: CheckpointStore) -> list[dict[str, str]]:
    """Every paper that no device could embed: shard, space, id, reason."""
    found: list[dict[str, str]] = []
    for manifest in of_asset(checkpoints, "embeddings"):
        loaded = checkpoints.load(manifest.key) if manifest.counts.get("failed", 0) else None
        rows = loaded.tables["failures"].to_pylist() if loaded else []
        found.extend({"shard": manifest.key.shard, "space": manifest.key.space, **row} for row in rows)
    return found


def _total(read: Sequence[Manifest]) -> Counter[str]:
    total = Counter(shards=len(read))
    for manifest in read:
        total.update(manifest.counts)
    return total


def _read_so_far(read: Sequence[Manifest]) -> str:
    total = _total(read)
    rejects = f", {plural(total['rejects'], 'record')} rejected" if total["rejects"] else ""
    return f"{plural(total['papers'], 'paper')} of {plural(total['shards'], 'shard')}{rejects}"


def _described(held: Held) -> str:
    amount = f"{plural(held.papers, 'paper')}, {plural(held.rows, 'row')} of {plural(held.shards, 'shard')}"
    return f"{amount}: {described(held.space)}"


def _outcome(run: RunProgress) -> str:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started or run.updated))
    took = duration(run.updated - run.started) if run.started else "0 s"
    shards = f"{run.shards_done} of {plural(run.shards, 'shard')}"
    why = f" ({run.error})" if run.error else ""
    return f"{run.state}{why}: begun {began}, {took}, {papers_done(run)}, {shards}"


def _as_json(
    settings: Settings,
    url: str,
    last: RunProgress | None,
    read: Sequence[Manifest],
    held: list[Held],
    damages: list[Damage],
    rejected: list[dict[str, str]] | None,
    failed: list[dict[str, str]] | None,
) -> dict[str, Any]:
    run = last and {
        "run_id": last.run_id,
        "state": last.state,
        "error": last.error,
        "started": last.started,
        "updated": last.updated,
        "shards": last.shards,
        "shards_done": last.shards_done,
        "papers": last.papers,
        "papers_done": last.papers_done,
        "papers_embedded": last.papers_embedded,
        "papers_reused": last.papers_reused,
        "failed": last.failed,
        "failed_papers": last.failed_papers,
        "given_up": last.given_up,
        "left": last.left,
        "errors": last.errors.to_json(),
    }
    return {
        "home": str(settings.home),
        "store": url,
        "read": dict(_total(read)),
        "spaces": [
            {
                "space": h.space.fingerprint,
                "model": h.space.model,
                "shards": h.shards,
                "papers": h.papers,
                "rows": h.rows,
            }
            for h in held
        ],
        "last_run": run,
        "quarantine": [asdict(damage) for damage in damages],
        **({"rejects": rejected} if rejected is not None else {}),
        **({"failures": failed} if failed is not None else {}),
    }
