"""Fixtures of the checkpoints' tests."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory, where there is one, for tests that write much and do not ask whether it lasts."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Thousands of damages would be logged."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
