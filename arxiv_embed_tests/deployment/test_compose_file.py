"""docker-compose.yml, what stands in it: valid, closed to the outside, pinned, and in step with the other files."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from arxiv_embed_tests.conftest import REPOSITORY
from arxiv_embed_tests.deployment.compose import (
    COMPOSE_FILE,
    CPU_FILE,
    VARIABLE,
    WATCH_FILE,
    MissingVariable,
    filled,
    merged,
    start_order,
    written,
)

SCHEMA = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
ENV_EXAMPLE = (REPOSITORY / ".env.example").read_text()
FILES = (COMPOSE_FILE, CPU_FILE, WATCH_FILE)
PASSWORD = {"POSTGRES_PASSWORD": "of a test"}
PINNED = re.compile(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*")

WITH_GPUS = filled(written(COMPOSE_FILE), PASSWORD)
WITHOUT_GPUS = filled(merged(written(COMPOSE_FILE), written(CPU_FILE)), PASSWORD)
SERVICES: dict[str, Any] = WITH_GPUS["services"]


@pytest.mark.parametrize("compose", [WITH_GPUS, WITHOUT_GPUS], ids=["with GPUs", "without GPUs"])
def test_the_file_is_what_the_compose_specification_allows(compose: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(compose)


def test_the_schema_finds_a_key_that_there_is_not() -> None:
    wrong = merged(WITH_GPUS, {"services": {"code": {"restrat": "always"}}})
    with pytest.raises(jsonschema.ValidationError, match="restrat"):
        jsonschema.Draft7Validator(SCHEMA).validate(wrong)


@pytest.mark.parametrize("variables", [{}, {"POSTGRES_PASSWORD": ""}])
def test_nothing_starts_without_a_password(variables: dict[str, str]) -> None:
    with pytest.raises(MissingVariable, match=r"^POSTGRES_PASSWORD is missing, set it in \.env"):
        filled(written(COMPOSE_FILE), variables)


def test_no_secret_stands_in_the_file() -> None:
    assert not re.search(r"(?i)(password|secret|token)\w*: (?!\$\{)", COMPOSE_FILE.read_text())
    urls = re.findall(r"\w+://\S+", COMPOSE_FILE.read_text())
    assert urls
    assert not [url for url in urls if re.search(r"://[^/@\s]*:[^/@\s]*@", url)]


def test_every_variable_is_explained_in_the_example_of_env() -> None:
    used = {found["name"] for file in FILES for found in VARIABLE.finditer(file.read_text())}
    explained = set(re.findall(r"^(?:# )?([A-Z_]+)=", ENV_EXAMPLE, re.M)) - {"COMPOSE_FILE"}
    assert used == explained


def test_the_example_of_env_sets_nothing_but_the_password_to_be_given() -> None:
    lines = [line for line in ENV_EXAMPLE.splitlines() if line and not line.startswith("#")]
    assert lines == ["POSTGRES_PASSWORD="]


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:3000:3000"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_is_root_or_privileged_or_holds_the_engine(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].partition(":")[0] not in ("", "0", "root")
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert "no-new-privileges:true" in service["security_opt"]
    assert ".sock" not in yaml.safe_dump(service)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_restarted_checked_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["stop_grace_period"]
    assert isinstance(service.get("command", []), list), "a shell in between would keep signals from the service"


def test_runs_are_known_again_by_their_host_when_the_container_is_made_anew() -> None:
    assert SERVICES["code"]["hostname"] == "code"


def test_images_are_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    for image in [*bases, *(service["image"] for service in SERVICES.values())]:
        assert PINNED.fullmatch(image), image
    assert len(set(bases)) == 1


def test_one_service_builds_the_image_that_the_others_share() -> None:
    built = [name for name, service in SERVICES.items() if "build" in service]
    assert built == ["code"]
    for name in ("webserver", "daemon"):
        assert (SERVICES[name]["image"], SERVICES[name]["pull_policy"]) == (SERVICES["code"]["image"], "never")


def test_metadata_is_mounted_for_reading_only_unless_asked_otherwise_and_all_writing_goes_to_named_volumes() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service["volumes"]]
    bound = [volume for volume in mounts if isinstance(volume, dict)]
    assert [(volume["target"], volume["read_only"]) for volume in bound] == [("/metadata", "true")]
    writable = filled(written(COMPOSE_FILE), {**PASSWORD, "ARXIV_EMBED_METADATA_READ_ONLY": "false"})
    [mount] = [volume for volume in writable["services"]["code"]["volumes"] if isinstance(volume, dict)]
    assert mount["read_only"] == "false"
    named = {volume.partition(":")[0] for volume in mounts if isinstance(volume, str)}
    assert named == set(WITH_GPUS["volumes"])
    assert all(SERVICES[name]["read_only"] for name in ("code", "webserver", "daemon"))


def test_the_gpus_are_the_code_servers_and_a_machine_without_any_has_a_file_of_its_own() -> None:
    reserved = {name: service["deploy"] for name, service in SERVICES.items() if "deploy" in service}
    assert list(reserved) == ["code"]
    [devices] = reserved["code"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "nvidia" not in yaml.safe_dump(WITHOUT_GPUS)
    assert WITHOUT_GPUS["services"]["code"]["build"]["args"]["TORCH_INDEX_URL"].endswith("/cpu")


def test_each_service_waits_until_those_before_it_are_healthy() -> None:
    assert start_order(SERVICES) == ["postgres", "code", "webserver", "daemon"]
    conditions = [c for service in SERVICES.values() for c in service.get("depends_on", {}).values()]
    assert conditions == [{"condition": "service_healthy"}] * 3


def test_the_dockerfile_copies_what_is_there_and_what_the_engine_is_sent() -> None:
    copied = [shlex.split(line)[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    paths = {path for words in copied if not words[0].startswith("--from=") for path in words}
    assert "arxiv_embed" in paths
    for path in paths:
        assert (REPOSITORY / path).exists(), path
    sent = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == paths


def test_the_image_is_made_from_the_pins_that_this_environment_is() -> None:
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines())
    project = (REPOSITORY / "pyproject.toml").read_text()
    for name in ("dagster", "dagster-postgres", "dagster-webserver"):
        assert f'"{name}=={pins[name]}"' in project
    assert f"torch=={pins['torch']}" in (REPOSITORY / "Makefile").read_text()
    assert "$(grep '^torch==' constraints.txt)" in DOCKERFILE
    assert "install --constraint constraints.txt" in DOCKERFILE
    version = re.search(r'^version = "(.*)"', project, re.M)
    assert version is not None
    assert SERVICES["code"]["image"] == f"arxiv-embed:{version[1]}"


def test_the_image_alone_runs_what_the_file_runs_of_it() -> None:
    [command] = re.findall(r"^CMD (.*)", DOCKERFILE, re.M)
    assert json.loads(command) == SERVICES["code"]["command"]


def test_the_workspace_of_webserver_and_daemon_is_the_code_server() -> None:
    [location] = yaml.safe_load((REPOSITORY / "docker" / "workspace.yaml").read_text())["load_from"]
    command = SERVICES["code"]["command"]
    server = location["grpc_server"]
    assert server["host"] in SERVICES
    assert str(server["port"]) == command[command.index("-p") + 1]
    [own] = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    assert server["location_name"] == own["python_module"]["location_name"]
    for name in ("webserver", "daemon"):
        assert SERVICES[name]["command"][-2:] == ["-w", "workspace.yaml"]
