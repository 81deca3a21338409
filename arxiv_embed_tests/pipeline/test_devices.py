"""A job's devices: what its operator reads about them, and what a second job on the same ones is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from dagster import DagsterEventType, DagsterInstance

import arxiv_embed.equipment
from arxiv_embed.gpu.devices import Device, parse_devices
from arxiv_embed.gpu.inventory import cpu_model
from arxiv_embed.gpu.lease import DeviceLeases
from arxiv_embed.pipeline.partitions import register_shards
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import execute


@pytest.fixture
def options(small_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", FakePool())
    return RunOptions(small_folder, settings.store, settings.checkpoints, devices="cpu:2")


def test_each_device_has_a_line_in_the_jobs_log(options: RunOptions) -> None:
    with DagsterInstance.ephemeral() as instance:
        result = execute("embed_pending", options, instance)
        assert result.success
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    for name in ("cpu:0", "cpu:1"):
        assert sum(message.startswith(f"{name}: {cpu_model()}, ") for message in messages) == 1


@pytest.mark.parametrize("job", ["embed_pending", "embed_shards"])
def test_the_pool_of_a_job_is_what_the_resource_gpus_says(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    asked: list[tuple[list[str], dict[str, object]]] = []

    def pool(files: object, space: object, devices: Sequence[Device], **how: object) -> FakePool:
        asked.append(([device.name for device in devices], how))
        return FakePool()

    monkeypatch.setattr(arxiv_embed.equipment, "Pool", pool)
    options = replace(options, devices="cpu:3")
    said = {"dtype": "float32", "batch_size": 3, "production": False}
    with DagsterInstance.ephemeral() as instance:
        register_shards(instance, ["first.jsonl"])
        assert execute(job, replace(options, **said), instance, shards=["first.jsonl"]).success
    [(devices, how)] = asked
    assert devices == ["cpu:0", "cpu:1", "cpu:2"]
    assert {name: how[name] for name in said} == said


def test_a_job_on_devices_in_use_fails_with_one_sentence_and_is_not_retried(
    options: RunOptions, settings: Settings
) -> None:
    with DagsterInstance.ephemeral() as instance, DeviceLeases(parse_devices("cpu:1"), settings.leases):
        register_shards(instance, ["first.jsonl"])
        result = execute("embed_shards", options, instance, shards=["first.jsonl"])
    failure = result.failure_data_for_node("embed_metadata")
    assert failure is not None
    assert failure.error is not None
    assert "Device cpu:0 is in use by process" in failure.error.message
    assert DagsterEventType.STEP_UP_FOR_RETRY not in {event.event_type for event in result.all_events}
