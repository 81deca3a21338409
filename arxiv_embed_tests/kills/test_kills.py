"""Kills: whatever process of a run is killed at whatever moment, the next run goes on as if nothing had happened."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from arxiv_embed_tests.kills.ground import Ground, make_ground
from arxiv_embed_tests.kills.hundred import TRIALS, try_all
from arxiv_embed_tests.kills.trial import FIRST_TEN, kills_of, try_kills


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Ground:
    return make_ground(tmp_path_factory.mktemp("ground"), real_data)


@pytest.fixture(scope="module")
def seed() -> int:
    """Another one each time; pytest shows it where a test fails."""
    return random.SystemRandom().randrange(1_000_000)


@pytest.mark.parametrize("number", range(len(FIRST_TEN)))
def test_a_killed_run_loses_nothing_and_repeats_no_more_than_a_segment(
    number: int, ground: Ground, seed: int, tmp_path: Path
) -> None:
    print(f"python -m arxiv_embed_tests.kills --seed {seed} --only {number}")
    print(try_kills(kills_of(seed, number), ground, tmp_path / "home"))


@pytest.mark.slow
@pytest.mark.timeout(3 * 3600)
def test_a_hundred_killed_runs_lose_nothing(real_data: Path, seed: int) -> None:
    assert try_all(seed, range(TRIALS), real_data)["verdict"] == "met"
