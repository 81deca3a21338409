"""What is made once for all processes of a test session, whichever of them needs it first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from arxiv_embed.checkpoint.lock import FileLock

PATIENCE_SECONDS = 600.0


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of that name, which `make` has filled in this process or another; nobody may write to it later."""
    common = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    folder, made = common / "once" / name, common / "once" / f"{name}.made"
    with FileLock(common / "once" / f"{name}.lock", f"The test session's {name}", PATIENCE_SECONDS):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
