"""The resources: a run's options are the same whichever way they came, through Dagster's configuration or a launch."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInvalidConfigError, build_resources, validate_run_config

from arxiv_embed.definitions import defs
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.pipeline.launch import LaunchRequest
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource, resource_config
from arxiv_embed.settings import MOST_BATCH_SIZE, RunOptions, Settings, settings_from_environment

JOBS = ["embed_pending", "embed_shards"]


@pytest.fixture
def options(settings: Settings, tmp_path: Path) -> RunOptions:
    (tmp_path / "list").write_text("2401.00001\n")
    return RunOptions(
        metadata_dir=tmp_path,
        store=settings.store,
        checkpoints=settings.checkpoints,
        model="m",
        devices="cpu:3",
        dtype="bfloat16",
        batch_size=17,
        health_seconds=2.5,
        max_tokens=17,
        limit=5,
        log_level="debug",
        priority=("category:cs", f"ids:@{tmp_path / 'list'}"),
        metrics_port=0,
        metrics_host="0.0.0.0",
    )


def options_of(config: Any, settings: Settings) -> RunOptions:
    """What the resources make of the part `resources` of a run's configuration."""
    resources: dict[str, Any] = {
        "embedding": EmbeddingResource.configure_at_launch(),
        "gpus": GpuResource.configure_at_launch(),
    }
    with build_resources(resources, resource_config=config) as built:
        return built.embedding.options(built.gpus, settings)  # type: ignore[attr-defined, no-any-return]


def test_options_come_back_from_dagster_s_configuration(options: RunOptions, settings: Settings) -> None:
    for some in (
        options,
        replace(options, max_tokens=None, limit=None, metrics_port=None, priority=(), production=False),
    ):
        assert options_of(resource_config(some), settings) == some


def test_what_no_resource_says_is_what_the_environment_says(tmp_path: Path) -> None:
    variables = {"METADATA_DIR": str(tmp_path), "MODEL": "m", "DEVICES": "cpu:2"}
    settings = settings_from_environment({f"ARXIV_EMBED_{name}": value for name, value in variables.items()})
    assert options_of({}, settings) == RunOptions(
        tmp_path, settings.store, settings.checkpoints, model="m", devices="cpu:2", wait_for_devices=True
    )


@pytest.mark.parametrize(
    ("gpus", "embedding", "sentence"),
    [
        ({"batch_size": 0}, {}, f"batch_size is 0: give a number from 1 to {MOST_BATCH_SIZE}."),
        ({"batch_size": MOST_BATCH_SIZE + 1}, {}, f"batch_size is {MOST_BATCH_SIZE + 1}: give a number"),
        ({"health_seconds": -1}, {}, "health_seconds is -1.0: give seconds from 0.1 to 86400, or 0 for never."),
        ({"health_seconds": 1e10}, {}, "health_seconds is 10000000000.0: give seconds from 0.1 to 86400, or 0"),
        ({"health_seconds": 1e-6}, {}, "health_seconds is 1e-06: give seconds from 0.1 to 86400, or 0 for never."),
        ({}, {"limit": 0}, "limit is 0: give a number from 1 on."),
        ({}, {"shard_papers": -3}, "shard_papers is -3: give a number from 1 on."),
        ({}, {"attempts": 0}, "attempts is 0: give a number from 1 on."),
        ({}, {"log_level": "loud"}, "log_level is 'loud': give one of debug, info, warning, error."),
    ],
)
def test_a_value_that_the_command_line_refuses_is_refused_here_too(
    gpus: dict[str, Any], embedding: dict[str, Any], sentence: str, settings: Settings
) -> None:
    resource = EmbeddingResource(metadata_dir="here", **embedding)  # type: ignore[arg-type]
    with pytest.raises(ArxivEmbedError, match=re.escape(sentence)):
        resource.options(GpuResource(**gpus), settings)  # type: ignore[arg-type]


def test_options_come_back_from_a_launch_s_line(options: RunOptions) -> None:
    request = LaunchRequest("run", options)
    line = request.to_line()
    assert line.count(b"\n") == 1
    assert LaunchRequest.from_line(line) == request


def test_a_file_of_ids_in_the_configuration_is_named_from_the_working_folder(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text("2401.00001\n")
    monkeypatch.chdir(tmp_path)
    config = {"embedding": {"config": {"metadata_dir": "x", "priority": ["ids:@list"]}}}
    assert options_of(config, settings).priority == (f"ids:@{tmp_path / 'list'}",)


@pytest.mark.parametrize("job", JOBS)
def test_both_jobs_take_the_devices_from_the_resource_gpus_alone(job: str) -> None:
    definition = defs.resolve_job_def(job)
    config = {"devices": "cuda:0,cuda:1", "dtype": "bfloat16", "batch_size": 64, "production": False}
    validate_run_config(definition, {"resources": {"gpus": {"config": config}}})
    for name, value in config.items():
        with pytest.raises(DagsterInvalidConfigError, match=f'unexpected config entry "{name}"'):
            validate_run_config(definition, {"resources": {"embedding": {"config": {name: value}}}})


def test_a_resource_that_dagster_makes_touches_no_device() -> None:
    """It makes them in processes that embed nothing, where a GPU's driver or torch would only cost."""
    code = """
import sys
from dagster import build_resources
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
with build_resources({"gpus": GpuResource(devices="cuda:99"), "embedding": EmbeddingResource()}):
    sys.exit(bool({"torch", "transformers", "pynvml"} & {*sys.modules}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
