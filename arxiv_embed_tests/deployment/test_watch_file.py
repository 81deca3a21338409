"""docker/watch.yaml: Prometheus and Grafana beside the stack, closed to the outside, in step with what they read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from arxiv_embed.settings import settings_from_environment
from arxiv_embed_tests.conftest import REPOSITORY
from arxiv_embed_tests.deployment.compose import COMPOSE_FILE, WATCH_FILE, filled, merged, start_order, written
from arxiv_embed_tests.deployment.test_compose_file import PASSWORD, SCHEMA

WATCHED = filled(merged(written(COMPOSE_FILE), written(WATCH_FILE)), PASSWORD)
ADDED: dict[str, Any] = {name: WATCHED["services"][name] for name in ("prometheus", "grafana")}
PROVISIONING = REPOSITORY / "docker" / "grafana" / "provisioning"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_both_files_together_are_what_the_compose_specification_allows() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(WATCHED)
    assert start_order(WATCHED["services"])[:4] == ["postgres", "code", "webserver", "daemon"]


@pytest.mark.parametrize("name", ADDED)
def test_what_is_added_is_closed_pinned_and_checked_as_the_others_are(name: str) -> None:
    service = ADDED[name]
    assert service["read_only"]
    assert service["user"].partition(":")[0] not in ("", "0", "root")
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["cap_drop"] == ["ALL"]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    bound = [volume for volume in service["volumes"] if isinstance(volume, dict)]
    assert bound
    assert all(volume["read_only"] and (REPOSITORY / volume["source"]).exists() for volume in bound)
    named = {volume.partition(":")[0] for volume in service["volumes"] if isinstance(volume, str)}
    assert named <= set(WATCHED["volumes"])


def test_nobody_can_change_what_grafana_shows() -> None:
    environment = ADDED["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


def test_prometheus_asks_the_runs_where_they_serve_and_grafana_asks_prometheus() -> None:
    settings = settings_from_environment(WATCHED["services"]["code"]["environment"])
    [job] = read(REPOSITORY / "docker" / "prometheus.yaml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"code:{settings.metrics_port}"]}]
    assert settings.metrics_host == "0.0.0.0"
    [source] = read(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090" in ADDED["prometheus"]["healthcheck"]["test"][-1]


def test_the_dashboard_is_where_grafana_looks_for_it() -> None:
    [provider] = read(PROVISIONING / "dashboards" / "arxiv_embed.yaml")["providers"]
    targets = {volume["target"] for volume in ADDED["grafana"]["volumes"] if isinstance(volume, dict)}
    place = f"{provider['options']['path']}/arxiv_embed.json"
    assert place in targets
    assert ADDED["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == place
    assert "/etc/grafana/provisioning" in targets
