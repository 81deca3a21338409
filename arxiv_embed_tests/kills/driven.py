"""A driven command: `arxiv-embed`, whose run's process is changed by a function of the tests before it begins.

`python -m arxiv_embed_tests.kills.driven MODULE:FUNCTION run …` is the command itself, in all but the module that it
starts as the run's process: that is this one, which calls the function and then does what the real one does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import arxiv_embed.cli.launched
from arxiv_embed_tests.cli import commands
from arxiv_embed_tests.cli.commands import environment
from arxiv_embed_tests.conftest import REPOSITORY

CHANGE = "CHANGE_OF_THE_RUN"
"""The environment variable that names the function to the run's process."""


def environment_of_driven(home: Path) -> dict[str, str]:
    """As a user's, but for a home of its own and the tests' package within reach."""
    return {**environment(home), "PYTHONPATH": str(REPOSITORY)}


def command_line(change: str, *arguments: str | Path) -> list[str]:
    """`change` is MODULE:FUNCTION."""
    return [sys.executable, "-P", "-m", "arxiv_embed_tests.kills.driven", change, *map(str, arguments)]


def driven(home: Path, change: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end in this process, and its run in one of its own."""
    changed = {CHANGE: change, "PYTHONPATH": str(REPOSITORY)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arxiv_embed.cli.launched, "LAUNCH_MODULE", "arxiv_embed_tests.kills.driven")
        return commands.arxiv_embed(home, *arguments, **changed, **environment)


def start_driven(home: Path, change: str, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Starts the command, and leaves it running."""
    return subprocess.Popen(
        command_line(change, *arguments),
        env={**environment_of_driven(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main() -> None:
    change = os.environ.get(CHANGE)
    if change is None:
        from arxiv_embed.cli.main import main as command

        os.environ[CHANGE] = sys.argv.pop(1)
        arxiv_embed.cli.launched.LAUNCH_MODULE = "arxiv_embed_tests.kills.driven"
        command()
    else:
        from arxiv_embed.pipeline.launch import main as launch

        module, _, function = change.partition(":")
        getattr(import_module(module), function)()
        sys.exit(launch())


if __name__ == "__main__":
    main()
