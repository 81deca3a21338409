"""Fixtures of the pipeline's tests: an instance that knows two small shards, the options of a run over them, a pool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance

import arxiv_embed.equipment
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.pipeline.partitions import register_shards
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import SHARDS, options_for


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        register_shards(instance, SHARDS)
        yield instance


@pytest.fixture
def options(small_folder: Path, tiny_model: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    return options_for(small_folder, tiny_model, settings)


@pytest.fixture
def pool(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> FakePool:
    """What runs in this process embed with, in place of the real one."""
    pool = FakePool(space_of(resolve_model(options.model), options.chunker).dimensions)
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", pool)
    return pool
