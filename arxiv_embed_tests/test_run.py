"""A run's devices: its own from the first batch to the end, and told to whoever watches."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import arxiv_embed.equipment
from arxiv_embed.cli.run import embed_folder
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.errors import ArxivEmbedError, FatalError
from arxiv_embed.estimates import LearnedTokens
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.inventory import DeviceFacts, cpu_model, describe
from arxiv_embed.gpu.lease import DeviceInUse, DeviceLeases
from arxiv_embed.gpu.watch import Watch
from arxiv_embed.plan import plan_run
from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.run import Run
from arxiv_embed.runs import last_run
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import StoreAway
from arxiv_embed_tests.fake_pool import FakePool, run_shards

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


def test_a_run_has_one_watch_for_all_its_pools_and_none_where_that_is_asked(
    options: RunOptions, settings: Settings, pool: FakePool
) -> None:
    pool.fail_after = 0
    watches = []
    with Run(options, settings, "run") as run:
        run.start(["first.jsonl", "second.jsonl"])
        for shard in ("first.jsonl", "second.jsonl"):
            run.read(shard)
            with pytest.raises(RuntimeError):
                run.embed(shard)
            watches.append(pool.options["watch"])
    assert isinstance(watches[0], Watch)
    assert watches[0] is watches[1]
    pool.fail_after = None
    embed_first(replace(options, health_seconds=0.0), settings, "unwatched")
    assert pool.options["watch"] is None


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


@pytest.mark.usefixtures("pool")
def test_a_run_that_may_wait_does_so_until_its_devices_are_free_and_says_for_what_once(
    options: RunOptions, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    looks: list[float] = []
    held = ExitStack()
    held.enter_context(DeviceLeases(parse_devices("cpu:1"), settings.leases))

    def look_again(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            held.close()

    monkeypatch.setattr(arxiv_embed.equipment.time, "sleep", look_again)
    with Run(replace(options, wait_for_devices=True), settings, "run", told.append) as run:
        run.start(["first.jsonl"])
        run.read("first.jsonl")
        run.embed("first.jsonl")
    assert looks[:3] == [arxiv_embed.equipment.LOOK_AGAIN_SECONDS] * 3
    assert len([line for line in told if "Device cpu:0 is in use by process" in line]) == 1


@pytest.mark.usefixtures("pool")
def test_a_store_that_is_gone_since_the_run_was_planned_is_not_begun_anew(
    options: RunOptions, settings: Settings, tmp_path: Path
) -> None:
    embed_first(options, settings, "first")

    def all_steps() -> None:
        with Run(options, settings, "second") as run:
            run.start(["second.jsonl"])
            run.read("second.jsonl")
            run.embed("second.jsonl")
            shutil.move(options.store, tmp_path / "elsewhere")
            run.store("second.jsonl")

    with pytest.raises(StoreAway, match="was there and is gone"):
        all_steps()
    assert not Path(options.store).exists()


@pytest.mark.usefixtures("pool")
def test_what_went_wrong_first_is_what_is_told(
    options: RunOptions, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(store: LanceStore, space: object) -> None:
        raise FatalError("The store is full as well.")

    monkeypatch.setattr(LanceStore, "finish", finish)

    def all_steps() -> None:
        with Run(options, settings, "run") as run:
            run.start(["first.jsonl"])
            for step in (run.read, run.embed, run.store):
                step("first.jsonl")
            raise ArxivEmbedError("The disk is full.")

    with pytest.raises(ArxivEmbedError, match="The disk is full"):
        all_steps()
    assert ProgressReader(progress_path(settings, "run")).poll().error == "The disk is full."


def test_a_record_whose_first_line_is_cut_does_not_hide_the_last_run(settings: Settings) -> None:
    for run_id, content in (
        ("cut", '{"time": 17'),
        ("whole", '{"time": 18.0, "event": "run_finished", "state": "done", "error": "", "seconds": 1.0}\n'),
    ):
        record = progress_path(settings, run_id)
        record.parent.mkdir(parents=True)
        record.write_text(content)
    last = last_run(settings)
    assert last is not None
    assert last.state == "done"


@pytest.mark.usefixtures("pool")
def test_the_tokens_that_wait_are_estimated_before_the_devices_begin(options: RunOptions, settings: Settings) -> None:
    embed_first(options, settings, "run")
    lines = [json.loads(line) for line in progress_path(settings, "run").read_bytes().splitlines()]
    names = [line["event"] for line in lines]
    [waiting] = [line for line in lines if line["event"] == "texts_waiting"]
    assert names.index("texts_waiting") < names.index("pool_ready") < names.index("batch")
    assert waiting["papers"] == 6
    assert 6 * 20 < waiting["tokens"] < 6 * 512


def test_the_pool_orders_texts_by_what_was_learned_of_this_model(
    options: RunOptions, settings: Settings, pool: FakePool
) -> None:
    embed_first(options, settings, "run")
    lengths = pool.options["lengths"]
    learned = LearnedTokens(settings.history, resolve_model(options.model))
    assert learned.estimator.papers == 6
    assert callable(lengths)
    assert lengths(pool.embedded) == learned.quick(pool.embedded)


class Killed(BaseException):
    """The process ends here."""


def kill_before_indexes(options: RunOptions, settings: Settings) -> None:
    def killed(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanceStore, "finish", killed)
        with pytest.raises(Killed):
            run_shards(options, settings.home, "killed")


@pytest.mark.usefixtures("pool")
def test_indexes_that_a_killed_run_has_not_built_are_built_by_the_next_command_though_no_shard_is_left(
    options: RunOptions, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_before_indexes(options, settings)
    plan = plan_run(options, settings)
    assert (plan.pending, plan.is_finished) == ((), False)
    assert embed_folder(options, settings, Console()) == 0
    assert "Its indexes are not up to date" in capsys.readouterr().out
    assert plan_run(options, settings).is_finished
    assert embed_folder(options, settings, Console()) == 0
    assert "Its indexes" not in capsys.readouterr().out


@pytest.mark.usefixtures("pool")
def test_indexes_that_a_killed_run_has_not_built_are_built_by_a_run_of_no_shards(
    options: RunOptions, settings: Settings
) -> None:
    kill_before_indexes(options, settings)
    run_shards(options, settings.home, "next")
    assert plan_run(options, settings).is_finished
