"""Stores of both kinds, for tests of what every store must do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arxiv_embed.stores.protocol import VectorStore, open_store

KINDS = ["lance", "postgres"]


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may be made, and none is."""
    if request.param == "lance":
        return str(tmp_path / "store")
    made: str = request.getfixturevalue("postgres").database()
    return made


@pytest.fixture
def store(url: str) -> Iterator[VectorStore]:
    """An empty one."""
    with open_store(url, create=True) as store:
        yield store
