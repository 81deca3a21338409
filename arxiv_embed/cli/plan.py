"""The command `plan`: what a run would do; it reads listings and manifests, and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.run import notices, passed_over
from arxiv_embed.cli.terminal import open_console, printable, say
from arxiv_embed.forecast import Forecast, forecast
from arxiv_embed.gpu.inventory import DeviceFacts, describe, inventory
from arxiv_embed.history import history_path, load_history
from arxiv_embed.plan import RunPlan, plan_run
from arxiv_embed.settings import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_SHARD_PAPERS,
    RunOptions,
    Settings,
    settings_from_environment,
)
from arxiv_embed.wording import count, duration, plural, size

SHARDS_SHOWN = 20


def plan(
    metadata_dir: ask.MetadataDir = None,
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    batch_size: ask.BatchSize = DEFAULT_BATCH_SIZE,
    production: ask.Production = True,
    resume: ask.Resume = None,
    model: ask.Model = None,
    devices: ask.Devices = None,
    dtype: ask.Dtype = "auto",
    chunker: ask.ChunkerSpec = "sentences:128",
    max_tokens: ask.MaxTokens = None,
    task: ask.Task = None,
    dimensions: ask.Dimensions = None,
    checkpoint_dir: ask.CheckpointDir = None,
    limit: ask.Limit = None,
    shard_papers: ask.ShardPapers = DEFAULT_SHARD_PAPERS,
    priority: ask.Priority = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a run would do: shards, papers, tokens, memory per device, time. Runs nothing.

    Example: arxiv-embed plan --metadata-dir examples/metadata
    """
    settings = settings_from_environment()
    options = ask.run_options(
        settings,
        metadata_dir=metadata_dir,
        db_name=db_name,
        db_host=db_host,
        db_port=db_port,
        db_user=db_user,
        batch_size=batch_size,
        production=production,
        resume=resume,
        model=model,
        devices=devices,
        dtype=dtype,
        chunker=chunker,
        max_tokens=max_tokens,
        task=task,
        dimensions=dimensions,
        checkpoint_dir=checkpoint_dir,
        limit=limit,
        shard_papers=shard_papers,
        priority=priority,
    )
    planned = plan_run(options, settings)
    expected = forecast(planned, options, settings)
    found = inventory(planned.devices)
    if as_json:
        typer.echo(json.dumps(_as_json(planned, expected, found, options.priority), indent=1))
    else:
        console = open_console()
        show(planned, expected, found, options.priority, console)
        for line in failed_before(planned, options, settings):
            say(console, line)


def show(
    planned: RunPlan,
    expected: Forecast,
    devices: Sequence[DeviceFacts],
    priority: Sequence[str],
    console: Console,
) -> None:
    """The plan as a person reads it."""
    pending = planned.pending
    unchanged = len(planned.shards) - len(pending)
    if not pending:
        say(console, f"Nothing to do: {plural(unchanged, 'shard')} unchanged.")
        return
    table = Table(Column("shard", overflow="fold"), "why", "steps", box=None, pad_edge=False, header_style="dim")
    table.add_column("papers, about", justify="right")
    for plan in pending[:SHARDS_SHOWN]:
        table.add_row(plan.shard.key, plan.reason, ", ".join(plan.steps), count(plan.shard.records))
    console.print(table)
    if planned.passed_over:
        say(console, passed_over(planned))
    for notice in notices(planned):
        say(console, notice)
    if len(pending) > SHARDS_SHOWN:
        console.print(f"… and {len(pending) - SHARDS_SHOWN} more")
    console.print()
    facts = {
        "shards": f"{len(pending)} to do, {unchanged} unchanged",
        "papers": f"about {count(expected.papers)} to embed{_less_what_is_known(expected)}",
        "tokens": f"about {count(expected.tokens)} ({expected.tokens_basis})",
        "model": f"{planned.space.model}, {planned.space.dimensions} dimensions, {planned.space.chunker}, "
        f"{planned.space.max_tokens} tokens at most, paper vectors from the first {planned.space.paper_reach}",
        "devices": "\n".join(describe(device) for device in devices),
        "memory": f"about {size(expected.memory)} a device ({expected.memory_basis})",
        "time": _time(expected),
    }
    if priority:
        facts["first"] = f"papers of {' or '.join(map(printable, priority))}, and their shards"
    grid = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        grid.add_row(name, fact)
    console.print(grid)


def _time(expected: Forecast) -> str:
    if expected.seconds is None:
        return f"unknown ({expected.seconds_basis})"
    most = "at most about" if expected.reusable else "about"
    return f"{most} {duration(expected.seconds)} ({expected.seconds_basis})"


def _less_what_is_known(expected: Forecast) -> str:
    if not expected.reusable:
        return ""
    return f", less those whose text was embedded before: vectors of {count(expected.reusable)} may serve"


def failed_before(planned: RunPlan, options: RunOptions, settings: Settings) -> Iterator[str]:
    """What the history says of pending shards that have failed already."""
    history = load_history(history_path(settings, options.store), sets_aside=False)
    failed = history.failed_files if history else {}
    for shard in [plan.shard for plan in planned.pending if plan.shard.key in failed]:
        failure = failed[shard.key]
        if failure.signature != shard.signature:
            continue
        again = ": not tried again without --resume" if failure.given_up and not options.retry_failed else ""
        yield f"{shard.key} has failed {plural(failure.attempts, 'time')} ({failure.error}){again}"


def _as_json(
    planned: RunPlan, expected: Forecast, devices: Sequence[DeviceFacts], priority: Sequence[str]
) -> dict[str, Any]:
    return {
        "shards": [
            {"key": plan.shard.key, "reason": plan.reason, "steps": plan.steps, "papers": plan.shard.records}
            for plan in planned.pending
        ],
        "passed_over": [printable(name) for name in planned.passed_over],
        "unchanged": len(planned.shards) - len(planned.pending),
        "papers": expected.papers,
        "papers_reused_at_most": expected.reusable,
        "tokens": expected.tokens,
        "space": planned.space.fingerprint,
        "model": planned.space.model,
        "devices": [asdict(device) for device in devices],
        "memory_bytes_per_device": expected.memory,
        "seconds": expected.seconds,
        "priority": priority,
    }
