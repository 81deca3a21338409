"""Documents: what they name is there."""

from __future__ import annotations

import ast
import re
import shlex
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from arxiv_embed.cli.app import app
from arxiv_embed_tests.conftest import REPOSITORY

NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
ROWS = [line for line in (REPOSITORY / "docs" / "failures.md").read_text().splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.startswith("| what breaks")])
def test_each_failure_that_is_documented_names_a_test_that_there_is(row: str) -> None:
    found = NAMED.findall(row)
    assert found, row
    for file, test in found:
        assert f"def {test}(" in (REPOSITORY / "arxiv_embed_tests" / file).read_text()


def test_whatever_the_package_imports_is_a_dependency() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {name for requirement in project["dependencies"] for name in _required(requirement)}
    of_clusters = {name for requirement in project["optional-dependencies"]["ray"] for name in _required(requirement)}
    owners = packages_distributions()
    for file in sorted((REPOSITORY / "arxiv_embed").rglob("*.py")):
        ours = declared | of_clusters if file.parent.name == "cluster" else declared
        for name in _imported(file) - sys.stdlib_module_names - {"arxiv_embed"}:
            assert ours & {_normalized(owner) for owner in owners.get(name, [name])}, f"{file} imports {name}"


def _imported(file: Path) -> set[str]:
    """The first names of what a module imports, wherever in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return {name.partition(".")[0] for name in names}


def _required(requirement: str) -> list[str]:
    """The package, and those of its extras that are packages of their own, as psycopg-pool."""
    name, extras = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", requirement).groups()  # type: ignore[union-attr]
    return [name, *(f"{name}-{extra}" for extra in (extras or "").split(",") if extra)]


def _normalized(name: str) -> str:
    return name.lower().replace("_", "-")


TROUBLESHOOTING = " ".join((REPOSITORY / "docs" / "troubleshooting.md").read_text().split())
COMMANDS = sorted(set(re.findall(r"`arxiv-embed ([^`]+)`", TROUBLESHOOTING)))
SAID = sorted(set(re.findall(r"“([^”]+)”", TROUBLESHOOTING)))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_in_troubleshooting_is_one_that_there_is(command: str) -> None:
    name, *arguments = shlex.split(command)
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    found = group.commands[name]
    if isinstance(found, TyperGroup):
        name, *arguments = arguments
        found = found.commands[name]
    found.make_context(name, arguments)


@pytest.mark.parametrize("message", SAID)
def test_each_message_in_troubleshooting_is_one_that_the_package_says(message: str) -> None:
    texts = (file.read_text() for file in sorted((REPOSITORY / "arxiv_embed").rglob("*.py")))
    source = "\n".join(re.sub(r'"\s*\n\s*f?"', "", text) for text in texts)
    parts = [part.strip(" .,:()") for part in re.split(r"…|process|signal 9", message)]
    assert any(parts)
    for part in parts:
        assert part in source, f"nothing says '{part}'"
