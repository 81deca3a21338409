"""The Dagster instance of the command line: the one that DAGSTER_HOME names, or the project's own."""

from __future__ import annotations

import os
from typing import Any

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from arxiv_embed.settings import Settings

PROJECT_INSTANCE: dict[str, Any] = {
    "storage": {"custom": {"module": "arxiv_embed.pipeline.storage", "class": "ProjectStorage", "config": {}}},
    "compute_logs": {"module": "arxiv_embed.pipeline.storage", "class": "ProjectComputeLogs", "config": {}},
    "concurrency": {"pools": {"default_limit": 1, "granularity": "op"}},
    "telemetry": {"enabled": False},
}
"""What `dagster.yaml` at the repository's root says too, so that `dagster dev` shows what the command line did."""


def open_instance(settings: Settings) -> DagsterInstance:
    """A context manager; the home's folders are made where they are missing."""
    if os.environ.get("DAGSTER_HOME"):
        return DagsterInstance.get()
    settings.dagster.mkdir(parents=True, exist_ok=True)
    overrides: Any = PROJECT_INSTANCE
    return DagsterInstance.from_ref(InstanceRef.from_dir(str(settings.dagster), overrides=overrides))
