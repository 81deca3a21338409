"""docker-compose.yml, what it does: its own commands and health checks, as processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.conftest import EXAMPLES
from arxiv_embed_tests.deployment.compose import start_order
from arxiv_embed_tests.deployment.stack import Stack, stack_over, wait_until


@pytest.fixture
def stack(tmp_path: Path, small_folder: Path, tiny_model: Path) -> Iterator[Stack]:
    variables = {"ARXIV_EMBED_MODEL": str(tiny_model), "ARXIV_EMBED_DEVICES": "cpu:1"}
    with stack_over(tmp_path, small_folder, variables) as stack:
        yield stack


def test_the_services_start_embed_a_folder_and_end_in_order(stack: Stack, small_folder: Path) -> None:
    stack.start_all()

    first = stack.launch()
    wait_until(lambda: stack.status(first) in ("SUCCESS", "FAILURE"), "the first run had ended")
    assert stack.status(first) == "SUCCESS", stack.printed("code")
    with open_store(str(stack.home / "stores" / "papers")) as store:
        [space] = store.spaces()
        assert store.count(space.fingerprint)[0] == 11

    # A second run that cannot go on, as its device is taken, so that the stop finds it at work.
    lines = (EXAMPLES / "kaggle-2007.jsonl").read_bytes().splitlines(keepends=True)
    (small_folder / "third.jsonl").write_bytes(b"".join(lines[11:15]))
    with FileLock(stack.home / "devices" / "cpu:0.lock", "Device cpu:0"):
        second = stack.launch()
        wait_until((stack.home / "runs" / second / "progress.jsonl").exists, "the second run was at work")
        ends = {name: stack.stop(name) for name in reversed(start_order(stack.services)) if name != "postgres"}
    assert stack.stored_status(second) in ("FAILURE", "CANCELED")
    ends["postgres"] = stack.stop("postgres")

    assert ends == dict.fromkeys(ends, 0)
    assert sorted(path.name for path in (stack.place / "dagster").iterdir()) == ["dagster.yaml", "workspace.yaml"]
    wait_until(stack.is_gone, "no process of any service was left")
