"""Settings: frozen, typed values; the environment is read here, by functions, and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arxiv_embed.errors import ArxivEmbedError, masked

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_STORE = "papers"
DEFAULT_SHARD_PAPERS = 20_000
DEFAULT_BATCH_SIZE, MOST_BATCH_SIZE = 200, 256
DEFAULT_ATTEMPTS = 3
DEFAULT_OAI_URL = "https://oaipmh.arxiv.org/oai"
DEFAULT_KEEP_DAYS = 30
DEFAULT_METRICS_HOST = "127.0.0.1"
MOST_PORT = 65535
DEFAULT_HEALTH_SECONDS = 30.0
LEAST_HEALTH_SECONDS, MOST_HEALTH_SECONDS = 0.1, 86_400.0
LOG_LEVELS = ("debug", "info", "warning", "error")
DEFAULT_LOG_LEVEL = "info"

_SECRET_NAME = re.compile(r"(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCOUNT_KEY|ACCESS_KEY|WEBHOOK)$")
SHORTEST_SECRET = 6
"""Characters; what is shorter stands in too many words to be masked wherever it does."""


@dataclass(frozen=True)
class Settings:
    """What the surroundings decide: where the project writes and what it uses by default."""

    home: Path
    metadata_dir: Path | None
    store: str
    model: str
    devices: str
    postgres_url: str | None
    oai_url: str
    """Where metadata is harvested from, by OAI-PMH."""
    webhook: str | None
    """Where a notification of a failed run is posted to."""
    keep_days: int
    """How long Dagster's records of finished runs are kept."""
    metrics_host: str
    metrics_port: int | None
    """Where a run serves its metrics while it lives; no port for nowhere."""

    @property
    def checkpoints(self) -> Path:
        return self.home / "checkpoints"

    @property
    def stores(self) -> Path:
        """One embedded store a name."""
        return self.home / "stores"

    @property
    def runs(self) -> Path:
        """One folder a run: its progress record."""
        return self.home / "runs"

    @property
    def index(self) -> Path:
        """What was learned of large metadata files: where they are cut."""
        return self.home / "index"

    @property
    def leases(self) -> Path:
        """One locked file for each device that a run uses."""
        return self.home / "devices"

    @property
    def locks(self) -> Path:
        """One locked file for each store elsewhere that is being written."""
        return self.home / "locks"

    @property
    def history(self) -> Path:
        """One document for each store: what was done, what failed, how fast it went."""
        return self.home / "history"

    @property
    def performance(self) -> Path:
        """One Parquet file for each run: its batches."""
        return self.home / "history" / "performance"

    @property
    def learned(self) -> Path:
        """What was learned of the memory that batches take, a file for each type of device and space."""
        return self.home / "devices" / "learned"

    @property
    def log(self) -> Path:
        """What all runs of this home have logged last."""
        return self.home / "production_pipeline.log"

    @property
    def dagster(self) -> Path:
        """Dagster's own storage, unless DAGSTER_HOME or a PostgreSQL URL says otherwise."""
        return self.home / "dagster"


def settings_from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """Reads the `ARXIV_EMBED_*` variables (`os.environ` unless another mapping is given)."""
    environment = os.environ if environment is None else environment

    def value(name: str) -> str | None:
        return environment.get(f"ARXIV_EMBED_{name}") or None

    home = Path(value("HOME") or ".arxiv_embed").expanduser().absolute()
    metadata_dir = value("METADATA_DIR")
    metrics_host, metrics_port = _metrics_address(value("METRICS") or "")
    return Settings(
        home=home,
        metadata_dir=Path(metadata_dir).expanduser().absolute() if metadata_dir else None,
        store=_store_place(value("STORE") or str(home / "stores" / DEFAULT_STORE)),
        model=value("MODEL") or DEFAULT_MODEL,
        devices=value("DEVICES") or "auto",
        postgres_url=value("POSTGRES_URL"),
        oai_url=value("OAI_URL") or DEFAULT_OAI_URL,
        webhook=value("WEBHOOK"),
        keep_days=_days("KEEP_DAYS", value("KEEP_DAYS")),
        metrics_host=metrics_host,
        metrics_port=metrics_port,
    )


def _metrics_address(text: str) -> tuple[str, int | None]:
    """Host and port of `[HOST:]PORT`."""
    host, _, port = text.rpartition(":")
    if text and not (port.isascii() and port.isdigit() and int(port) <= MOST_PORT):
        raise ArxivEmbedError(
            f"ARXIV_EMBED_METRICS is '{masked(text)}': give a port, or HOST:PORT; port 0 is any free one."
        )
    return host.strip("[]") or DEFAULT_METRICS_HOST, int(port) if port else None


def _days(name: str, days: str | None) -> int:
    if days is None:
        return DEFAULT_KEEP_DAYS
    if not days.isascii() or not days.isdigit() or int(days) < 1:
        raise ArxivEmbedError(f"ARXIV_EMBED_{name} is '{days}': give a number of days, 1 or more.")
    return int(days)


def visible_gpus(environment: Mapping[str, str] | None = None, *, hip: bool = False) -> str | None:
    """What CUDA_VISIBLE_DEVICES says (AMD's driver asks HIP_VISIBLE_DEVICES before it); None where it is not set."""
    environment = os.environ if environment is None else environment
    names = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if hip else ("CUDA_VISIBLE_DEVICES",)
    return next((environment[name] for name in names if name in environment), None)


def secret_values(environment: Mapping[str, str] | None = None) -> list[str]:
    """The values of all variables that are secrets by their names, whoever reads them; the longest first."""
    environment = os.environ if environment is None else environment
    values = {value for name, value in environment.items() if _SECRET_NAME.search(name.upper())}
    return sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def store_folders(url: str) -> list[Path]:
    """What a store takes of the disk here: its folder, or nothing where it is a database of a server."""
    return [] if "://" in url else [Path(url)]


def _store_place(url: str) -> str:
    return url if "://" in url else str(Path(url).expanduser().absolute())


@dataclass(frozen=True)
class RunOptions:
    """What one run was asked to do; the command line and Dagster's configuration both make this."""

    metadata_dir: Path
    store: str
    checkpoints: Path
    model: str = DEFAULT_MODEL
    devices: str = "auto"
    cluster: str | None = None
    """The Ray cluster whose devices these are, as `check_cluster` takes it; None for this machine."""
    dtype: str = "auto"
    chunker: str = "sentences:128"
    max_tokens: int | None = None
    task: str | None = None
    dimensions: int | None = None
    """Of the model's tasks and lengths of vectors; None for its usual ones."""
    batch_size: int = DEFAULT_BATCH_SIZE
    production: bool = True
    fresh: bool = False
    limit: int | None = None
    shard_papers: int = DEFAULT_SHARD_PAPERS
    priority: tuple[str, ...] = ()
    """What `parse_priority` takes, its paths absolute."""
    attempts: int = DEFAULT_ATTEMPTS
    """How often a shard is tried before it is given up."""
    retry_failed: bool = False
    """Whether shards and papers that were given up are tried again."""
    wait_for_devices: bool = False
    """Whether a run waits for devices that another has, or is refused."""
    metrics_port: int | None = None
    """Where the run's metrics are served while it lives, 0 for any free port; None for nowhere."""
    metrics_host: str = DEFAULT_METRICS_HOST
    health_seconds: float = DEFAULT_HEALTH_SECONDS
    """How often the devices' health is looked at and reported; 0: never."""
    log_level: str = DEFAULT_LOG_LEVEL
    """What its log leaves out: all below this one of `LOG_LEVELS`."""
