"""Soundness: what a damaged record, or one of another version, says is passed over, and every display goes on."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

import pytest

from arxiv_embed.events import Event
from arxiv_embed.exposition import openmetrics_of
from arxiv_embed.metrics import metrics_of
from arxiv_embed.monitor.glyphs import UNICODE
from arxiv_embed.monitor.snapshot import snapshot
from arxiv_embed.monitor.sources import HomeSource
from arxiv_embed.processes import ProcessId
from arxiv_embed.record import RECORD, ProgressReader, progress_path
from arxiv_embed.report.writing import write_report
from arxiv_embed.settings import Settings
from arxiv_embed.soundness import require_sound
from arxiv_embed_tests import records

KINDS = {kind.name: kind for kind in Event.__subclasses__()}


def lines(settings: Settings) -> list[dict[str, Any]]:
    path = progress_path(settings, "r")
    records.write(path, records.under_way())
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_whatever_a_run_writes_is_sound(settings: Settings) -> None:
    told = lines(settings)
    for line in told:
        require_sound(line)
    assert {"run_started", "devices_found", "batch", "health", "error"} <= {line["event"] for line in told}


def test_an_event_that_is_not_known_needs_a_time_alone() -> None:
    require_sound({"event": "of_another_version", "time": 1.5, "shard": 7})
    with pytest.raises(ValueError, match="time"):
        require_sound({"event": "of_another_version", "time": "now"})


def test_a_process_is_told_whole_and_may_tell_more_than_is_known(settings: Settings) -> None:
    begun, *_ = lines(settings)
    process: dict[str, Any] = {"host": "here", "pid": 7, "started": "1"}
    with pytest.raises(ValueError, match="none"):
        require_sound({**begun, "process": {"host": "here", "pid": 7}})
    record = settings.runs / "r" / RECORD
    record.write_text(json.dumps({**begun, "process": {**process, "of_a_later_version": 1}}) + "\n")
    assert ProgressReader(record).poll().process == ProcessId(**process)


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        ("batch", "tokens", "many"),
        ("batch", "tokens", float("nan")),
        ("batch", "seconds", None),
        ("batch", "peak_memory", 10**30),
        ("batch", "device", ["cpu:0"]),
        ("batch", "shard", 1.5),
        ("batch", "time", 1e15),
        ("batch", "papers", -1),
        ("batch", "papers", 1.5),
        ("batch", "seconds", -0.1),
        ("batch", "peak_memory", 2**50),
        ("error", "kind", "unknown"),
        ("health", "cpu", "half"),
        ("health", "devices", {"verdict": "ok"}),
        ("health", "devices", [{"device": "cpu:0"}]),
        ("health", "devices", [{"device": "cpu:0", "verdict": ["ok"]}]),
        ("health", "devices", [{"device": "cpu:0", "verdict": "ok", "reasons": 3}]),
        ("health", "devices", [{"device": "cpu:0", "verdict": "ok", "power": []}]),
        ("devices_found", "devices", [7]),
        ("pool_ready", "dtype", {}),
        ("shard_started", "records", "all"),
        ("error", "message", 4),
        ("run_finished", "state", ["done"]),
    ],
)
def test_a_line_with_a_field_of_another_kind_is_passed_over_by_every_display(
    settings: Settings, event: str, field: str, value: object
) -> None:
    told = lines(settings)
    damaged = [{**line, field: value} for line in told if line["event"] == event]
    for line in damaged:
        with pytest.raises(ValueError, match=r"another kind|no time"):
            require_sound(line)
    show_all(settings, told, event, damaged or [{"event": event, "time": told[-1]["time"], field: value}])


@pytest.mark.parametrize("event", ["shard_started", "batch", "papers_read", "shard_embedded", "health", "run_finished"])
def test_a_line_that_lacks_a_field_is_passed_over_as_a_whole(settings: Settings, event: str) -> None:
    told = lines(settings)
    line = next((line for line in told if line["event"] == event), {"event": event, "time": told[-1]["time"]})
    always = [field.name for field in fields(KINDS[event]) if field.default is MISSING]
    assert always
    for name in always:
        with pytest.raises(ValueError, match="none"):
            require_sound({other: value for other, value in line.items() if other != name})
    show_all(settings, told, event, [{"event": event, "time": line["time"]}])


@pytest.mark.parametrize("event", [kind for kind in KINDS if kind != "run_started"])
def test_a_line_that_lacks_a_field_changes_nothing_of_a_runs_state(settings: Settings, event: str) -> None:
    told = lines(settings)
    record = settings.runs / "r" / RECORD
    before = metrics_of(ProgressReader(record).poll(), 0.0)
    whole = next((line for line in told if line["event"] == event), None)
    whole = whole or {"event": event, "time": 0.0, **{field.name: "x" for field in fields(KINDS[event])}}
    *_, last = (field.name for field in fields(KINDS[event]) if field.default is MISSING)
    with record.open("a") as file:
        file.write(json.dumps({**whole, last: None} | {"event": event}) + "\n")
        file.write(json.dumps({name: value for name, value in whole.items() if name != last}) + "\n")
    assert metrics_of(ProgressReader(record).poll(), 0.0) == before


def show_all(settings: Settings, told: list[dict[str, Any]], event: str, damaged: list[dict[str, Any]]) -> None:
    """Shows a record in which these stand instead of the lines of an event."""
    at = next((told.index(line) for line in told if line["event"] == event), len(told))
    content = [*told[:at], *damaged, *(line for line in told[at:] if line["event"] != event)]
    (settings.runs / "r" / RECORD).write_text("".join(f"{json.dumps(line)}\n" for line in content))
    sight = HomeSource(settings, "r").look()
    assert sight is not None
    assert all(line.cell_len <= 80 for line in snapshot(sight, 80, UNICODE))
    assert openmetrics_of(sight.metrics).endswith("# EOF\n")
    assert write_report(settings, "r", settings.checkpoints, None).exists()
