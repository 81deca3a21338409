"""Documents: what they name is there."""

from __future__ import annotations

import re

import pytest

from arxiv_embed_tests.conftest import REPOSITORY

NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")
ROWS = [line for line in (REPOSITORY / "docs" / "failures.md").read_text().splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("row", [row for row in ROWS if not row.startswith("| what breaks")])
def test_each_failure_that_is_documented_names_a_test_that_there_is(row: str) -> None:
    found = NAMED.findall(row)
    assert found, row
    for file, test in found:
        assert f"def {test}(" in (REPOSITORY / "arxiv_embed_tests" / file).read_text()
