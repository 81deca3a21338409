"""The Dagster resources: what a run is asked to do, and on which GPUs; typed and described for the launchpad.

Dagster makes resources several times a run and in several processes, so they open nothing: the run starts the engine
when a shard needs it.
"""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.errors import ArxivEmbedError, masked
from arxiv_embed.priority import FORMS, parse_priority
from arxiv_embed.settings import (
    DEFAULT_ATTEMPTS,
    DEFAULT_BATCH_SIZE,
    DEFAULT_HEALTH_SECONDS,
    DEFAULT_LOG_LEVEL,
    DEFAULT_METRICS_HOST,
    DEFAULT_SHARD_PAPERS,
    LEAST_HEALTH_SECONDS,
    LOG_LEVELS,
    MOST_BATCH_SIZE,
    MOST_HEALTH_SECONDS,
    MOST_PORT,
    RunOptions,
    Settings,
)

_FROM = "by default the environment's {}"


class GpuResource(ConfigurableResource):  # type: ignore[type-arg]
    """What the pool of a run is made from: its devices, their arithmetic and their batches."""

    devices: str | None = Field(
        default=None, description="auto, cpu:2 or cuda:0,cuda:1; " + _FROM.format("ARXIV_EMBED_DEVICES")
    )
    cluster: str | None = Field(
        default=None,
        description="The Ray cluster whose devices are used: local, auto, HOST:6379 or ray://HOST:10001; "
        "by default this machine's devices",
    )
    dtype: str = Field(default="auto", description="Arithmetic of the devices: auto, float32 or bfloat16")
    batch_size: int = Field(
        default=DEFAULT_BATCH_SIZE, description=f"Papers in a batch at most, up to {MOST_BATCH_SIZE}"
    )
    production: bool = Field(
        default=True,
        description="True: batches by tokens and memory, for whichever device is done first; "
        "False: fixed batches, dealt round robin",
    )
    wait: bool = Field(default=True, description="Wait for devices that another run has; False: fail at once")
    health_seconds: float = Field(
        default=DEFAULT_HEALTH_SECONDS, description="Look at the devices' health so often, in seconds; 0: never"
    )


class EmbeddingResource(ConfigurableResource):  # type: ignore[type-arg]
    """Everything else of a run: what is embedded, with which model, and where it goes."""

    metadata_dir: str | None = Field(
        default=None, description="Folder of arXiv metadata; " + _FROM.format("ARXIV_EMBED_METADATA_DIR")
    )
    store: str | None = Field(default=None, description="Vector store; " + _FROM.format("ARXIV_EMBED_STORE"))
    checkpoint_dir: str | None = Field(default=None, description="Folder of checkpoints; by default in the home")
    model: str | None = Field(
        default=None,
        description="Hugging Face name, folder, or model file (.toml); " + _FROM.format("ARXIV_EMBED_MODEL"),
    )
    chunker: str = Field(default="sentences:128", description="sentences:N, fixed:N or whole")
    max_tokens: int | None = Field(
        default=None, description="Tokens of a paper that are embedded; by default up to 8192"
    )
    task: str | None = Field(default=None, description="What the vectors are for, where the model has several tasks")
    dimensions: int | None = Field(default=None, description="Cut vectors to so many, where the model allows it")
    fresh: bool = Field(default=False, description="Do everything again; old checkpoints stay as backup")
    limit: int | None = Field(default=None, description="Embed so many papers and no more")
    shard_papers: int = Field(default=DEFAULT_SHARD_PAPERS, description="Papers of a shard at most")
    attempts: int = Field(default=DEFAULT_ATTEMPTS, description="How often a shard is tried, then it is given up")
    retry_failed: bool = Field(default=False, description="Try again what was given up, shards and papers")
    log_level: str = Field(
        default=DEFAULT_LOG_LEVEL, description=f"What production_pipeline.log has from on: {', '.join(LOG_LEVELS)}"
    )
    priority: list[str] = Field(default=[], description=f"Papers to take first, marked by any of: {FORMS}")
    metrics_port: int | None = Field(
        default=None,
        description="Serve metrics for Prometheus at this port while a run lives, 0 is any free one; "
        + _FROM.format("ARXIV_EMBED_METRICS"),
    )
    metrics_host: str | None = Field(
        default=None, description=f"Address that they are served at; otherwise {DEFAULT_METRICS_HOST}"
    )

    def options(self, gpus: GpuResource, settings: Settings) -> RunOptions:
        """Raises `ArxivEmbedError` where no metadata folder is named, or a number is out of its range."""
        _check("batch_size", gpus.batch_size, MOST_BATCH_SIZE)
        for name in ("limit", "shard_papers", "attempts", "dimensions"):
            _check(name, getattr(self, name))
        if self.metrics_port is not None and not 0 <= self.metrics_port <= MOST_PORT:
            raise ArxivEmbedError(f"metrics_port is {self.metrics_port}: give a port up to {MOST_PORT}, or 0.")
        if gpus.health_seconds and not LEAST_HEALTH_SECONDS <= gpus.health_seconds <= MOST_HEALTH_SECONDS:
            most = f"from {LEAST_HEALTH_SECONDS} to {MOST_HEALTH_SECONDS:.0f}"
            raise ArxivEmbedError(f"health_seconds is {gpus.health_seconds}: give seconds {most}, or 0 for never.")
        if self.log_level not in LOG_LEVELS:
            raise ArxivEmbedError(f"log_level is '{self.log_level}': give one of {', '.join(LOG_LEVELS)}.")
        folder = Path(self.metadata_dir).expanduser().absolute() if self.metadata_dir else settings.metadata_dir
        if folder is None:
            raise ArxivEmbedError(
                "No metadata folder is named: set ARXIV_EMBED_METADATA_DIR, or metadata_dir of resource 'embedding'."
            )
        return RunOptions(
            metadata_dir=folder,
            store=self.store or settings.store,
            checkpoints=self.checkpoints(settings),
            model=self.model or settings.model,
            devices=gpus.devices or settings.devices,
            cluster=gpus.cluster or None,
            dtype=gpus.dtype,
            chunker=self.chunker,
            max_tokens=self.max_tokens,
            task=self.task,
            dimensions=self.dimensions,
            batch_size=gpus.batch_size,
            production=gpus.production,
            fresh=self.fresh,
            limit=self.limit,
            shard_papers=self.shard_papers,
            priority=parse_priority(self.priority).specs,
            attempts=self.attempts,
            retry_failed=self.retry_failed,
            wait_for_devices=gpus.wait,
            metrics_port=settings.metrics_port if self.metrics_port is None else self.metrics_port,
            metrics_host=self.metrics_host or settings.metrics_host,
            health_seconds=gpus.health_seconds,
            log_level=self.log_level,
        )

    def space(self, settings: Settings, *, local_only: bool = False) -> Space:
        """What is embedded in; raises `ArxivEmbedError` as `resolve_model` and `space_of` do."""
        files = resolve_model(self.model or settings.model, local_only=local_only)
        return space_of(files, self.chunker, self.max_tokens, self.task, self.dimensions)

    def checkpoints(self, settings: Settings) -> Path:
        """The folder of checkpoints."""
        return Path(self.checkpoint_dir).expanduser().absolute() if self.checkpoint_dir else settings.checkpoints


def _check(name: str, number: int | None, most: int | None = None) -> None:
    if number is not None and (number < 1 or (most is not None and number > most)):
        upper = f" to {most}" if most is not None else " on"
        raise ArxivEmbedError(f"{name} is {number}: give a number from 1{upper}.")


def resource_config(options: RunOptions) -> dict[str, object]:
    """What stands under `resources` in the configuration of a run that has these options. Dagster shows and keeps a
    configuration, so a store whose URL holds a password is not in it: it is that of ARXIV_EMBED_STORE."""
    gpus = {
        "devices": options.devices,
        **({"cluster": options.cluster} if options.cluster else {}),
        "dtype": options.dtype,
        "batch_size": options.batch_size,
        "production": options.production,
        "wait": options.wait_for_devices,
        "health_seconds": options.health_seconds,
    }
    embedding = {
        "metadata_dir": str(options.metadata_dir),
        "checkpoint_dir": str(options.checkpoints),
        "model": options.model,
        "chunker": options.chunker,
        "fresh": options.fresh,
        "shard_papers": options.shard_papers,
        "priority": list(options.priority),
        "attempts": options.attempts,
        "retry_failed": options.retry_failed,
        "metrics_host": options.metrics_host,
        "log_level": options.log_level,
    }
    chosen = {"max_tokens": options.max_tokens, "task": options.task, "dimensions": options.dimensions}
    if masked(options.store) == options.store:
        embedding["store"] = options.store
    chosen |= {"limit": options.limit, "metrics_port": options.metrics_port}
    embedding |= {name: value for name, value in chosen.items() if value is not None}
    return {"gpus": {"config": gpus}, "embedding": {"config": embedding}}
