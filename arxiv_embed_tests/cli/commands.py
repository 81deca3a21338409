"""Commands run as a user runs them: the installed script, in a process of its own, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("arxiv-embed")
TIMEOUT = 240


def environment(home: Path) -> dict[str, str]:
    """The test's own environment with a home of its own, and nothing that the user may have set for this project."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARXIV_EMBED_", "DAGSTER_"))}
    ours = {"ARXIV_EMBED_HOME": str(home), "ARXIV_EMBED_DEVICES": "cpu:1"}  # each worker takes seconds to start
    return {**kept, **ours, "HF_HUB_OFFLINE": "1", "COLUMNS": "110"}


def arxiv_embed(
    home: Path, *arguments: str | Path, folder: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs `arxiv-embed` to its end, in `folder`, with `variables` in its environment."""
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
