"""The exposition: what Prometheus reads of a run says all that its metrics say, and they come back from it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from arxiv_embed.errors import ArxivEmbedError, masked
from arxiv_embed.events import PapersRead, ShardStored
from arxiv_embed.exposition import PREFIX, RunCollector, openmetrics_of, run_metrics_from
from arxiv_embed.gpu.health import Action, DeviceHealth, Verdict
from arxiv_embed.metrics import DeviceMetrics, Failure, RunMetrics, metrics_of
from arxiv_embed.progress import RunProgress
from arxiv_embed_tests.test_progress import RUN as EVENTS
from arxiv_embed_tests.test_progress import batch, embedded


def set_fields(kind: Any, **given: Any) -> Any:
    """One of a dataclass with every field that is not given set to a number or a word of its own."""
    for number, field in enumerate(fields(kind), 1):
        form = str(field.type).partition(" |")[0]
        made = {"int": 1_000 + number, "float": number + 1 / 3, "str": f"the {field.name}"}
        if field.name not in given:
            given[field.name] = made[form]
    return kind(**given)


HEALTH = set_fields(
    DeviceHealth,
    device="cuda:1",
    verdict=Verdict.MEMORY_CRITICAL,
    reasons=["38 GiB of 40 GiB are used", "91 °C"],
    action=Action.BRING_BACK,
    throttled_by=["power", "thermal"],
    xid=[48, 48, 79],
)
WELL = set_fields(
    DeviceMetrics, device="cuda:0", incidents={}, trouble="", health=asdict(DeviceHealth("cuda:0", links_up=0))
)
ILL = set_fields(
    DeviceMetrics, device="cuda:1", incidents={"out of memory": 2, "retired": 1}, health=asdict(HEALTH), papers=0
)
UNKNOWN = set_fields(DeviceMetrics, device="cuda:2", incidents={}, health={})
FAILURES = [
    Failure("the store is away (HTTP 503)", "transient", 3, "2026-11-03T01:02:03.456+00:00", "a\nb"),
    Failure('cuda:<name> said "no" \\ {x="y"} #', "resource", 1, "2026-11-03T01:02:04.000+00:00", "é\t"),
]
REUSED = {"checkpoints": 5, "store": 0, "same text": 2, "own shard": 1}
RUN: RunMetrics = set_fields(
    RunMetrics,
    state="running",
    seconds_left=12.5,
    reused=REUSED,
    papers_reused=8,
    devices=[WELL, ILL, UNKNOWN],
    failures=FAILURES,
    notices=(),
)


def plain(run: RunMetrics) -> str:
    return generate_latest(RunCollector(lambda: run)).decode()


def listed(run: RunMetrics) -> Any:
    """With lists for tuples, as JSON would have it."""
    return asdict(run, dict_factory=lambda pairs: {name: _list(value) for name, value in pairs})


def _list(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _list(inner) for name, inner in value.items()}
    return [_list(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("text_of", [openmetrics_of, plain])
def test_everything_but_notices_comes_back_from_the_text(text_of: Any) -> None:
    assert listed(run_metrics_from(text_of(RUN))) == listed(RUN)


def test_what_is_not_known_is_not_told_and_comes_back_as_not_known() -> None:
    run = replace(RUN, seconds_left=None, balance=None, cpu=None, memory=None, error="", shard="", state="done")
    text = openmetrics_of(run)
    told = {line.removeprefix(PREFIX).split("{")[0].split(" ")[0] for line in text.splitlines()}
    assert not told & {"remaining_seconds", "balance_ratio", "cpu_ratio", "memory_bytes", "error_info", "shard_info"}
    assert listed(run_metrics_from(text)) == listed(run)


def test_a_run_that_has_not_begun_can_be_told_too() -> None:
    empty = replace(metrics_of(RunProgress(), 5.0), notices=())
    assert listed(run_metrics_from(openmetrics_of(empty))) == listed(empty)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_may_stand_in_a_label(product: str, pattern: str) -> None:
    device = replace(WELL, product=product)
    run = replace(RUN, devices=[device], failures=[replace(FAILURES[0], pattern=pattern)])
    back = run_metrics_from(openmetrics_of(run))
    assert back.devices[0].product == masked(product)
    assert back.failures[0].pattern == masked(pattern)


def test_the_official_parser_finds_counters_info_and_states_with_units_and_help() -> None:
    found = {family.name.removeprefix(PREFIX): family for family in text_string_to_metric_families(openmetrics_of(RUN))}
    kinds = {name: found[name].type for name in ("papers_embedded", "device_busy_seconds", "failures")}
    assert set(kinds.values()) == {"counter"}
    assert (found["run"].type, found["device_health"].type) == ("info", "stateset")
    assert found["device_temperature_celsius"].unit == "celsius"
    assert found["padding_ratio"].type == "gauge"
    assert all(family.documentation and name for name, family in found.items())
    states = [sample for sample in found["device_health"].samples if sample.labels["device"] == "cuda:1"]
    assert len(states) == len(Verdict)
    assert [s.labels[f"{PREFIX}device_health"] for s in states if s.value] == ["memory critical"]


def test_a_counter_never_goes_down_while_a_shard_is_tried_again() -> None:
    again = [
        PapersRead("a", papers=50, rejects=1, duplicates=2, withdrawn=1, seconds=0.1),
        batch("b", 45),
        embedded("b", 45),
        ShardStored("b", 90, 90, 0, 0.1),
    ]
    progress, before, fell = RunProgress(), dict[str, float](), set[str]()
    for time, event in enumerate([*EVENTS[:-1], *again]):
        progress.apply({"time": float(time), "event": event.name, **asdict(event)})
        now = _values_of(openmetrics_of(metrics_of(progress, float(time))))
        fell |= {name.partition("{")[0] for name, value in before.items() if now[name] < value}
        before = now
    assert {f"{PREFIX}papers_done", f"{PREFIX}rejects", f"{PREFIX}shards_failed"} <= fell
    assert not [name for name in fell if name.endswith("_total")]


def _values_of(text: str) -> dict[str, float]:
    return {
        f"{sample.name}{sorted(sample.labels.items())}".replace("[", "{"): sample.value
        for family in text_string_to_metric_families(text)
        if family.type in ("counter", "gauge")
        for sample in family.samples
    }


def test_clocks_are_in_hertz() -> None:
    device = replace(WELL, health=asdict(DeviceHealth("cuda:0", clock=1_980)))
    text = openmetrics_of(replace(RUN, devices=[device]))
    assert f'{PREFIX}device_clock_hertz{{device="cuda:0"}} 1.98e+09' in text


def test_a_verdict_of_another_version_is_told_as_it_is() -> None:
    device = replace(WELL, health={**asdict(DeviceHealth("cuda:0")), "verdict": "on fire"})
    text = openmetrics_of(replace(RUN, devices=[device]))
    assert f'{PREFIX}device_health="on fire",device="cuda:0"}} 1.0' in text
    assert run_metrics_from(text).devices[0].health["verdict"] == "on fire"


def test_a_password_in_a_store_s_url_or_an_error_is_not_told() -> None:
    secret = "postgresql://me:s3cret@host/papers"
    failures = [replace(FAILURES[0], example=secret)]
    assert "s3cret" not in openmetrics_of(replace(RUN, store=secret, error=secret, failures=failures))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# EOF",
        "<html>",
        "a{",
        "\0",
        'arxiv_embed_run_info{run_id="r"} 1.0\n',
        openmetrics_of(RUN).replace("1003.0", "NaN"),
    ],
)
def test_another_text_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(ArxivEmbedError, match="give the address that the run was told to serve them at"):
        run_metrics_from(text)


def test_a_number_that_is_none_is_refused_before_anything_is_drawn_of_it() -> None:
    text = re.sub(r"(?m)^(arxiv_embed_papers_per_second) .*$", r"\1 NaN", openmetrics_of(RUN))
    with pytest.raises(ArxivEmbedError, match="papers_per_second is nan"):
        run_metrics_from(text)


def test_every_field_is_told() -> None:
    """What was added to the metrics and not to the exposition comes back as a default."""
    back = run_metrics_from(openmetrics_of(RUN))
    assert {field.name for field in fields(RunMetrics) if getattr(back, field.name) in (0, "", None)} == set()
    for field in dataclasses.fields(DeviceHealth):
        assert back.devices[1].health[field.name], field.name
