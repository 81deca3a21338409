"""A run's share of the log: its events once, each with run, shard, device and batch, and nothing secret."""

from __future__ import annotations

import errno
import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from arxiv_embed import events
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.checkpoint.quarantine import Damage, Quarantine
from arxiv_embed.errors import ArxivEmbedError, Kind
from arxiv_embed.gpu.health import Action, DeviceHealth, Verdict
from arxiv_embed.gpu.inventory import DeviceFacts
from arxiv_embed.journal import Journal
from arxiv_embed.log.file import LogFile
from arxiv_embed.log.lines import lines_of
from arxiv_embed.log.writer import RunLog
from arxiv_embed.settings import LOG_LEVELS, Settings
from arxiv_embed_tests.test_progress import started

BATCH = events.BatchDone("a.jsonl", "cuda:1", 20, 9_000, 9_100, 0.5, 3 << 30, 2 << 30, number=7)
EVENTS = [
    started("a.jsonl"),
    events.DevicesFound([asdict(DeviceFacts("cuda:1", "cuda", "H200"))]),
    events.MetricsServed("http://127.0.0.1:9400/metrics"),
    events.PoolReady("bfloat16", 4.0),
    events.ShardStarted("a.jsonl", 30),
    events.PapersRead("a.jsonl", 30, 1, 0, 0, 0.1),
    events.TextsWaiting("a.jsonl", 30, 9_000),
    BATCH,
    events.HealthReported(1, 0.1, 5, 0.5, 1 << 30, [asdict(DeviceHealth("cuda:1"))]),
    events.DeviceIncident("a.jsonl", "cuda:1", "lost", "its worker ended"),
    events.PaperFailed("a.jsonl", "2401.00001", "it ends the worker"),
    events.SegmentSaved("a.jsonl", 20),
    events.ShardEmbedded("a.jsonl", 30, 3, 90, 9_000, 9_000, 9_100, 0, 0, 0, 1.0),
    events.ShardStored("a.jsonl", 120, 120, 0, 0.2),
    events.StoreFinished(300, 1_200),
    events.ShardFailed("a.jsonl", "it does not verify"),
    events.ErrorMet("a.jsonl", "transient", "away", "again in 4 s"),
    events.DamageFound("embeddings/a", "vectors.arrow", "its sha256 is another", "its backup is used", "/q/1"),
    events.ShardLeft("b.jsonl", "process 3 on host"),
    events.ShardGivenUp("c.jsonl", 3, "it does not verify"),
    events.RunFinished("done", "", 9.0),
]


def logged(settings: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in settings.log.read_text().splitlines()]


def test_every_event_there_is_becomes_a_line_that_says_run_shard_device_and_batch(settings: Settings) -> None:
    assert {type(event) for event in EVENTS} == set(events.Event.__subclasses__())
    with RunLog(settings, "r1", "debug") as log:
        for event in EVENTS:
            log.record(event)
    lines = logged(settings)
    assert [line["event"] for line in lines] == [event.name for event in EVENTS]
    for line in lines:
        assert list(line)[:8] == ["time", "level", "event", "message", "run", "shard", "device", "batch"]
        assert line["time"].endswith("+00:00")
        assert line["run"] == "r1"
        assert line["message"]
    of_batch = next(line for line in lines if line["event"] == "batch")
    assert (of_batch["shard"], of_batch["device"], of_batch["batch"], of_batch["tokens"]) == (
        "a.jsonl",
        "cuda:1",
        7,
        9_000,
    )
    assert lines[0]["batch"] is None
    assert lines[0]["shards"] == 1


def test_levels_say_how_much_an_event_matters_and_leave_out_what_matters_less(settings: Settings) -> None:
    levels = {event.name: line.level for event in EVENTS for line in lines_of(event)}
    assert {name for name, level in levels.items() if level == "debug"} == {"batch", "texts_waiting"}
    assert {name for name, level in levels.items() if level == "warning"} == {
        "device_incident",
        "error",
        "damage",
        "shard_left",
    }
    assert {name for name, level in levels.items() if level == "error"} == {
        "paper_failed",
        "shard_failed",
        "shard_given_up",
    }
    for least in ("info", "warning", "error"):
        settings.log.unlink(missing_ok=True)
        with RunLog(settings, "r", least) as log:
            for event in EVENTS:
                log.record(event)
        wanted = [name for name, level in levels.items() if LOG_LEVELS.index(level) >= LOG_LEVELS.index(least)]
        assert [line["event"] for line in logged(settings)] == wanted


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (events.RunFinished("interrupted", "", 1.0), "warning"),
        (events.RunFinished("failed", "no space", 1.0), "error"),
        (events.DeviceIncident("a", "cuda:0", "back", "it is tried again"), "info"),
        (events.ErrorMet("a", "permanent", "broken", "not tried again"), "error"),
    ],
)
def test_a_level_depends_on_what_an_event_says(event: events.Event, level: str) -> None:
    assert [line.level for line in lines_of(event)] == [level]


def test_a_report_of_health_is_a_line_a_device_and_from_whichever_thread(settings: Settings) -> None:
    hot = DeviceHealth("cuda:0", Verdict.HOT, ["91 °C"], Action.PAUSE, temperature=91.0)
    retired = DeviceHealth("cuda:1", Verdict.RETIRED, ["XID 79"])
    report = events.HealthReported(4, 0.2, 5, 0.9, 1 << 30, [asdict(hot), asdict(retired)])
    with RunLog(settings, "r") as log:
        thread = threading.Thread(target=log.record, args=(report,))
        thread.start()
        thread.join()
    first, second = logged(settings)
    assert (first["device"], first["level"], first["message"]) == ("cuda:0", "warning", "hot (91 °C): pause")
    assert (first["temperature"], first["report"], first["late"]) == (91.0, 4, 0.2)
    assert (second["device"], second["level"], second["message"]) == ("cuda:1", "error", "retired (XID 79)")


def test_a_journal_logs_what_it_records_and_what_it_tells_once(settings: Settings) -> None:
    told: list[str] = []
    with Journal(settings, "r", told.append, lambda damage: None) as journal:
        journal.record(BATCH)
        journal.leave("b.jsonl", Locked("The shard", "process 3 on host"))
        journal.give_up("c.jsonl", 3, "broken")
        journal.fail("a.jsonl", ArxivEmbedError("It is broken."))
        journal.met("a.jsonl", ArxivEmbedError("Away."), Kind.TRANSIENT, "again in 4 s")
        journal.damaged(Damage("embeddings/a", "vectors.arrow", "cut short", "its backup is used"))
        journal.tell("a.jsonl: goes on from 3 segments")
        journal.finish(None)
    assert [line["event"] for line in logged(settings)] == [
        "shard_left",
        "shard_given_up",
        "shard_failed",
        "error",
        "damage",
        "notice",
        "run_finished",
    ]
    assert told[-1] == "a.jsonl: goes on from 3 segments"


def test_damage_that_a_checkpoint_store_finds_is_logged_once(settings: Settings) -> None:
    with Journal(settings, "r", lambda line: None, lambda damage: None) as journal:
        damage = Damage("embeddings/a", "vectors.arrow", "cut short", "its backup is used")
        Quarantine(settings.checkpoints / "quarantine", journal.damaged).report(damage)
    assert [line["event"] for line in logged(settings)] == ["damage"]


def test_warnings_of_libraries_are_taken_in_with_their_exception_in_the_same_line(settings: Settings) -> None:
    library = logging.getLogger("some.library")
    with RunLog(settings, "r"):
        library.warning("pool of %s is full", "connections")
        try:
            raise ValueError("not a number")
        except ValueError:
            library.exception("could not parse")
        library.info("not of interest")
    library.warning("after the run")
    warning, error = logged(settings)
    assert (warning["level"], warning["logger"], warning["message"]) == (
        "warning",
        "some.library",
        "pool of connections is full",
    )
    assert error["level"] == "error"
    assert error["exception"].startswith("Traceback")
    assert error["exception"].rstrip().endswith("ValueError: not a number")


def test_no_secret_is_in_the_log_whatever_says_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/XUtn")
    monkeypatch.setenv("ARXIV_EMBED_WEBHOOK", "https://hooks.example/T0/B0/abcdef")
    said = (
        "postgresql://arxiv:hunter2@db/papers?p%61ssword=hunter3 password=hunter4 then wJalr/XUtn and "
        "https://hooks.example/T0/B0/abcdef with hf_AbCdEfGhIjKlMnOpQrSt"
    )
    with Journal(settings, "r", lambda line: None, lambda damage: None) as journal:
        journal.record(events.ErrorMet(said, "transient", said, said))
        journal.record(events.DevicesFound([asdict(DeviceFacts("cpu:0", "cpu", said))]))
        journal.tell(said)
        try:
            raise ValueError(said)
        except ValueError:
            logging.getLogger("some.library").exception(said)
    text = settings.log.read_text()
    assert len(text.splitlines()) == 4
    for secret in ("hunter", "wJalr", "hooks.example", "AbCdEf"):
        assert secret not in text
    assert "postgresql://arxiv:***@" in text


class FullDisk(LogFile):
    """A disk on which nothing has room."""

    def append(self, line: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_written_is_told_once_and_stops_nothing(settings: Settings, tmp_path: Path) -> None:
    told: list[str] = []
    with RunLog(settings, "r", tell=told.append, file=FullDisk(settings.log, tmp_path / "lock")) as log:
        for event in EVENTS:
            log.record(event)
        logging.getLogger("some.library").warning("and this")
    [sentence] = told
    assert str(settings.log) in sentence
    assert "No space left on device" in sentence


def test_a_folder_in_the_log_s_place_stops_no_run_and_one_that_makes_room_is_written_to(settings: Settings) -> None:
    told: list[str] = []
    settings.log.mkdir(parents=True)
    with Journal(settings, "r", told.append, lambda damage: None) as journal:
        journal.record(events.PoolReady("float32", 1.0))
        journal.record(events.SegmentSaved("a", 3))
        assert len(told) == 1
        settings.log.rmdir()
        journal.record(events.SegmentSaved("a", 4))
    assert [line["papers"] for line in logged(settings)] == [4]
