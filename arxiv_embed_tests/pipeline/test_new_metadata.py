"""The sensor: real folders and a real instance, looked at again and again, with what goes wrong between two ticks."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from dagster import (
    AddDynamicPartitionsRequest,
    AssetKey,
    AssetObservation,
    AssetRecordsFilter,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    DefaultSensorStatus,
    SensorResult,
    SkipReason,
    build_sensor_context,
    validate_run_config,
)
from dagster._core.events import EngineEventData
from dagster._core.storage.tags import SENSOR_NAME_TAG

from arxiv_embed.definitions import defs
from arxiv_embed.metadata import cuts
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed.pipeline import sensors
from arxiv_embed.pipeline.killed import watch_for_killed_runs
from arxiv_embed.pipeline.partitions import METADATA_FILES
from arxiv_embed.pipeline.sensors import new_metadata
from arxiv_embed.settings import DEFAULT_SHARD_PAPERS, RunOptions, Settings
from arxiv_embed_tests.conftest import REPOSITORY
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.metadata.permissions import permissions_bind
from arxiv_embed_tests.pipeline.runs import execute, materialized

NOTHING_NEW = "0 new shards, 0 changed, 0 still being written, 0 removed"


@dataclass
class Daemon:
    """What Dagster's daemon does with a tick: partitions first, then runs by their keys, then the cursor."""

    instance: DagsterInstance
    cursor: str | None = None
    run_keys: list[str] = field(default_factory=list)

    def look(self) -> SensorResult | SkipReason:
        """A tick of which nothing is recorded."""
        result = new_metadata(build_sensor_context(instance=self.instance, cursor=self.cursor))
        assert isinstance(result, SensorResult | SkipReason)
        return result

    def tick(self) -> str:
        """A tick whose result is recorded; returns what it says, "run" where it asks for one."""
        result = self.look()
        if isinstance(result, SkipReason):
            return result.skip_message or ""
        self.record(result)
        return "run" if result.skip_reason is None else result.skip_reason.skip_message or ""

    def record(self, result: SensorResult, *, cursor: bool = True) -> None:
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        for request in result.dynamic_partitions_requests or []:
            assert isinstance(request, AddDynamicPartitionsRequest)
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        for run in result.run_requests or []:
            if run.run_key not in self.run_keys:
                self.run_keys.append(run.run_key or "")
        if cursor:
            self.cursor = result.cursor

    @property
    def partitions(self) -> list[str]:
        return list(self.instance.get_dynamic_partitions(METADATA_FILES))

    def observations(self, shard: str) -> list[AssetObservation]:
        """Those of the papers of a shard."""
        of_shard = AssetRecordsFilter(asset_key=AssetKey("papers"), asset_partitions=[shard])
        records = self.instance.fetch_observations(of_shard, limit=100).records
        return [r.event_log_entry.asset_observation for r in records if r.event_log_entry.asset_observation]


@pytest.fixture
def folder(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty metadata folder, which the environment names."""
    made = tmp_path / "metadata"
    made.mkdir()
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    monkeypatch.setenv("ARXIV_EMBED_METADATA_DIR", str(made))
    return made


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    place = tmp_path / "dagster"
    place.mkdir()
    with DagsterInstance.local_temp(str(place)) as instance:
        yield Daemon(instance)


def lines_of(count: int, first: int = 1) -> bytes:
    return b"".join(
        b'{"id": "0704.%04d", "title": "A title"}\n' % (number % 9999) for number in range(first, first + count)
    )


def compressed_lines(count: int) -> bytes:
    """Lines of which no two are alike, as a file that is small for what it holds is taken for one shard."""
    titles = (hashlib.sha256(b"%d" % number).hexdigest() for number in range(count))
    return gzip.compress(b"".join(b'{"id": "0704.0001", "title": "%s"}\n' % title.encode() for title in titles))


def write(folder: Path, *names: str, papers: int = 1) -> None:
    """Files of so many papers; one that is there becomes longer."""
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as file:
            file.write(lines_of(papers))


def waiting_run(instance: DagsterInstance, status: DagsterRunStatus) -> DagsterRun:
    run = DagsterRun(job_name="embed_pending", status=status, tags={SENSOR_NAME_TAG: "new_metadata"})
    return instance.add_run(run)


def test_it_stands_still_until_it_is_switched_on_and_asks_for_the_job_that_does_what_is_missing() -> None:
    assert new_metadata.name == "new_metadata"
    assert new_metadata.default_status == DefaultSensorStatus.STOPPED
    assert [target.job_name for target in new_metadata.targets] == ["embed_pending"]
    validate_run_config(defs.resolve_job_def("embed_pending"), {})  # which is what a request gives it


def test_without_a_metadata_folder_a_tick_is_skipped_with_the_reason_and_begins_once_there_is_one(
    folder: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARXIV_EMBED_METADATA_DIR")
    assert "set ARXIV_EMBED_METADATA_DIR" in daemon.tick()
    monkeypatch.setenv("ARXIV_EMBED_METADATA_DIR", str(folder))
    folder.rmdir()
    assert f"There is no metadata folder {folder}" in daemon.tick()
    folder.mkdir()
    assert daemon.tick() == NOTHING_NEW


def test_new_files_become_partitions_and_one_run_and_are_not_asked_for_again(folder: Path, daemon: Daemon) -> None:
    write(folder, "b.jsonl", "a.jsonl", "2401.00001.json", "2401.00002.json", "hep-th_9901001.json")
    (folder / "README.txt").write_text("nothing")
    assert daemon.tick() == f"{NOTHING_NEW}; 5 seen for the first time, to be looked at once more"
    assert daemon.partitions == []
    assert daemon.tick() == "run"
    assert daemon.partitions == ["a.jsonl", "b.jsonl", "month:2401", "month:9901"]
    for _ in range(3):
        assert daemon.tick() == NOTHING_NEW
    assert len(daemon.run_keys) == 1


def test_the_run_that_is_asked_for_does_what_is_new(
    options: RunOptions, pool: FakePool, daemon: Daemon, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARXIV_EMBED_METADATA_DIR", str(small_folder))
    daemon.tick()
    assert daemon.tick() == "run"
    assert execute("embed_pending", options, daemon.instance).success
    assert materialized(daemon.instance, "vector_store") == {"first.jsonl", "second.jsonl"}
    assert daemon.tick() == NOTHING_NEW


def test_a_changed_file_is_asked_for_once_more(folder: Path, daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder, "a.jsonl", "b.jsonl", "2401.00001.json")
    daemon.tick()
    daemon.tick()
    write(folder, "a.jsonl", "2401.00002.json", "c.jsonl")
    assert "2 still being written, 0 removed; 1 seen for the first time" in daemon.tick()
    capfd.readouterr()
    assert daemon.tick() == "run"
    assert "1 new shard, 2 changed, 0 still being written, 0 removed" in capfd.readouterr().err
    assert daemon.partitions == ["a.jsonl", "b.jsonl", "month:2401", "c.jsonl"]
    assert daemon.tick() == NOTHING_NEW
    assert len(daemon.run_keys) == 2


def test_a_file_that_is_still_being_written_waits_and_holds_up_no_other(folder: Path, daemon: Daemon) -> None:
    write(folder, "grows.jsonl", "rests.jsonl")
    daemon.tick()
    write(folder, "grows.jsonl")
    assert daemon.tick() == "run"
    assert daemon.partitions == ["rests.jsonl"]
    for _ in range(3):
        write(folder, "grows.jsonl")
        assert daemon.tick() == "0 new shards, 0 changed, 1 still being written, 0 removed"
    assert daemon.tick() == "run"
    assert daemon.partitions == ["rests.jsonl", "grows.jsonl"]


def test_a_tick_that_was_never_recorded_is_asked_again_under_the_same_key(folder: Path, daemon: Daemon) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    lost = daemon.look()
    assert isinstance(lost, SensorResult)
    daemon.record(lost, cursor=False)  # the run is launched, and the daemon killed before it notes the cursor
    assert daemon.tick() == "run"
    assert len(daemon.run_keys) == 1
    daemon.look()
    write(folder, "b.jsonl")
    daemon.look()
    daemon.look()
    daemon.tick()
    assert daemon.tick() == "run"
    assert len(daemon.run_keys) == 2


def test_a_tick_in_another_process_goes_on_from_the_cursor(folder: Path, daemon: Daemon, tmp_path: Path) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    code = (
        "import sys\n"
        "from dagster import DagsterInstance, build_sensor_context\n"
        "from arxiv_embed.pipeline.sensors import new_metadata\n"
        "with DagsterInstance.local_temp(sys.argv[1]) as instance:\n"
        "    result = new_metadata(build_sensor_context(instance=instance, cursor=sys.argv[2]))\n"
        "print(result.cursor, result.run_requests[0].run_key)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "dagster"), str(daemon.cursor)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    here = daemon.look()
    assert isinstance(here, SensorResult)
    assert here.run_requests is not None
    assert done.stdout.split() == [here.cursor, here.run_requests[0].run_key]
    daemon.cursor = here.cursor
    assert daemon.tick() == NOTHING_NEW


def test_only_the_documents_that_may_still_be_needed_are_kept(folder: Path, daemon: Daemon, settings: Settings) -> None:
    for number in range(5):
        write(folder, f"{number}.jsonl")
        daemon.tick()
        daemon.look()
    assert len(str(daemon.cursor)) < 60
    write(folder, "more.jsonl")
    daemon.tick()
    daemon.tick()
    daemon.tick()
    assert [path.name for path in (settings.home / "watch").iterdir()] == [daemon.cursor]


def lose(document: Path) -> None:
    document.unlink()


def change_a_byte(document: Path) -> None:
    raw = bytearray(document.read_bytes())
    raw[len(raw) // 2] ^= 1
    document.write_bytes(raw)


def cut_off(document: Path) -> None:
    document.write_bytes(document.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [lose, change_a_byte, cut_off])
def test_a_damaged_state_is_said_and_all_is_asked_for_once_more(
    folder: Path, daemon: Daemon, settings: Settings, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    daemon.tick()
    damage(settings.home / "watch" / str(daemon.cursor))
    capfd.readouterr()
    assert "1 seen for the first time" in daemon.tick()
    assert "What was known of the metadata folder is lost" in capfd.readouterr().err
    assert daemon.tick() == "run"
    assert len(daemon.run_keys) == 2
    assert daemon.tick() == NOTHING_NEW
    assert "is lost" not in capfd.readouterr().err
    assert [path.name for path in (settings.home / "watch").iterdir()] == [daemon.cursor]


@pytest.mark.parametrize("cursor", [None, "", "12", "../../etc/passwd"])
def test_a_cursor_that_was_set_anew_by_hand_asks_for_all_once_more(
    folder: Path, daemon: Daemon, settings: Settings, cursor: str | None
) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        write(folder, name)
        daemon.tick()
        daemon.tick()
    daemon.cursor = cursor
    daemon.tick()
    assert daemon.tick() == "run"
    assert len(daemon.run_keys) == 4
    assert daemon.tick() == NOTHING_NEW
    assert [path.name for path in (settings.home / "watch").iterdir()] == [daemon.cursor]


def test_another_metadata_folder_is_all_new_and_nothing_of_the_first_counts_as_removed(
    folder: Path, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    daemon.tick()
    other = tmp_path / "other"
    other.mkdir()
    write(other, "b.jsonl")
    monkeypatch.setenv("ARXIV_EMBED_METADATA_DIR", str(other))
    assert daemon.tick() == f"{NOTHING_NEW}; 1 seen for the first time, to be looked at once more"
    assert daemon.tick() == "run"


def test_a_removed_file_is_told_once_and_stays_a_partition(
    folder: Path, daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, "a.jsonl", "b.jsonl")
    write(folder, "large.jsonl", papers=DEFAULT_SHARD_PAPERS + 1)
    daemon.tick()
    daemon.tick()
    (folder / "a.jsonl").unlink()
    (folder / "large.jsonl").unlink()
    capfd.readouterr()
    assert daemon.tick() == "0 new shards, 0 changed, 0 still being written, 2 removed"
    assert "a.jsonl was removed from the metadata folder: its papers stay in the store" in capfd.readouterr().err
    assert daemon.tick() == NOTHING_NEW
    for shard in ("a.jsonl", "large.jsonl@0000", "large.jsonl@0001"):
        [observation] = daemon.observations(shard)
        assert "stay in the store" in (observation.description or "")
    assert daemon.observations("b.jsonl") == []
    assert daemon.partitions == ["a.jsonl", "b.jsonl", "large.jsonl@0000", "large.jsonl@0001"]
    write(folder, "a.jsonl")
    daemon.tick()
    assert daemon.tick() == "run"
    (folder / "a.jsonl").unlink()
    daemon.tick()
    assert len(daemon.observations("a.jsonl")) == 2


def test_removed_files_of_a_month_are_told_by_their_names_and_the_month_is_asked_for(
    folder: Path, daemon: Daemon
) -> None:
    write(folder, *(f"2401.{number:05d}.json" for number in range(1, 9)))
    daemon.tick()
    daemon.tick()
    for number in (2, 3, 5, 7):
        (folder / f"2401.{number:05d}.json").unlink()
    write(folder, "2401.00009.json")
    assert daemon.tick() == "0 new shards, 0 changed, 1 still being written, 4 removed"
    [observation] = daemon.observations("month:2401")
    assert observation.metadata["removed"].value == 4
    assert "(2401.00002.json, 2401.00003.json, 2401.00005.json, …)" in (observation.description or "")
    assert daemon.tick() == "run"
    assert daemon.tick() == NOTHING_NEW
    assert len(daemon.observations("month:2401")) == 1


@pytest.mark.parametrize("content", ["", "nothing"])
def test_a_file_that_holds_metadata_no_longer_is_told_once_as_what_it_is(
    folder: Path, daemon: Daemon, content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    daemon.tick()
    (folder / "a.jsonl").write_text(content)
    daemon.tick()
    capfd.readouterr()
    assert daemon.tick() == f"{NOTHING_NEW}; 1 without metadata now"
    text = "a.jsonl holds no metadata any more: its papers stay in the store"
    assert text in capfd.readouterr().err
    assert daemon.tick() == NOTHING_NEW
    [observation] = daemon.observations("a.jsonl")
    assert text in (observation.description or "")
    (folder / "a.jsonl").unlink()
    assert daemon.tick() == NOTHING_NEW


def test_a_bad_entry_is_named_in_each_tick_and_all_else_is_taken(folder: Path, daemon: Daemon) -> None:
    write(folder, "a.jsonl", "sub/2401.00001.json")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "linked").symlink_to(folder / "sub")
    (folder / "lost+found").mkdir(mode=0o000)
    said = (
        "; passed over: linked/ (a link), loop.jsonl (Too many levels of symbolic links), "
        "lost+found (Permission denied)"
    )
    with permissions_bind():
        assert daemon.tick() == f"{NOTHING_NEW}; 2 seen for the first time, to be looked at once more{said}"
        assert daemon.tick() == "run"
        assert daemon.partitions == ["a.jsonl", "month:2401"]
        assert daemon.tick() == NOTHING_NEW + said
        for name in ("l1", "l2"):
            (folder / name).symlink_to(name)
        assert daemon.tick().endswith(
            "; passed over: l1 (Too many levels of symbolic links), l2 (Too many levels of symbolic links), "
            "linked/ (a link), …"
        )


def test_what_lies_below_a_folder_that_cannot_be_read_for_now_is_not_removed_and_not_asked_for(
    folder: Path, daemon: Daemon
) -> None:
    write(folder, "a.jsonl", "b.jsonl", "2401.00001.json")
    write(folder, "sub/c.jsonl", "sub/2401.00002.json", "sub/2402.00001.json")
    daemon.tick()
    daemon.tick()
    (folder / "sub").chmod(0o000)
    with permissions_bind():
        for _ in range(2):
            assert daemon.tick() == f"{NOTHING_NEW}; passed over: sub (Permission denied)"
        (folder / "b.jsonl").unlink()
        assert "1 removed; passed over: sub (Permission denied)" in daemon.tick()
        (folder / "sub").chmod(0o700)
        assert daemon.tick() == NOTHING_NEW
    assert len(daemon.run_keys) == 1
    for shard in ("sub/c.jsonl", "month:2401", "month:2402"):
        assert daemon.observations(shard) == []
    (folder / "sub" / "c.jsonl").unlink()
    assert daemon.tick().endswith("1 removed")


def test_a_file_that_cannot_be_read_is_named_holds_up_no_other_and_is_asked_for_once_it_can_be(
    folder: Path, daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, "a.jsonl", "closed.jsonl")
    (folder / "closed.jsonl").chmod(0o000)
    cannot = "; 1 cannot be read: closed.jsonl (Permission denied)"
    with permissions_bind():
        daemon.tick()
        capfd.readouterr()
        assert daemon.tick() == "run"
        assert f"1 new shard, 0 changed, 0 still being written, 0 removed{cannot}" in capfd.readouterr().err
        assert daemon.partitions == ["a.jsonl"]
        for _ in range(2):
            assert daemon.tick() == NOTHING_NEW + cannot
        (folder / "closed.jsonl").chmod(0o600)
        assert daemon.tick() == "run"
        assert daemon.partitions == ["a.jsonl", "closed.jsonl"]
        assert daemon.tick() == NOTHING_NEW
    assert len(daemon.run_keys) == 2


def test_a_changed_file_that_cannot_be_read_is_neither_emptied_nor_taken_until_it_can_be(
    folder: Path, daemon: Daemon
) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    daemon.tick()
    write(folder, "a.jsonl")
    (folder / "a.jsonl").chmod(0o000)
    with permissions_bind():
        daemon.tick()
        assert daemon.tick() == f"{NOTHING_NEW}; 1 cannot be read: a.jsonl (Permission denied)"
    (folder / "a.jsonl").chmod(0o600)
    assert daemon.tick() == "run"
    assert daemon.observations("a.jsonl") == []


def test_a_metadata_folder_that_cannot_be_read_is_said_and_nothing_in_it_counts_as_removed(
    folder: Path, daemon: Daemon
) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    daemon.tick()
    for mode in (0o000, 0o400):
        folder.chmod(mode)
        with permissions_bind():
            assert (
                daemon.tick() == f"The folder {folder} cannot be read (Permission denied): mend that, or name another."
            )
        folder.chmod(0o700)
        assert daemon.tick() == NOTHING_NEW


def test_a_large_file_is_cut_over_several_ticks_each_going_on_where_the_last_one_came(
    folder: Path, daemon: Daemon, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(folder, "large.jsonl", papers=2 * DEFAULT_SHARD_PAPERS + 1)
    size = (folder / "large.jsonl").stat().st_size
    monkeypatch.setattr(sensors, "CUTTING_SECONDS", 0.0)
    monkeypatch.setattr(cuts, "BLOCK", -(-size // 5))
    daemon.tick()
    said = [daemon.tick()]
    while said[-1] != "run":
        assert said[-1] == f"{NOTHING_NEW}; 1 still to be cut"
        assert len(said) < 10
        said.append(daemon.tick())
    assert len(said) == 6  # five blocks, and the end
    listing = list_folder(folder, shard_papers=DEFAULT_SHARD_PAPERS, index=tmp_path / "fresh")
    assert daemon.partitions == [shard.key for shard in listing.shards]
    assert list_folder(folder, shard_papers=DEFAULT_SHARD_PAPERS, index=settings.index) == listing
    assert [path.suffix for path in settings.index.iterdir()] == [".json"]
    assert daemon.tick() == NOTHING_NEW
    assert len(daemon.run_keys) == 1


def test_a_large_file_that_changes_while_it_is_cut_is_cut_anew(
    folder: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(folder, "large.jsonl", papers=DEFAULT_SHARD_PAPERS + 1)
    monkeypatch.setattr(sensors, "CUTTING_SECONDS", 0.0)
    monkeypatch.setattr(cuts, "BLOCK", 400_000)
    daemon.tick()
    daemon.tick()
    (folder / "large.jsonl").write_bytes(lines_of(3 * DEFAULT_SHARD_PAPERS, first=7))
    assert "run" in [daemon.tick() for _ in range(10)]
    listing = list_folder(folder, shard_papers=DEFAULT_SHARD_PAPERS, index=tmp_path / "fresh")
    assert daemon.partitions == [shard.key for shard in listing.shards]


def test_a_large_compressed_file_is_left_to_the_run_when_the_time_is_up(
    folder: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "large.jsonl.gz").write_bytes(compressed_lines(DEFAULT_SHARD_PAPERS + 1))
    monkeypatch.setattr(sensors, "CUTTING_SECONDS", 0.0)
    daemon.tick()
    assert daemon.tick() == "run"
    assert daemon.partitions == []
    assert daemon.tick() == NOTHING_NEW
    daemon.instance.add_dynamic_partitions(METADATA_FILES, ["large.jsonl.gz@0000", "large.jsonl.gz@0001"])  # by the run
    (folder / "large.jsonl.gz").unlink()
    assert daemon.tick().endswith("1 removed")
    assert len(daemon.observations("large.jsonl.gz@0001")) == 1


def test_a_large_compressed_file_is_cut_where_the_time_suffices(folder: Path, daemon: Daemon) -> None:
    (folder / "large.jsonl.gz").write_bytes(compressed_lines(DEFAULT_SHARD_PAPERS + 1))
    daemon.tick()
    assert daemon.tick() == "run"
    assert daemon.partitions == ["large.jsonl.gz@0000", "large.jsonl.gz@0001"]


def test_what_comes_while_a_run_is_under_way_waits_for_its_end_and_is_then_asked_for_at_once(
    folder: Path, daemon: Daemon
) -> None:
    write(folder, "a.jsonl")
    daemon.tick()
    daemon.tick()
    for status in (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED):
        run = waiting_run(daemon.instance, status)
        for number in range(3):
            write(folder, f"{status.value}-{number}.jsonl")
            daemon.tick()
        assert daemon.tick() == f"{NOTHING_NEW}; 3 wait for run {run.run_id[:8]} to end"
        daemon.instance.report_run_canceled(run)
        assert daemon.tick() == "run"
    assert len(daemon.run_keys) == 3
    assert len(daemon.partitions) == 7


def test_a_run_that_was_killed_keeps_nothing_waiting_once_that_is_noticed(folder: Path, daemon: Daemon) -> None:
    run = waiting_run(daemon.instance, DagsterRunStatus.STARTED)
    ended = subprocess.Popen(["true"])
    ended.wait()
    daemon.instance.report_engine_event("Started", run, EngineEventData({"pid": str(ended.pid)}))
    write(folder, "a.jsonl")
    daemon.tick()
    assert daemon.tick().endswith(f"1 wait for run {run.run_id[:8]} to end")
    watch_for_killed_runs(build_sensor_context(instance=daemon.instance))
    assert daemon.tick() == "run"


def test_runs_that_others_asked_for_keep_nothing_waiting(folder: Path, daemon: Daemon) -> None:
    daemon.instance.add_run(DagsterRun(job_name="embed_pending", status=DagsterRunStatus.STARTED))
    write(folder, "a.jsonl")
    daemon.tick()
    assert daemon.tick() == "run"


def test_a_sensor_that_was_off_catches_up_with_one_run(folder: Path, daemon: Daemon) -> None:
    write(folder, *(f"{number}.jsonl" for number in range(10)))
    daemon.tick()
    daemon.tick()
    for number in range(10):
        write(folder, f"{number + 5}.jsonl", f"2401.{number + 1:05d}.json")
    (folder / "0.jsonl").unlink()
    said = daemon.tick()
    assert said.startswith("0 new shards, 0 changed, 5 still being written, 1 removed; 6 seen for the first time")
    assert daemon.tick() == "run"
    assert daemon.tick() == NOTHING_NEW
    assert len(daemon.run_keys) == 2


def test_a_tick_adds_so_many_partitions_and_leaves_the_others_to_the_run(
    folder: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensors, "MOST_ADDED", 3)
    write(folder, *(f"{number}.jsonl" for number in range(9)))
    daemon.tick()
    assert daemon.tick() == "run"
    assert daemon.partitions == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert daemon.tick() == NOTHING_NEW


def test_what_the_project_writes_is_no_metadata(folder: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(folder / "home"))
    monkeypatch.setenv("ARXIV_EMBED_STORE", str(folder / "store"))
    write(folder, "a.jsonl", "home/b.jsonl", "home/checkpoints/c.jsonl", "store/d.jsonl")
    daemon.tick()
    assert daemon.tick() == "run"
    assert daemon.partitions == ["a.jsonl"]


def test_names_of_any_bytes_are_watched(folder: Path, daemon: Daemon) -> None:
    name = os.fsdecode(b"\xff,...\n.jsonl")
    write(folder, name)
    (folder / os.fsdecode(b"\xfe")).mkdir()
    write(folder / os.fsdecode(b"\xfe"), "2401.00001.json", "2401.00002.json")
    daemon.tick()
    assert daemon.tick() == "run"
    assert daemon.partitions == ["%FF%2C%2E%2E%2E%0A.jsonl", "month:2401"]
    (folder / name).unlink()
    (folder / os.fsdecode(b"\xfe") / "2401.00001.json").unlink()
    assert daemon.tick().endswith("2 removed")
    assert "\\xfe/2401.00001.json" in (daemon.observations("month:2401")[0].description or "")


def test_a_state_of_another_version_counts_as_lost(folder: Path, daemon: Daemon, settings: Settings) -> None:
    from arxiv_embed.pipeline.states import States, _name

    text = json.dumps({"metadata_dir": str(folder), "sources": {"a.jsonl": ["1-1"]}}).encode()
    (settings.home / "watch").mkdir(parents=True)
    (settings.home / "watch" / _name(7, text)).write_bytes(text)
    state = States(settings.home / "watch", folder).load(_name(7, text))
    assert "another version wrote it" in state.lost
    assert state.known == {}
