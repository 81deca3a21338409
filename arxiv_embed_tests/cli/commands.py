"""Commands run as a user runs them: the same entry point, environment, exit code and output as the installed script's.

Most run in the test's own process, where the libraries that a command imports, which cost it seconds of a processor,
are loaded once. What the run itself is, its process and its workers, are processes of their own either way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pytest

from arxiv_embed.cli.main import main

SCRIPT = Path(sys.executable).with_name("arxiv-embed")
TIMEOUT = 240


def environment(home: Path) -> dict[str, str]:
    """The test's own environment with a home of its own, and nothing that the user may have set for this project."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARXIV_EMBED_", "DAGSTER_"))}
    ours = {"ARXIV_EMBED_HOME": str(home), "ARXIV_EMBED_DEVICES": "cpu:1"}  # each worker takes seconds to start
    return {**kept, **ours, "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}


@contextmanager
def environment_here(variables: dict[str, str]) -> Iterator[None]:
    """This process has these variables and no others, until it is left."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def arxiv_embed(
    home: Path, *arguments: str | Path, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `arxiv-embed` to its end in this process, in `folder`, with `variables` in its environment."""
    command = [str(SCRIPT), *map(str, arguments)]
    with TemporaryFile("w+", encoding="utf-8") as stdout, TemporaryFile("w+", encoding="utf-8") as stderr:
        with (
            pytest.MonkeyPatch.context() as patch,
            chdir(folder or Path.cwd()),
            environment_here({**environment(home), **variables}),
            _written_to(stdout, stderr),
        ):
            patch.setattr(sys, "argv", command)
            code = _exit_code()
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextmanager
def _written_to(stdout: IO[str], stderr: IO[str]) -> Iterator[None]:
    """Takes what is written to standard output and standard error, by libraries in C and Rust as well."""
    kept = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    try:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        with redirect_stdout(stdout), redirect_stderr(stderr):
            yield
    finally:
        for descriptor, copy in kept:
            os.dup2(copy, descriptor)
            os.close(copy)


def installed(
    home: Path, *arguments: str | Path, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs the installed script to its end, in a process of its own: where that is the point."""
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={**environment(home), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def start(home: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """Starts `arxiv-embed`, and leaves it running."""
    return subprocess.Popen(
        [SCRIPT, *map(str, arguments)],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
