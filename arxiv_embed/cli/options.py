"""Options: what several commands ask alike, and the run's options that they add up to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from arxiv_embed.errors import ArxivEmbedError, masked
from arxiv_embed.priority import FORMS, parse_priority
from arxiv_embed.settings import (
    DEFAULT_ATTEMPTS,
    DEFAULT_BATCH_SIZE,
    DEFAULT_HEALTH_SECONDS,
    DEFAULT_LOG_LEVEL,
    DEFAULT_METRICS_HOST,
    DEFAULT_SHARD_PAPERS,
    DEFAULT_STORE,
    LEAST_HEALTH_SECONDS,
    LOG_LEVELS,
    MOST_BATCH_SIZE,
    MOST_HEALTH_SECONDS,
    MOST_PORT,
    RunOptions,
    Settings,
)

MetadataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of arXiv metadata. [default: ARXIV_EMBED_METADATA_DIR]", show_default=False),
]
DbName = Annotated[
    str | None,
    typer.Option(
        help="Name of the embedded store, or of the database of --db-host. [default: papers, or ARXIV_EMBED_STORE]",
        show_default=False,
    ),
]
DbHost = Annotated[
    str | None,
    typer.Option(
        help="Keep the store in PostgreSQL on this host. Its password comes from PGPASSWORD or ~/.pgpass.",
        show_default=False,
    ),
]
DbPort = Annotated[int | None, typer.Option(min=1, max=65535, help="Its port. [default: 5432]", show_default=False)]
DbUser = Annotated[str | None, typer.Option(help="Its user. [default: PGUSER, or yours]", show_default=False)]
BatchSize = Annotated[int, typer.Option(min=1, max=MOST_BATCH_SIZE, help="Papers in a batch at most.")]
Production = Annotated[
    bool,
    typer.Option("--production/--standard", help="Batches by tokens, pulled by free devices; or fixed, round robin."),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--fresh",
        help="Try what was given up too; or do all anew, the old as backup. [default: do what is missing]",
        show_default=False,
    ),
]
Attempts = Annotated[int, typer.Option(min=1, help="How often a shard is tried, over all runs, then it is given up.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Hugging Face name, folder, or model file (.toml). [default: all-MiniLM-L6-v2, or ARXIV_EMBED_MODEL]"
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(help="auto, cpu:2 (two workers) or cuda:0,cuda:1. [default: auto, or ARXIV_EMBED_DEVICES]"),
]


Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Use the devices of a Ray cluster: local, auto (this machine is a node of it), HOST:6379 or ray://HOST:10001.",
        show_default=False,
    ),
]


def _health_seconds(seconds: float) -> float:
    if seconds and not LEAST_HEALTH_SECONDS <= seconds <= MOST_HEALTH_SECONDS:
        raise typer.BadParameter(f"give seconds from {LEAST_HEALTH_SECONDS} to {MOST_HEALTH_SECONDS:.0f}, or 0.")
    return seconds


Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
ChunkerSpec = Annotated[str, typer.Option("--chunker", help="sentences:N, fixed:N or whole.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of a paper that are embedded. [default: all, up to 8192]")
]
Task = Annotated[str | None, typer.Option(help="What the vectors are for, where the model has several tasks.")]
Dimensions = Annotated[int | None, typer.Option(min=1, help="Cut vectors to so many, where the model allows it.")]
CheckpointDir = Annotated[
    Path | None, typer.Option(help="Folder of checkpoints. [default: in the home]", show_default=False)
]
Limit = Annotated[int | None, typer.Option(min=1, help="Embed so many papers and no more.")]
ShardPapers = Annotated[int, typer.Option(min=1, help="Papers of a shard at most.")]
HealthSeconds = Annotated[
    float,
    typer.Option(
        callback=_health_seconds,
        help=f"Look at the devices' health so often, in seconds, from {LEAST_HEALTH_SECONDS} on; 0: never.",
    ),
]
Priority = Annotated[
    list[str] | None,
    typer.Option(help=f"Papers to take first; may be given several times: {FORMS}.", show_default=False),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=MOST_PORT,
        help="Serve metrics for Prometheus at this port while it runs; 0 is any free one. "
        "[default: ARXIV_EMBED_METRICS, or do not]",
        show_default=False,
    ),
]
MetricsHost = Annotated[
    str | None,
    typer.Option(help=f"Address that they are served at. [default: {DEFAULT_METRICS_HOST}]", show_default=False),
]

LogLevel = Annotated[
    str,
    typer.Option(help=f"What production_pipeline.log has, from here on: {', '.join(LOG_LEVELS)}.", metavar="LEVEL"),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: each shard, and all that goes wrong.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only how it ended, and errors.")]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def store_url(
    db_name: str | None,
    settings: Settings,
    db_host: str | None = None,
    db_port: int | None = None,
    db_user: str | None = None,
) -> str:
    """Where the store lies; raises `ArxivEmbedError` for a name that could lead out of the home, and for options that
    do not go together."""
    if db_host is not None:
        host = f"[{db_host}]" if ":" in db_host else quote(db_host, safe="")
        login = f"{quote(db_user, safe='')}@" if db_user else ""
        port = f":{db_port}" if db_port else ""
        return f"postgresql://{login}{host}{port}/{quote(db_name or DEFAULT_STORE, safe='')}"
    if db_port is not None or db_user is not None:
        raise ArxivEmbedError("--db-port and --db-user are of a PostgreSQL server: give its --db-host too.")
    if db_name is None:
        return settings.store
    if not _NAME.fullmatch(db_name):
        raise ArxivEmbedError(f"'{masked(db_name)}' is no name for a store: use letters, digits, dots and dashes.")
    return str(settings.stores / db_name)


def run_options(
    settings: Settings,
    *,
    metadata_dir: Path | None,
    db_name: str | None = None,
    db_host: str | None = None,
    db_port: int | None = None,
    db_user: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    production: bool = True,
    resume: bool | None = None,
    model: str | None = None,
    devices: str | None = None,
    cluster: str | None = None,
    dtype: str = "auto",
    chunker: str = "sentences:128",
    max_tokens: int | None = None,
    task: str | None = None,
    dimensions: int | None = None,
    checkpoint_dir: Path | None = None,
    limit: int | None = None,
    shard_papers: int = DEFAULT_SHARD_PAPERS,
    priority: Sequence[str] | None = None,
    attempts: int = DEFAULT_ATTEMPTS,
    metrics_port: int | None = None,
    metrics_host: str | None = None,
    health_seconds: float = DEFAULT_HEALTH_SECONDS,
    log_level: str = DEFAULT_LOG_LEVEL,
) -> RunOptions:
    """Raises `ArxivEmbedError` where no metadata folder is named, for a priority or a level that makes no sense, and
    for options that do not go together."""
    if log_level not in LOG_LEVELS:
        raise ArxivEmbedError(f"Unknown --log-level '{log_level}': write {', '.join(LOG_LEVELS)}.")
    folder = metadata_dir or settings.metadata_dir
    if folder is None:
        raise ArxivEmbedError("No metadata folder is named: give --metadata-dir, or set ARXIV_EMBED_METADATA_DIR.")
    metrics_port = settings.metrics_port if metrics_port is None else metrics_port
    if metrics_host is not None and metrics_port is None:
        raise ArxivEmbedError("--metrics-host says where metrics are served: give --metrics-port too.")
    return RunOptions(
        metadata_dir=folder.expanduser().absolute(),
        store=store_url(db_name, settings, db_host, db_port, db_user),
        checkpoints=checkpoint_dir.expanduser().absolute() if checkpoint_dir else settings.checkpoints,
        model=model or settings.model,
        devices=devices or settings.devices,
        cluster=cluster,
        dtype=dtype,
        chunker=chunker,
        max_tokens=max_tokens,
        task=task,
        dimensions=dimensions,
        batch_size=batch_size,
        production=production,
        fresh=resume is False,
        retry_failed=resume is True,
        attempts=attempts,
        limit=limit,
        shard_papers=shard_papers,
        priority=parse_priority(priority or ()).specs,
        metrics_port=metrics_port,
        metrics_host=metrics_host or settings.metrics_host,
        health_seconds=health_seconds,
        log_level=log_level,
    )
