"""The resource: a run's options are the same whichever way they came, through Dagster's configuration or a launch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from arxiv_embed.pipeline.launch import LaunchRequest
from arxiv_embed.pipeline.resources import EmbeddingResource, resource_config
from arxiv_embed.settings import RunOptions, Settings


@pytest.fixture
def options(settings: Settings, tmp_path: Path) -> RunOptions:
    (tmp_path / "list").write_text("2401.00001\n")
    return RunOptions(
        metadata_dir=tmp_path,
        store=settings.store,
        checkpoints=settings.checkpoints,
        model="m",
        devices="cpu:3",
        max_tokens=17,
        limit=5,
        priority=("category:cs", f"ids:@{tmp_path / 'list'}"),
    )


def test_options_come_back_from_dagster_s_configuration(options: RunOptions, settings: Settings) -> None:
    for some in (options, replace(options, max_tokens=None, limit=None, priority=(), production=False)):
        assert EmbeddingResource.model_validate(resource_config(some)).options(settings) == some


def test_options_come_back_from_a_launch_s_line(options: RunOptions) -> None:
    request = LaunchRequest("run", options)
    line = request.to_line()
    assert line.count(b"\n") == 1
    assert LaunchRequest.from_line(line) == request


def test_a_file_of_ids_in_the_configuration_is_named_from_the_working_folder(
    options: RunOptions, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {**resource_config(options), "priority": ["ids:@list"]}
    assert EmbeddingResource.model_validate(config).options(settings).priority == (f"ids:@{tmp_path / 'list'}",)
