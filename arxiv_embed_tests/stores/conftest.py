"""Stores of both kinds, for tests of what every store must do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arxiv_embed.stores.protocol import VectorStore, open_store

KINDS = ["lance", "postgres"]


@contextmanager
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """Where a store of the kind that is the request's parameter may be made."""
    if request.param == "lance":
        yield str(folder / "store")
    else:
        with request.getfixturevalue("postgres").database() as url:
            yield url


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store may be made, and none is."""
    with place(request, tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[VectorStore]:
    """An empty one."""
    with open_store(url, create=True) as store:
        yield store
