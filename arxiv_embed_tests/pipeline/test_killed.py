"""Killed runs of Dagster: real processes, killed by SIGKILL; what comes next notices, says so, does what remains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus, MetadataValue, build_sensor_context
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import GRPC_INFO_TAG

from arxiv_embed import performance
from arxiv_embed.checkpoint.lock import is_held
from arxiv_embed.events import RunFinished, RunStarted
from arxiv_embed.pipeline.assets import POOL
from arxiv_embed.pipeline.instance import open_instance
from arxiv_embed.pipeline.jobs import embed_pending
from arxiv_embed.pipeline.killed import is_there, noted_processes, report_killed_runs, watch_for_killed_runs
from arxiv_embed.pipeline.partitions import register_shards
from arxiv_embed.record import ProgressWriter, progress_path
from arxiv_embed.settings import Settings, settings_from_environment
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.cli.commands import arxiv_embed, environment
from arxiv_embed_tests.cli.test_interruption import papers_done, wait_until
from arxiv_embed_tests.conftest import REPOSITORY
from arxiv_embed_tests.pipeline.test_job_execute import DAGSTER

SHARDS = ["first.jsonl", "kaggle-2007.jsonl"]
IN_FIRST = 6
NO_PROCESS = 2**22 + 1


class Ground:
    """A home, a folder of 126 papers, and Dagster as the repository configures it."""

    def __init__(self, place: Path) -> None:
        self.home = place / "home"
        self.dagster = place / "dagster-home"
        self.dagster.mkdir()
        shutil.copy(REPOSITORY / "dagster.yaml", self.dagster)
        self.folder = place / "metadata"
        self.run_file = place / "run.yaml"
        config = {"embedding": {"metadata_dir": str(self.folder)}, "gpus": {"devices": "cpu:1", "dtype": "float32"}}
        self.run_file.write_text(yaml.safe_dump({"resources": {name: {"config": c} for name, c in config.items()}}))

    def start(self, job: str, *arguments: str) -> subprocess.Popen[bytes]:
        """`dagster job execute`, with a group of processes of its own."""
        return subprocess.Popen(
            [DAGSTER, "job", "execute", "-m", "arxiv_embed.definitions", "-j", job, "-c", self.run_file, *arguments],
            env={**environment(self.home), "DAGSTER_HOME": str(self.dagster)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def events(self) -> list[dict[str, Any]]:
        """Of all runs, those of each in order."""
        lines = [line for record in self.home.glob("runs/*/progress.jsonl") for line in record.read_text().splitlines()]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def papers_stored(self) -> int:
        with open_store(str(self.home / "stores" / "papers")) as store:
            [space] = store.spaces()
            return store.count(space.fingerprint)[0]


@pytest.fixture
def ground(tmp_path: Path, examples: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    (small_folder / "second.jsonl").unlink()
    shutil.copy(examples / "kaggle-2007.jsonl", small_folder)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / "home"))
    return Ground(tmp_path)


def statuses(instance: DagsterInstance) -> list[DagsterRunStatus]:
    """Of all runs, the newest first."""
    return [run.status for run in instance.get_runs()]


def test_a_run_of_dagster_that_was_killed_is_noticed_by_the_next_which_goes_on(ground: Ground) -> None:
    process = ground.start("embed_pending")
    wait_until(lambda: papers_done(ground.home) > IN_FIRST + 10, "some papers were embedded")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with open_instance(settings_from_environment()) as instance:
        assert statuses(instance) == [DagsterRunStatus.STARTED]
    again = arxiv_embed(ground.home, "run", "--metadata-dir", ground.folder, "--devices", "cpu:1", "--dtype", "float32")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "was killed after" in again.stdout
    assert ground.papers_stored() == 120  # the six of the first shard are in the second as well
    runs = {record.parent.name for record in ground.home.glob("runs/*/progress.jsonl")}
    assert set(performance(ground.home)["run_id"]) == runs
    assert len(runs) == 2
    with open_instance(settings_from_environment()) as instance:
        assert statuses(instance) == [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE]
        assert instance.event_log_storage.get_concurrency_info(POOL).active_slot_count == 0
    assert "was killed" not in arxiv_embed(ground.home, "run", "--metadata-dir", ground.folder).stdout


def test_a_step_whose_process_is_killed_is_tried_again_and_does_only_what_remains(ground: Ground) -> None:
    with open_instance(settings_from_environment()) as instance:
        register_shards(instance, SHARDS)
    tags = {"dagster/asset_partition_range_start": SHARDS[0], "dagster/asset_partition_range_end": SHARDS[1]}
    process = ground.start("embed_shards", "--tags", json.dumps(tags))
    wait_until(lambda: papers_done(ground.home) > IN_FIRST + 10, "some papers were embedded")
    [lock] = ground.home.glob(f"checkpoints/embeddings/*/{SHARDS[1]}/lock")
    os.kill(int(lock.read_text().split()[1]), signal.SIGKILL)
    assert process.wait(timeout=200) == 0
    assert ground.papers_stored() == 120
    events = ground.events()
    assert len([event for event in events if event["event"] == "run_started"]) == 2
    first = [event["papers"] for event in events if event["event"] == "batch" and event["shard"] == SHARDS[0]]
    assert sum(first) == IN_FIRST
    assert len(performance(ground.home)) == len([event for event in events if event["event"] == "batch"])


def test_a_run_that_is_alive_is_left_alone(ground: Ground) -> None:
    process = ground.start("embed_pending")
    try:
        wait_until(lambda: papers_done(ground.home) > 0, "some papers were embedded")
        told: list[str] = []
        with open_instance(settings_from_environment()) as instance:
            report_killed_runs(instance, settings_from_environment(), told.append)
            assert statuses(instance) == [DagsterRunStatus.STARTED]
        assert told == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_run_that_was_killed_before_it_wrote_a_record_is_noticed(ground: Ground) -> None:
    settings = settings_from_environment()
    with open_instance(settings) as instance:
        process = ground.start("embed_pending")
        wait_until(lambda: any(noted_processes(instance, run) for run in instance.get_runs()), "the run had begun")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if list(ground.home.glob("runs/*/progress.jsonl")):
            pytest.fail("the record was there too soon for this test")
        told: list[str] = []
        report_killed_runs(instance, settings, told.append)
        assert statuses(instance) == [DagsterRunStatus.FAILURE]
        assert len(told) == 1


@pytest.mark.parametrize(
    ("is_alive", "beside", "launched", "told"),
    [(False, True, True, 1), (False, False, True, 0), (True, True, True, 0), (False, True, False, 0)],
    ids=["gone", "asked from elsewhere", "alive", "executed elsewhere by a command"],
)
def test_a_run_without_a_record_is_gone_with_its_processes_where_they_would_be_on_this_machine(
    is_alive: bool, beside: bool, launched: bool, told: int, settings: Settings
) -> None:
    pid = os.getpid() if is_alive else NO_PROCESS
    with DagsterInstance.ephemeral() as instance:
        tags = {GRPC_INFO_TAG: "{}"} if launched else {}
        run = instance.create_run_for_job(embed_pending, status=DagsterRunStatus.STARTED, tags=tags)
        data = EngineEventData({"pid": MetadataValue.text(str(pid))})
        instance.report_engine_event("Started process for run", run, data)
        lines: list[str] = []
        report_killed_runs(instance, settings, lines.append, beside=beside)
        assert len(lines) == told
        assert statuses(instance) == [DagsterRunStatus.FAILURE if told else DagsterRunStatus.STARTED]


def test_a_run_that_has_told_dagster_of_its_end_since_it_was_listed_is_left_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of both is gone; one was killed between its record's end and Dagster's."""
    with DagsterInstance.ephemeral() as instance:
        told_dagster, killed = (
            instance.create_run_for_job(embed_pending, status=DagsterRunStatus.STARTED) for _ in range(2)
        )
        listed = instance.get_runs()
        process = {"host": gethostname(), "pid": NO_PROCESS, "started": ""}
        for run in (told_dagster, killed):
            with ProgressWriter(progress_path(settings, run.run_id)) as writer:
                writer.write(RunStarted(run.run_id, "", [], 0, 0, "", "", [], "", process))
                writer.write(RunFinished("done", "", 1.0))
        instance.report_run_canceled(told_dagster)
        monkeypatch.setattr(instance, "get_runs", lambda *filters: listed)
        told: list[str] = []
        report_killed_runs(instance, settings, told.append, beside=True)
        monkeypatch.undo()
        assert told == [f"Run {killed.run_id} was killed."]
        ends = {run.run_id: run.status for run in instance.get_runs()}
        assert ends == {told_dagster.run_id: DagsterRunStatus.CANCELED, killed.run_id: DagsterRunStatus.FAILURE}


def test_a_process_that_was_given_the_number_of_an_earlier_one_is_not_taken_for_it() -> None:
    assert is_there(os.getpid(), time.time())
    assert not is_there(os.getpid(), time.time() - 3600)


def test_the_sensor_tells_of_a_killed_run(ground: Ground) -> None:
    with open_instance(settings_from_environment()) as instance:
        process = ground.start("embed_pending")
        wait_until(lambda: papers_done(ground.home) > 0, "some papers were embedded")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        [record] = ground.home.glob("runs/*/progress.jsonl")
        wait_until(lambda: not is_held(record), "its step had ended as well")
        with build_sensor_context(instance=instance) as context:
            assert "was killed" in (watch_for_killed_runs(context).skip_message or "")  # type: ignore[attr-defined, union-attr]
            assert statuses(instance) == [DagsterRunStatus.FAILURE]
            assert watch_for_killed_runs(context).skip_message == "No run was killed."  # type: ignore[attr-defined, union-attr]
