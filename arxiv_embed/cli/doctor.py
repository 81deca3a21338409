"""The command `doctor`: whether a run would find what it needs here, and what to do where not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.doctor.check import Check, State, Subject
from arxiv_embed.doctor.examination import examine
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.wording import plural

FINE, SOMETHING_WRONG = 0, 1
MARKS = {State.FINE: "✓", State.WARN: "!", State.WRONG: "✗", State.SKIPPED: "–"}
PLAIN_MARKS = {State.FINE: "ok", State.WARN: "warn", State.WRONG: "WRONG", State.SKIPPED: "-"}
NAME_WIDTH = 20


def doctor(
    metadata_dir: ask.MetadataDir = None,
    db_name: ask.DbName = None,
    db_host: ask.DbHost = None,
    db_port: ask.DbPort = None,
    db_user: ask.DbUser = None,
    model: ask.Model = None,
    checkpoint_dir: ask.CheckpointDir = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Load the model's weights too, and embed a text.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look whether a run finds what it needs here: each line is fine, or says what to do.

    Give it what the run is given. Exit code 0 where nothing is wrong, 1 otherwise.

    Example: arxiv-embed doctor --metadata-dir /data/arxiv
    """
    settings = settings_from_environment()
    folder = metadata_dir or settings.metadata_dir
    subject = Subject(
        settings=settings,
        metadata_dir=folder.expanduser().absolute() if folder else None,
        store=ask.store_url(db_name, settings, db_host, db_port, db_user),
        model=model or settings.model,
        checkpoints=checkpoint_dir.expanduser().absolute() if checkpoint_dir else settings.checkpoints,
        thorough=thorough,
    )
    if as_json:
        checks = list(examine(subject))
        typer.echo(json.dumps({"ok": not _wrong(checks), "checks": [asdict(one) for one in checks]}, indent=1))
    else:
        checks = _told(examine(subject), open_console())
    raise typer.Exit(SOMETHING_WRONG if _wrong(checks) else FINE)


def _told(checks: Iterable[Check], console: Console) -> list[Check]:
    """Says each as it comes, and sums up."""
    marks = MARKS if console.encoding.lower().startswith("utf") else PLAIN_MARKS
    told = []
    for check in checks:
        told.append(check)
        remedy = f": {check.remedy}" if check.remedy else ""
        say(console, f"{marks[check.state]} {check.name:{NAME_WIDTH}} {check.text}{remedy}")
    wrong, warned = _wrong(told), sum(check.state is State.WARN for check in told)
    if wrong:
        say(console, f"{plural(wrong, 'thing')} to mend")
    else:
        say(console, f"Nothing is wrong{f', {warned} to know of' if warned else ''}")
    return told


def _wrong(checks: Iterable[Check]) -> int:
    return sum(check.state is State.WRONG for check in checks)
