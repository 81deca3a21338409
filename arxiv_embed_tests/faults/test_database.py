"""Dagster's PostgreSQL, gone in the middle of a run and back five seconds later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from arxiv_embed_tests.faults.ends import check_whole, reason, run_arguments
from arxiv_embed_tests.kills.driven import driven, start_driven
from arxiv_embed_tests.kills.watch import Following, wait_until
from arxiv_embed_tests.postgres_server import PostgresServer

SLOW_DEVICES = "arxiv_embed_tests.faults.changes:slow_devices"
IMPATIENT = "arxiv_embed_tests.faults.changes:impatient"
AWAY_SECONDS = 5.0
PATIENCE_SECONDS = 120.0


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """One of the test's own, as it is taken down."""
    with TemporaryDirectory(prefix="postgres-") as folder:
        made = PostgresServer(Path(folder))
        try:
            yield made
        finally:
            made.stop()


@pytest.mark.parametrize(
    "event",
    [
        pytest.param("run_started", marks=pytest.mark.slow),
        "segment",
        pytest.param("shard_embedded", marks=pytest.mark.slow),
    ],
)
def test_a_database_that_is_away_for_five_seconds_costs_a_run_nothing_but_time(
    event: str, database: PostgresServer, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = run_arguments(small_folder, tiny_model)
    postgres = {"ARXIV_EMBED_POSTGRES_URL": database.url()}
    following = Following(home, set())
    command = start_driven(home, SLOW_DEVICES, *arguments, **postgres)
    wait_until(
        lambda: command.poll() is not None or any(seen["event"] == event for seen in following.poll()),
        f"the run's record had {event}",
        PATIENCE_SECONDS,
    )
    assert command.poll() is None, command.communicate()[0]
    database.take_down()
    time.sleep(AWAY_SECONDS)
    database.bring_up()
    printed, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert "Traceback" not in printed
    assert command.returncode == 0, printed
    check_whole(home)
    again = driven(home, SLOW_DEVICES, *arguments, **postgres)
    assert again.stdout.startswith("Nothing to do"), again.stdout + again.stderr


def test_a_database_that_is_not_there_is_said_and_nothing_is_lost(
    database: PostgresServer, small_folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = run_arguments(small_folder, tiny_model)
    postgres = {"ARXIV_EMBED_POSTGRES_URL": database.url()}
    database.take_down()
    said = reason(driven(home, IMPATIENT, *arguments, **postgres))
    assert "database" in said
    database.bring_up()
    assert driven(home, IMPATIENT, *arguments, **postgres).returncode == 0
    check_whole(home)
