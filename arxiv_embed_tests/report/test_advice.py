"""Advice: each thing that costs a run time or papers is said with its numbers, and nothing where there is nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from arxiv_embed.events import (
    BatchDone,
    DamageFound,
    DeviceIncident,
    ErrorMet,
    PaperFailed,
    PapersRead,
    RunFinished,
    ShardFailed,
    ShardGivenUp,
    ShardLeft,
)
from arxiv_embed.gpu.health import DeviceHealth, Verdict
from arxiv_embed.report.advice import Advice, advice_of
from arxiv_embed.report.timeline import read_timeline
from arxiv_embed_tests.records import GB, Timed, batch, embedded, healthy, plain_run, started, write


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "a-run" / "progress.jsonl"


def said(record: Path, events: Sequence[Timed], reasons: Counter[str] | None = None) -> list[Advice]:
    timeline = read_timeline(write(record, sorted(events, key=lambda timed: timed[0])))
    timeline.reject_reasons = reasons or Counter()
    return advice_of(timeline)


def reports(*told: DeviceHealth, late: float = 0.0) -> list[Timed]:
    """One every half a second."""
    return [(4 + number / 2, healthy(number, health, late=late)) for number, health in enumerate(told)]


def test_of_a_run_that_went_well_nothing_is_to_be_changed(record: Path) -> None:
    well = [DeviceHealth("cuda:0", temperature=60.0)] * 100
    assert said(record, [*plain_run(), *reports(*well)]) == []


@pytest.mark.parametrize(
    ("happened", "what", "remedy"),
    [
        ([(50.0, ShardFailed("b.jsonl", "no disk"))], "1 of 1 shard failed: b.jsonl: no disk.", "same command again"),
        ([(50.0, ShardGivenUp("b.jsonl", 3, "bad"))], "1 shard has failed too often to be tried", "--resume"),
        ([(50.0, ShardLeft("b.jsonl", "process 9"))], "1 shard left to others", "Run again"),
        ([(50.0, DamageFound("papers a", "0.arrow", "sha256", "set aside", "q"))], "did not verify", "verify"),
        ([(50.0, PaperFailed("a.jsonl", "2401.1", "too odd"))], "1 paper could not be embedded", "--failures"),
        ([(50.0, ErrorMet("a.jsonl", "resource", "no room on db", "again"))], "Met once: no room on db", "Free memory"),
        (
            [(50.0, DeviceIncident("a.jsonl", "cuda:1", "out of memory", "99 papers"))] * 4,
            "cuda:1 ran out of memory 4 times, at last: 99 papers.",
            "--batch-size",
        ),
        ([(50.0, DeviceIncident("a.jsonl", "cuda:1", "lost", "exit code -9"))], "cuda:1 lost its worker once", "log"),
        ([(50.0, DeviceIncident("a.jsonl", "cuda:1", "retired", "for 5 min"))], "cuda:1 was retired", "nvidia-smi"),
        (reports(*[DeviceHealth("cuda:0")] * 9, late=3.5), "9 of 9 reports of health came more than 2 s late", "CPU"),
        (reports(DeviceHealth("cuda:0", Verdict.STALLED, ["no batch in 60 s"])), "stalled for 100%", "driver"),
        (reports(DeviceHealth("cuda:0", xid=[79, 48])), "cuda:0 reported XID 48, 79.", "NVIDIA's list"),
        (reports(DeviceHealth("cuda:0", ecc_uncorrected=2)), "2 memory errors that could not be corrected", "Reset"),
        (reports(DeviceHealth("cuda:0", Verdict.MEMORY_CRITICAL)), "critically short of memory", "End what else"),
    ],
)
def test_what_was_met_is_said_with_a_remedy(record: Path, happened: list[Timed], what: str, remedy: str) -> None:
    [one] = said(record, [*plain_run(), *happened])
    assert what in one.what
    assert remedy in one.remedy


def test_how_long_a_device_was_throttled_is_said_and_why(record: Path) -> None:
    well = DeviceHealth("cuda:1")
    slow = DeviceHealth("cuda:1", Verdict.THROTTLED, throttled_by=["thermal slowdown"])
    [one] = said(record, [*plain_run(), *reports(*[well] * 82, *[slow] * 18)])
    assert one.what.startswith("cuda:1 was throttled for 18% of the run (thermal slowdown)")
    assert one.remedy == "See its cooling."
    capped = DeviceHealth("cuda:1", Verdict.THROTTLED, throttled_by=["power cap"])
    [one] = said(record, [*plain_run(), *reports(*[well] * 82, *[capped] * 18)])
    assert "power limit" in one.remedy


def test_rejects_are_said_with_their_commonest_reason(record: Path) -> None:
    events = [*plain_run(), (50.0, PapersRead("b.jsonl", 90, 10, 0, 0, 1.0))]
    [one] = said(record, events, Counter({"no abstract": 7, "cut off": 3}))
    assert "10 of " in one.what
    assert one.what.endswith("records rejected, most often (7 times): no abstract.")


@pytest.mark.parametrize(("state", "word"), [("interrupted", "interrupted"), ("killed", "killed")])
def test_a_run_that_ended_early_says_how_to_go_on(record: Path, state: str, word: str) -> None:
    [one] = said(record, [*plain_run()[:-1], (101.5, RunFinished(state, "", 100.0))])
    assert one.what.startswith(f"The run was {word} after ")
    assert "Run the same command again" in one.remedy


def test_a_run_that_stopped_says_why_first(record: Path) -> None:
    events = [*plain_run()[:-1], (90.0, ShardFailed("b.jsonl", "no")), (102.0, RunFinished("failed", "No store.", 9.0))]
    assert "No store." in said(record, events)[0].what


@pytest.mark.parametrize(("waiting", "remedy"), [(0, "No papers waited for it"), (70, "Papers waited for it")])
def test_a_device_that_stood_still_is_named_with_the_likely_cause(record: Path, waiting: int, remedy: str) -> None:
    busy = [(float(second), batch(seconds=0.61, waiting=waiting)) for second in range(4, 100)]
    events = [(0.0, started(devices=["cuda:0"])), plain_run()[3], *busy, (99.5, embedded("a.jsonl", 960))]
    [one] = said(record, [*events, (100.0, RunFinished("done", "", 100.0))])
    assert one.what == "cuda:0 computed 61% of the time that there were batches."
    assert one.remedy.startswith(remedy)


def test_a_device_with_nothing_to_do_at_the_end_and_imbalance_are_said(record: Path) -> None:
    idle = [timed for timed in plain_run() if not (timed[0] > 55 and getattr(timed[1], "device", "") == "cuda:1")]
    texts = [one.what for one in said(record, idle)]
    assert any(text.startswith("cuda:1 had nothing to do for the last 44 s") for text in texts)
    assert any(text.startswith("cuda:0 computed 1.30 times as long") for text in texts)


def test_the_time_after_the_last_batch_is_said(record: Path) -> None:
    [one] = said(record, [*plain_run()[:-2], (180.0, RunFinished("done", "", 180.0))])
    assert one.what.startswith("After the last batch the run took another 1 min 21 s, 45% of it")


def test_padding_is_said(record: Path) -> None:
    padded = [(4 + n / 2, batch(padded=1_250)) for n in range(100)]
    texts = [one.what for one in said(record, [*plain_run(60), *padded])]
    assert any("of the tokens computed were padding" in text for text in texts)


def test_memory_far_from_what_was_predicted_is_said(record: Path) -> None:
    def with_memory(predicted: int, peak: int) -> list[Timed]:
        return [
            (time, BatchDone("a.jsonl", event.device, 10, 1_000, 1_000, 1.0, predicted, peak, 1, 99, 9))
            if isinstance(event, BatchDone)
            else (time, event)
            for time, event in plain_run(devices=["cuda:0"])
        ]

    [one] = said(record, with_memory(2 * GB, 3 * GB))
    assert one.what.startswith("100% of cuda:0's batches took over 25% more memory than predicted, 1.50 times")
    [one] = said(record, with_memory(4 * GB, 2 * GB))
    assert "took 0.50 times the memory that was predicted" in one.what


def test_what_left_work_undone_comes_before_what_cost_time(record: Path) -> None:
    slow = [DeviceHealth("cuda:1", Verdict.THROTTLED, throttled_by=["thermal slowdown"])] * 50
    events = [*plain_run(), *reports(*slow), (50.0, ShardFailed("b.jsonl", "no")), (51.0, PaperFailed("a", "1", "odd"))]
    first, second, third = said(record, events)
    assert "shard failed" in first.what
    assert "paper could not" in second.what
    assert "throttled" in third.what
