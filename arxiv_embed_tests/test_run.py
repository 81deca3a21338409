"""A run's devices: its own from the first batch to the end, and told to whoever watches."""

from __future__ import annotations

from pathlib import Path

import pytest

import arxiv_embed.equipment
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.inventory import DeviceFacts, cpu_model, describe
from arxiv_embed.gpu.lease import DeviceInUse, DeviceLeases
from arxiv_embed.progress import ProgressReader, progress_path
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.fake_pool import FakePool

DEVICES = "cpu:2"


@pytest.fixture
def options(small_folder: Path, settings: Settings) -> RunOptions:
    return RunOptions(small_folder, settings.store, settings.checkpoints, devices=DEVICES)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> FakePool:
    pool = FakePool()
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", pool)
    return pool


def are_free(settings: Settings) -> bool:
    try:
        with DeviceLeases(parse_devices(DEVICES), settings.leases):
            return True
    except DeviceInUse:
        return False


def embed_first(options: RunOptions, settings: Settings, run_id: str) -> None:
    """A run of the first shard, all three steps."""
    with Run(options, settings, run_id) as run:
        run.start(["first.jsonl"])
        for step in (run.read, run.embed, run.store):
            step("first.jsonl")


@pytest.mark.usefixtures("pool")
def test_a_run_has_its_devices_to_itself_from_its_first_batch_to_its_end(
    options: RunOptions, settings: Settings
) -> None:
    with Run(options, settings, "run") as run:
        run.start(["first.jsonl"])
        run.read("first.jsonl")
        assert are_free(settings)
        run.embed("first.jsonl")
        assert not are_free(settings)
        run.store("first.jsonl")
        assert not are_free(settings)
    assert are_free(settings)


def test_a_shard_that_fails_leaves_the_devices_with_the_run(
    options: RunOptions, settings: Settings, pool: FakePool
) -> None:
    pool.fail_after = 2
    with Run(options, settings, "run") as run:
        run.start(["first.jsonl", "second.jsonl"])
        run.read("first.jsonl")
        with pytest.raises(RuntimeError):
            run.embed("first.jsonl")
        assert pool.open == 0
        assert not are_free(settings)
        pool.fail_after = None
        run.read("second.jsonl")
        run.embed("second.jsonl")
    assert are_free(settings)


def test_a_run_that_embeds_nothing_takes_no_device(options: RunOptions, settings: Settings, pool: FakePool) -> None:
    embed_first(options, settings, "first")
    before = len(pool.embedded)
    with DeviceLeases(parse_devices(DEVICES), settings.leases):
        embed_first(options, settings, "second")
    assert len(pool.embedded) == before


def test_a_device_that_another_run_has_stops_the_run_before_its_pool_starts(
    options: RunOptions, settings: Settings, pool: FakePool
) -> None:
    with (
        DeviceLeases(parse_devices("cpu:1"), settings.leases),
        pytest.raises(DeviceInUse, match="Device cpu:0 is in use by process"),
    ):
        embed_first(options, settings, "x")
    assert pool.embedded == []
    progress = ProgressReader(progress_path(settings, "x")).poll()
    assert progress.state == "failed"
    assert "or give other --devices" in progress.error
    assert are_free(settings)


def test_the_devices_are_recorded_and_told_once(options: RunOptions, settings: Settings, pool: FakePool) -> None:
    told: list[str] = []
    pool.fail_after = 0
    with Run(options, settings, "run", told.append) as run:
        run.start(["first.jsonl", "second.jsonl"])
        run.read("first.jsonl")
        with pytest.raises(RuntimeError):
            run.embed("first.jsonl")
        pool.fail_after = None
        run.read("second.jsonl")
        run.embed("second.jsonl")
    record = progress_path(settings, "run")
    assert record.read_text().count('"event":"devices_found"') == 1
    facts = [DeviceFacts(**found) for found in ProgressReader(record).poll().facts]
    assert facts[0].product == cpu_model()
    assert told == [describe(found) for found in facts]
    assert [line.split(": ")[0] for line in told] == ["cpu:0", "cpu:1"]
