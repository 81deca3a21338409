"""The Grafana dashboard: Grafana knows all of it, and it asks for what a run tells and for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from arxiv_embed.exposed import DEVICE, HEALTH, RUN
from arxiv_embed.exposition import PREFIX
from arxiv_embed.gpu.health import Verdict
from arxiv_embed_tests.conftest import REPOSITORY
from arxiv_embed_tests.test_endpoint import Scraped
from arxiv_embed_tests.test_endpoint import scraped as scraped

DASHBOARD = json.loads((REPOSITORY / "docker" / "grafana" / "arxiv_embed.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
GIVEN_BY_PROMETHEUS = {"instance", "job"}
UNITS = {"none", "short", "percentunit", "s", "bytes", "celsius", "watt", "hertz"}
"""Of Grafana's own (`categories.ts` of @grafana/data), those that are wanted: any other id is shown as a text."""
PARTS = ("lhs", "rhs", "expr", "param", "vector_selector")
"""Of an expression, its own."""


def parsed(expression: str) -> Any:
    return promql_parser.parse(expression.replace("$__rate_interval", "1m"))


def parts(expression: Any) -> Iterator[Any]:
    yield expression
    for inner in [*(getattr(expression, name, None) for name in PARTS), *getattr(expression, "args", ())]:
        if inner is not None:
            yield from parts(inner)


def selectors(expression: str) -> list[Any]:
    return [part for part in parts(parsed(expression)) if isinstance(part, promql_parser.VectorSelector)]


@pytest.fixture(scope="module")
def told(scraped: Scraped) -> dict[str, list[dict[str, str]]]:
    """Labels of the samples by name, of every name that a real run's endpoint declares."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(scraped.openmetrics):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found[family.name + suffix] = [dict(sample.labels) for sample in family.samples]
    return found


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=[f"{title} {one['refId']}" for title, one in TARGETS])
def test_every_query_asks_for_names_and_labels_that_a_run_tells(
    title: str, target: dict[str, Any], told: dict[str, list[dict[str, str]]]
) -> None:
    asked = selectors(target["expr"])
    assert asked
    for selector in asked:
        assert selector.name in told
        known = {label for labels in told[selector.name] for label in labels}
        for matcher in selector.matchers.matchers:
            assert matcher.name in known | GIVEN_BY_PROMETHEUS
            if matcher.name in known:
                assert matcher.value in {labels[matcher.name] for labels in told[selector.name]}
    known = {label for selector in asked for labels in told[selector.name] for label in labels}
    grouped = {label for part in parts(parsed(target["expr"])) for label in _grouped(part)}
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert grouped | shown <= known


def _grouped(part: Any) -> list[str]:
    modifier = getattr(part, "modifier", None)
    return list(getattr(modifier, "labels", None) or []) if isinstance(part, promql_parser.AggregateExpr) else []


def test_a_counter_is_shown_as_it_is_or_by_its_rate_and_a_gauge_never_by_one() -> None:
    rated = [
        part.args[0].vector_selector.name
        for _, target in TARGETS
        for part in parts(parsed(target["expr"]))
        if isinstance(part, promql_parser.Call) and part.func.name in ("rate", "increase")
    ]
    assert rated
    assert all(name.endswith("_total") for name in rated)


def test_every_number_that_a_run_tells_of_its_devices_is_on_a_panel_or_adds_up_to_one_that_is() -> None:
    asked = {selector.name.removeprefix(PREFIX) for _, target in TARGETS for selector in selectors(target["expr"])}
    left_out = {number.sample for number in (*RUN, *DEVICE, *HEALTH)} - asked
    assert left_out == {
        "started_timestamp_seconds",
        "updated_timestamp_seconds",
        "duplicates",
        "rows_total",
        "tokens_total",
        "retries_total",
        "out_of_memory_total",
        "health_reports_total",
        "device_papers_total",
        "device_tokens_total",
        "device_batch_mean_seconds",
        "device_batch_longest_seconds",
        "device_batch_memory_peak_bytes",
        "device_memory_total_bytes",
        "device_links_up",
        "device_links_down",
    }


def test_the_health_panel_names_every_verdict_by_its_number() -> None:
    [panel] = [panel for panel in PANELS if panel["title"] == "Health"]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    named = {option["text"]: float(number) for number, option in mapping["options"].items()}
    assert list(named) == [str(verdict) for verdict in Verdict]
    asked = {
        matcher.value: factor.lhs.val
        for factor in parts(parsed(panel["targets"][0]["expr"]))
        if isinstance(getattr(factor, "lhs", None), promql_parser.NumberLiteral)
        for matcher in factor.rhs.matchers.matchers
        if matcher.name == f"{PREFIX}device_health"
    }
    assert asked == named


@pytest.fixture(scope="module")
def panels_are_known() -> None:
    plugins.register_default_plugins()


def not_known(told: Any, understood: Any, where: str = "") -> list[str]:
    """What is told and was not understood as it is."""
    if isinstance(told, dict) and isinstance(understood, dict):
        return [
            miss for name in told for miss in not_known(told[name], understood.get(name, "nothing"), f"{where}/{name}")
        ]
    if isinstance(told, list) and isinstance(understood, list) and len(told) == len(understood):
        both = zip(told, understood, strict=True)
        return [miss for number, pair in enumerate(both) for miss in not_known(*pair, f"{where}/{number}")]
    return [] if told == understood else [f"{where}: {told!r} was understood as {understood!r}"]


def understood(dashboard: dict[str, Any]) -> Any:
    """By the types that Grafana publishes."""
    return json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))


@pytest.mark.usefixtures("panels_are_known")
def test_everything_in_it_is_of_the_schema_that_grafana_publishes() -> None:
    assert not_known(DASHBOARD, understood(DASHBOARD)) == []


@pytest.mark.usefixtures("panels_are_known")
@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ('"colorMode"', '"colourMode"', "/panels/1/options/colourMode"),
        ('"legendFormat"', '"legend"', "/panels/1/targets/0/legend"),
        ('"gridPos"', '"place"', "/panels/0/place"),
    ],
)
def test_a_name_that_grafana_does_not_know_is_noticed(before: str, after: str, where: str) -> None:
    misspelt = json.loads(json.dumps(DASHBOARD).replace(before, after))
    assert any(miss.startswith(f"{where}: ") for miss in not_known(misspelt, understood(misspelt)))


def test_every_query_asks_the_chosen_run_alone() -> None:
    asked = [selector for _, target in TARGETS for selector in selectors(target["expr"])]
    matchers = [{(one.name, one.value) for one in selector.matchers.matchers} for selector in asked]
    assert all(("instance", "$instance") in chosen for chosen in matchers)


def test_panels_have_numbers_of_their_own_a_place_and_a_description_and_ask_the_chosen_source() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    sources = [thing["datasource"]["uid"] for panel in PANELS for thing in (panel, *panel["targets"])]
    assert set(sources) == {"${datasource}"}
    assert all(panel["title"] for panel in everything)
    assert all(panel["description"] for panel in PANELS)
    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS} <= UNITS
    assert DASHBOARD["schemaVersion"] >= 36, "Grafana 10 and later"
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["instance"]["datasource"]["uid"] == "${datasource}"
