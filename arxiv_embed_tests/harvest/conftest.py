"""Fixtures of the harvest's tests: what arXiv has sent, and a metadata folder to harvest it into."""

from __future__ import annotations

from pathlib import Path

import pytest

from arxiv_embed_tests.harvest.repository import Record, recorded


@pytest.fixture(scope="session")
def records(real_data: Path) -> list[Record]:
    """All 1,538 records of the first and the last page of a harvest of set cs, in arXiv's order."""
    return recorded(real_data, "listrecords_cs_page001.xml", "listrecords_cs_page103.xml")


@pytest.fixture(scope="session")
def raw_records(real_data: Path) -> list[Record]:
    """Six records in the form arXivRaw."""
    return recorded(real_data, "arxivraw_ListRecordsResponse.xml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A metadata folder that is not there yet."""
    return tmp_path / "metadata"
