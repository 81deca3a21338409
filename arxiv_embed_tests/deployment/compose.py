"""The Compose file as `docker compose` reads it: variables filled in, files merged, services in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from arxiv_embed_tests.conftest import REPOSITORY

COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
CPU_FILE = REPOSITORY / "docker" / "cpu.yaml"
WATCH_FILE = REPOSITORY / "docker" / "watch.yaml"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<text>[^}]*))?\}")
RESET = object()
"""What `!reset` leaves of a value."""


class Loader(yaml.SafeLoader):
    """YAML with Compose's own `!reset`."""


Loader.add_constructor("!reset", lambda loader, node: RESET)


class MissingVariable(Exception):
    """A variable that must be set is not, or is empty."""


def written(path: Path) -> dict[str, Any]:
    """A file as it stands, `${…}` and all."""
    content: dict[str, Any] = yaml.load(path.read_text(), Loader)
    return content


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """A value with its `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced."""

    def one(found: re.Match[str]) -> str:
        given = variables.get(found["name"], "")
        if not given and found["operator"] == ":?":
            raise MissingVariable(f"{found['name']} {found['text']}")
        return given or (found["text"] or "" if found["operator"] == ":-" else "")

    if isinstance(value, str):
        return VARIABLE.sub(one, value)
    if isinstance(value, dict):
        return {key: filled(inner, variables) for key, inner in value.items()}
    return [filled(inner, variables) for inner in value] if isinstance(value, list) else value


def merged(base: Any, over: Any) -> Any:
    """What `-f BASE -f OVER` means, for files that override no list."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    both = {name: merged(base.get(name), over[name]) if name in over else base[name] for name in {**base, **over}}
    return {name: value for name, value in both.items() if value is not RESET}


def start_order(services: Mapping[str, Any]) -> list[str]:
    """Each service after those that it depends on."""
    ordered: list[str] = []

    def take(name: str) -> None:
        for other in services[name].get("depends_on", {}):
            take(other)
        if name not in ordered:
            ordered.append(name)

    for name in services:
        take(name)
    return ordered


def here(value: Any, names: Mapping[str, str]) -> Any:
    """What stands in a container, made fit for this machine: each whole host, port or folder of `names` replaced."""
    if isinstance(value, str):
        alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        return re.sub(rf"(?<![\w.-])(?:{alternatives})(?![\w.-])", lambda found: names[found[0]], value)
    if isinstance(value, dict):
        return {key: here(inner, names) for key, inner in value.items()}
    return [here(inner, names) for inner in value] if isinstance(value, list) else value


def seconds(duration: str) -> float:
    """`30s`, `2m`."""
    return float(duration[:-1]) * {"s": 1, "m": 60}[duration[-1]]
