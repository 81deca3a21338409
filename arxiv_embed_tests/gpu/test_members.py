"""Devices that come and go with their machines, in a pool of simulated ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from arxiv_embed.gpu.backlog import Piece
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.faults import NoDeviceLeft
from arxiv_embed.gpu.lane import Patience
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident
from arxiv_embed_tests.gpu.simulated import Simulation, paper, simulated_pool

pytestmark = pytest.mark.timeout(60)

DEVICE = Simulation(rate=1e5)
BOTH = [Device(f"cuda:{number}", "cuda", f"GPU-{number}") for number in range(2)]


class Members:
    """A pool whose devices are `present`; `steps` say, in order, how many batches more until which are."""

    def __init__(self, folder: Path, steps: Sequence[tuple[int, list[Device]]], **options: object) -> None:
        self.present = BOTH
        self.told: list[BatchReport | Incident] = []
        self._steps = [*steps]
        self._batches = self._given = 0
        self._pool = simulated_pool(folder, [DEVICE, DEVICE], members=lambda: self.present, batch_size=8, **options)

    def _on_batch(self, report: BatchReport) -> None:
        self.told.append(report)
        self._batches += 1
        if self._steps and self._batches >= self._steps[0][0]:
            self._batches, self.present = 0, self._steps.pop(0)[1]

    def _papers(self) -> Iterator[Piece]:
        while self._steps or self._batches < 30:
            yield [paper(self._given + n, 200) for n in range(16)], None
            self._given += 16

    def embed(self) -> None:
        """Checks that every paper came back once."""
        with self._pool as pool:
            outcomes = list(pool.encode_tokenized(self._papers(), self._on_batch, self.told.append))
        assert all(isinstance(outcome, EncodedPaper) for outcome in outcomes)
        assert Counter(outcome.index for outcome in outcomes) == Counter(range(self._given))

    def devices_after(self, what: str) -> list[str]:
        at = next(n for n, one in enumerate(self.told) if isinstance(one, Incident) and one.what == what)
        return [one.device for one in self.told[at:] if isinstance(one, BatchReport)]


def test_what_a_device_that_left_was_sent_goes_to_the_others_and_one_that_joins_is_used(tmp_path: Path) -> None:
    members = Members(tmp_path, [(10, BOTH[:1]), (20, BOTH), (20, BOTH)])
    members.embed()
    incidents = [(one.device, one.what) for one in members.told if isinstance(one, Incident)]
    assert incidents == [("cuda:1", "left"), ("cuda:1", "joined"), ("cuda:1", "back")]
    after = members.devices_after("left")
    assert set(after[: after.index("cuda:1")]) == {"cuda:0"}
    assert {*members.devices_after("back")} == {"cuda:0", "cuda:1"}


def test_a_machine_that_has_joined_anew_is_another_one(tmp_path: Path) -> None:
    again = [BOTH[0], Device("cuda:1", "cuda", "GPU-1", node="2")]
    members = Members(tmp_path, [(10, again), (10, again)])
    members.embed()
    assert [one.what for one in members.told if isinstance(one, Incident)] == ["left", "joined", "back"]


def test_a_pool_without_any_device_waits_for_one(tmp_path: Path) -> None:
    members = Members(tmp_path, [(10, []), (10, BOTH[:1])])
    pool_lanes = members._pool._lanes
    present = iter([False] * 3)

    def told() -> list[Device]:
        if not members.present and not pool_lanes and next(present, True):
            members._steps.pop(0)
            members.present = BOTH[:1]
        return members.present

    members._pool._members = told
    members.embed()
    incidents = [one.what for one in members.told if isinstance(one, Incident)]
    assert incidents == ["left", "left", "joined", "back"]


def test_a_pool_that_is_without_any_device_for_too_long_ends_the_run(tmp_path: Path) -> None:
    members = Members(tmp_path, [(10, []), (10, BOTH)], patience=Patience(alone=0.3, look=0.1))
    with pytest.raises(NoDeviceLeft, match="what was finished is saved"):
        members.embed()
