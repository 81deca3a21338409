"""The vector store's folder, moved away in the middle of a run and back five seconds later."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from arxiv_embed_tests.faults.ends import check_succeeded, check_whole, embed, run_arguments
from arxiv_embed_tests.kills.driven import driven, start_driven
from arxiv_embed_tests.kills.watch import Following, wait_until

SLOW_DEVICES = "arxiv_embed_tests.faults.changes:slow_devices"
AWAY_SECONDS = 5.0
PATIENCE_SECONDS = 120.0


@pytest.mark.parametrize(
    "held_before",
    [pytest.param(True, id="of an earlier run"), pytest.param(False, id="of this run", marks=pytest.mark.slow)],
)
def test_a_store_that_is_away_for_five_seconds_loses_nothing(
    held_before: bool, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    store, elsewhere = home / "stores" / "papers", tmp_path / "elsewhere"
    arguments = run_arguments(small_folder, tiny_model)
    late = tmp_path / "late.jsonl"
    if held_before:
        (small_folder / "second.jsonl").rename(late)
        check_succeeded(driven(home, SLOW_DEVICES, *arguments))
        late.rename(small_folder / "second.jsonl")
    following = Following(home, set(home.glob("runs/*/progress.jsonl")))
    command = start_driven(home, SLOW_DEVICES, *arguments)
    event = "segment" if held_before else "shard_stored"
    wait_until(
        lambda: command.poll() is not None or any(seen["event"] == event for seen in following.poll()),
        f"the run's record had {event}",
        PATIENCE_SECONDS,
    )
    assert command.poll() is None, command.communicate()[0]
    store.rename(elsewhere)
    time.sleep(AWAY_SECONDS)
    made_meanwhile = store.exists()
    if not made_meanwhile:
        elsewhere.rename(store)
    printed, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert not made_meanwhile, f"a new store was begun where the old one had been:\n{printed}"
    assert command.returncode in (0, 1), printed
    assert "Traceback" not in printed
    last = embed(home, *arguments)
    check_succeeded(last)
    assert "papers embedded" not in last.stdout.replace("0 papers embedded", "")
    check_whole(home)
