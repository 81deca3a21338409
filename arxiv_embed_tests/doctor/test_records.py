"""What runs leave and need: store, Dagster's database, leases, killed runs, quarantine."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.quarantine import Damage, Quarantine
from arxiv_embed.doctor import records
from arxiv_embed.doctor.check import Check, Question, State, Subject, answers
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.lease import DeviceLeases
from arxiv_embed.processes import ProcessId
from arxiv_embed.settings import Settings
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.stores.shard_rows import Record, write

if TYPE_CHECKING:
    from arxiv_embed_tests.postgres_server import PostgresServer


@pytest.fixture
def subject(settings: Settings) -> Subject:
    return Subject(settings, None, settings.store, settings.model, settings.checkpoints)


def states(*checks: Check) -> list[State]:
    return [check.state for check in checks]


def test_a_home_that_nobody_has_used_lacks_nothing(subject: Subject) -> None:
    assert states(*records.store(subject), *records.dagster_database(subject)) == [State.SKIPPED, State.SKIPPED]
    assert states(*records.leases(subject), *records.killed(subject), *records.quarantine(subject)) == [State.FINE] * 3
    assert not subject.settings.home.exists()


def test_a_store_says_what_it_holds(subject: Subject) -> None:
    with open_store(subject.store, create=True) as store:
        write(store, "a", Record("1"), Record("2"))
    [found] = records.store(subject)
    assert found.state is State.FINE
    assert found.text.endswith("2 papers in 1 space")


def test_a_server_says_which_version_it_is_and_one_that_is_away_is_wrong(
    subject: Subject, postgres: PostgresServer
) -> None:
    with postgres.database() as url:
        settings = replace(subject.settings, postgres_url=url.replace("postgresql://", "postgresql+psycopg2://"))
        examined = replace(subject, store=url, settings=settings)
        for [found] in (list(records.store(examined)), list(records.dagster_database(examined))):
            assert found.state is State.FINE
            assert "PostgreSQL 1" in found.text
    away = "postgresql://arxiv:hunter2@127.0.0.1:1/papers"
    examined = replace(subject, store=away, settings=replace(subject.settings, postgres_url=away))
    found = list(
        answers(
            [
                Question("store", lambda: records.store(examined)),
                Question("Dagster's database", lambda: records.dagster_database(examined)),
            ]
        )
    )
    assert states(*found) == [State.WRONG, State.WRONG]
    assert all("does not answer" in check.text and "hunter2" not in check.text for check in found)


def test_what_is_no_database_s_url_is_wrong(subject: Subject) -> None:
    examined = replace(subject, settings=replace(subject.settings, postgres_url="mysql://host/x"))
    assert states(*records.dagster_database(examined)) == [State.WRONG]


def test_dagster_s_sqlite_is_read_or_wrong(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE runs (id INTEGER)")
        database.execute("INSERT INTO runs VALUES (1)")
    assert records.sqlite(path).text.endswith(": 1 runs")
    path.write_bytes(b"not a database, but long enough to be looked at")
    assert records.sqlite(path).state is State.WRONG


def test_devices_that_a_run_holds_are_named_with_its_process(subject: Subject) -> None:
    with DeviceLeases([Device("cpu:0", "cpu")], subject.settings.leases):
        [found] = records.leases(subject)
        assert found.state is State.WARN
        assert "cpu:0 by process" in found.text
        assert "arxiv-embed monitor" in found.remedy
    assert states(*records.leases(subject)) == [State.FINE]


def test_a_run_that_was_killed_is_told(subject: Subject) -> None:
    ended = subprocess.Popen(["true"])
    gone = ProcessId(ProcessId.of_run().host, ended.pid, "1")
    ended.wait()
    record = subject.settings.runs / "r" / "progress.jsonl"
    record.parent.mkdir(parents=True)
    started = {"time": 1000.0, "event": "run_started", "run_id": "r", "metadata_dir": "/d", "shards": ["a"]}
    started |= {"papers": 9, "unchanged": 0, "model": "m", "space": "s", "devices": ["cpu:0"], "store": "x"}
    record.write_text(json.dumps({**started, "process": vars(gone)}) + "\n")
    [found] = records.killed(subject)
    assert found.state is State.WARN
    assert "was killed after 0 of 9 papers" in found.text


def test_damage_that_was_set_aside_is_told(subject: Subject) -> None:
    file = subject.checkpoints / "papers" / "-" / "a" / "000001.arrow"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"?")
    Quarantine(subject.checkpoints / "quarantine").set_aside(
        [file], Damage.of(CheckpointKey("papers", "a"), file.name, "cut short", "it is done again")
    )
    [found] = records.quarantine(subject)
    assert found.state is State.WARN
    assert found.text.startswith("1 damaged files set aside")
