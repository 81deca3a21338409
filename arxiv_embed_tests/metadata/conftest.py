"""Fixtures of the metadata tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty metadata folder."""
    made = tmp_path / "metadata"
    made.mkdir()
    return made
