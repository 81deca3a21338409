"""A launched run whose process is killed before it has read what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import arxiv_embed.cli.launched
from arxiv_embed.cli.launched import LaunchedRun
from arxiv_embed.settings import RunOptions, Settings

KILLED_AT_ONCE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_a_process_that_is_killed_before_it_is_told_what_to_do_is_known_by_its_exit_code(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen

    def start(arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = real([sys.executable, "-c", KILLED_AT_ONCE], **options)
        process.wait()
        return process

    monkeypatch.setattr(arxiv_embed.cli.launched.subprocess, "Popen", start)
    with LaunchedRun(RunOptions(tmp_path, settings.store, settings.checkpoints), settings) as launched:
        assert launched.ended(within=0)
    assert launched.exit_code == -9
