"""Faults, with simulated devices in real processes: each costs a batch at most, and no paper is lost or done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.gpu.backlog import Piece
from arxiv_embed.gpu.crew import WorkerNotStarted
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.faults import NoDeviceLeft
from arxiv_embed.gpu.lane import Patience
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, FailedPaper, Incident, Outcome
from arxiv_embed.gpu.process import WorkerProcess
from arxiv_embed_tests.gpu.simulated import GIB, Event, Simulation, paper, pieces_of, simulated_pool, vectors_of

IMPATIENT = Patience(
    pause=0.02, longest_pause=0.2, first_batch=20.0, hang_floor=3.0, retired=0.3, memory=0.5, look=0.05
)
POISON = 4242
EVER = 10**9


def papers_of(count: int = 600, poisoned: Sequence[int] = ()) -> list[TokenizedPaper]:
    lengths = np.random.default_rng(1).integers(20, 400, count)
    return [
        paper(index, int(length), chunks=1 + index % 3, token=POISON if index in poisoned else None)
        for index, length in enumerate(lengths)
    ]


class Told:
    """What a call of a pool has told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.reports: list[BatchReport] = []
        self.incidents: list[Incident] = []

    @property
    def failed(self) -> dict[int, str]:
        return {outcome.index: outcome.reason for outcome in self.outcomes if isinstance(outcome, FailedPaper)}

    @property
    def happened(self) -> Counter[str]:
        return Counter(incident.what for incident in self.incidents)


def embed(
    folder: Path,
    simulations: Sequence[Simulation],
    papers: Sequence[TokenizedPaper],
    *,
    batch_size: int = 32,
    patience: Patience = IMPATIENT,
    production: bool = True,
) -> Told:
    """All papers through a pool; checks that each came back exactly once, with its own vectors or with a reason."""
    told = Told()
    options = {"batch_size": batch_size, "patience": patience, "production": production}
    with simulated_pool(folder, simulations, **options) as pool:
        told.outcomes += pool.encode_tokenized(pieces_of(papers), told.reports.append, told.incidents.append)
    assert Counter(outcome.index for outcome in told.outcomes) == Counter(paper.index for paper in papers)
    by_index = {paper.index: paper for paper in papers}
    for outcome in told.outcomes:
        if isinstance(outcome, EncodedPaper):
            own = by_index[outcome.index]
            assert np.array_equal(outcome.vectors, vectors_of(own.ids, own.spans))
        else:
            assert outcome.reason
    return told


@pytest.mark.parametrize("production", [True, False])
def test_without_faults_there_is_nothing_to_tell(tmp_path: Path, production: bool) -> None:
    told = embed(tmp_path, [Simulation(), Simulation()], papers_of(), production=production)
    assert not told.incidents
    assert not told.failed
    assert {report.device for report in told.reports} == {"cuda:0", "cuda:1"}


@pytest.mark.parametrize("production", [True, False])
def test_a_worker_that_crashes_is_replaced_and_its_batch_goes_elsewhere(tmp_path: Path, production: bool) -> None:
    crashing = Simulation(script=[Event("crash", 2, 2)])
    told = embed(tmp_path, [crashing, Simulation()], papers_of(), production=production)
    assert told.happened == {"lost": 1, "back": 1} or told.happened == {"lost": 1}  # it may not be needed any more
    assert not told.failed
    assert told.incidents[0].device == "cuda:0"
    assert "exit code -11" in told.incidents[0].detail


def test_a_paper_that_kills_workers_is_found_and_quarantined_and_no_other(tmp_path: Path) -> None:
    poisoned = Simulation(script=[Event("crash", token=POISON)])
    told = embed(tmp_path, [poisoned, poisoned], papers_of(200, poisoned=[77]))
    assert told.failed == {77: told.failed[77]}
    assert "the worker that embeds it is lost" in told.failed[77]
    assert "retired" not in told.happened  # the paper is to blame, not the device


@pytest.mark.parametrize("what", ["crash", "error"])
def test_many_bad_papers_are_found_and_blamed_on_no_device(tmp_path: Path, what: str) -> None:
    """More in a row than a device may fail on: it then shows by a paper known to be good that it is well."""
    bad = list(range(100, 116))
    failing = Simulation(script=[Event(what, token=POISON)], rate=1e7)
    told = embed(tmp_path, [failing, failing], papers_of(200, poisoned=bad), batch_size=8)
    assert sorted(told.failed) == bad
    assert "retired" not in told.happened


def test_a_consumer_that_pauses_is_not_mistaken_for_workers_that_hang(tmp_path: Path) -> None:
    patience = Patience(hang_floor=0.5, hang_factor=1.0, first_batch=0.5)
    incidents: list[Incident] = []
    with simulated_pool(tmp_path, [Simulation(), Simulation()], batch_size=16, patience=patience) as pool:
        for count, _ in enumerate(pool.encode_tokenized(pieces_of(papers_of(200)), on_incident=incidents.append)):
            if count in (50, 120):
                time.sleep(1.0)
    assert not incidents


def test_a_batch_in_trouble_waits_for_memory_and_is_then_cut(tmp_path: Path) -> None:
    """The device has become critical meanwhile, and nothing else is left to do."""
    tenant = Event("tenant", 3, 8, amount=16.5 * GIB)
    device = Simulation(script=[Event("out of memory", 3, 3), tenant], law=(0.0, 1e5, 0.0))
    told = embed(tmp_path, [device], papers_of(60))
    assert not told.failed


def test_a_paper_that_kills_the_only_worker_is_found_too(tmp_path: Path) -> None:
    poisoned = Simulation(script=[Event("crash", token=POISON)])
    told = embed(tmp_path, [poisoned], papers_of(60, poisoned=[7]))
    assert list(told.failed) == [7]


def test_a_paper_that_the_model_fails_on_is_found_and_quarantined(tmp_path: Path) -> None:
    for what, reason in (("error", "a token that nobody can embed (ValueError)"), ("not finite", "not finite numbers")):
        failing = Simulation(script=[Event(what, token=POISON)])
        told = embed(tmp_path / what, [failing, failing], papers_of(200, poisoned=[3, 150]))
        assert sorted(told.failed) == [3, 150]
        assert all(reason in why for why in told.failed.values())
        assert "lost" not in told.happened


def test_an_error_that_ends_a_device_is_blamed_on_no_other_batch(tmp_path: Path) -> None:
    """As an error of CUDA does, after which nothing works there any more until the process is another one."""
    for count, batch_size in ((1, 1), (2, 1), (2, 32)):
        poisoned = Simulation(script=[Event("error", token=POISON, amount=1)])
        papers = papers_of(200, poisoned=[77])
        told = embed(tmp_path / f"{count} {batch_size}", [poisoned] * count, papers, batch_size=batch_size)
        assert list(told.failed) == [77]
        assert told.happened["lost"] >= 2


def test_a_healthy_device_does_not_wait_for_one_that_is_paused(tmp_path: Path) -> None:
    """It would wait for ever: the pause is longer than the test may take."""
    fast = Simulation(rate=1e6, script=[Event("crash", 6, 6)])
    patience = Patience(pause=10_000.0, longest_pause=10_000.0)
    told = embed(tmp_path, [fast, Simulation(rate=2.5e5)], papers_of(600), patience=patience)
    assert told.happened == {"lost": 1}


def test_a_worker_that_hangs_is_killed_by_a_deadline_of_its_own_history(tmp_path: Path) -> None:
    hanging = Simulation(script=[Event("hang", 4, 4)])
    told = embed(tmp_path, [hanging, Simulation()], papers_of())
    assert told.happened["hung"] == 1
    assert not told.failed


def test_a_batch_that_runs_out_of_memory_is_split_and_tried_again(tmp_path: Path) -> None:
    narrow = Simulation(script=[Event("out of memory", 3, 5)])
    told = embed(tmp_path, [narrow, narrow], papers_of())
    assert told.happened["out of memory"] == 6
    assert not told.failed


def test_a_paper_that_fits_no_device_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    small = Simulation(total=8 * GIB, weights=6 * GIB, law=(0.0, 1e6, 0.0), start=(0.0, 5e5, 0.0))
    papers = [*papers_of(60), paper(60, 4000)]
    told = embed(tmp_path, [small, small], papers)
    assert list(told.failed) == [60]
    assert "4000 tokens need more memory" in told.failed[60]


def test_a_paper_waits_for_memory_that_another_holds(tmp_path: Path) -> None:
    """Whoever holds it is gone before patience is."""
    law = (0.0, 1e6, 0.0)
    tenant = Event("tenant", 2, 25, amount=10 * GIB)
    shared = Simulation(law=law, start=law, script=[tenant], rate=1e5)
    told = embed(tmp_path, [shared], [*papers_of(300), paper(300, 12_000)], patience=Patience(memory=30.0, look=0.05))
    assert not told.failed


def test_memory_is_never_overfilled_by_an_adversarial_mix_of_lengths(tmp_path: Path) -> None:
    """Takes the estimator out, and it is."""
    lengths = np.exp(np.random.default_rng(2).uniform(np.log(8), np.log(8192), 1500)).astype(int)
    papers = [paper(index, int(length)) for index, length in enumerate(lengths)]
    device = Simulation(total=12 * GIB, weights=3 * GIB, law=(20e3, 60e3, 8.0), start=(10e3, 30e3, 1.0), rate=1e7)
    told = embed(tmp_path, [device, device], papers, batch_size=256)
    assert "out of memory" not in told.happened
    assert max(report.peak_memory for report in told.reports) <= 0.8 * 12 * GIB
    plain = embed(tmp_path / "plain", [device, device], papers, batch_size=64, production=False)
    assert plain.happened["out of memory"] > 10


def test_another_tenant_costs_few_batches_and_no_paper(tmp_path: Path) -> None:
    lengths = np.random.default_rng(2).integers(100, 3000, 6000)
    papers = [paper(index, int(length)) for index, length in enumerate(lengths)]
    tenant = Event("tenant", 15, 30, amount=0.3 * 24 * GIB)
    device = Simulation(rate=1e7, law=(0.0, 1e5, 0.0), script=[tenant])
    told = embed(tmp_path, [device, device], papers, batch_size=256)
    assert told.happened["out of memory"] <= 3
    assert not told.failed
    peaks = [[r.peak_memory / (24 * GIB) for r in told.reports if r.device == name] for name in ("cuda:0", "cuda:1")]
    for device_peaks in peaks:
        assert max(device_peaks[17:28]) < 0.5
        assert max(device_peaks[32:]) > 0.65  # back to the full budget


def test_predicted_and_measured_peaks_stand_in_every_report(tmp_path: Path) -> None:
    told = embed(tmp_path, [Simulation(), Simulation()], papers_of(3000), batch_size=16)
    assert len(told.reports) > 100
    errors = [report.predicted_memory / report.peak_memory - 1 for report in told.reports[60:]]
    assert np.mean(np.abs(errors) <= 0.08) >= 0.95


def test_what_was_learned_is_kept_and_the_next_run_starts_from_it(tmp_path: Path) -> None:
    device = Simulation(noise=0.0, law=(0.0, 2e5, 0.0), start=(0.0, 1e5, 0.0))
    papers = [paper(index, 300) for index in range(2000)]
    sizes = []
    for run in ("first", "second"):
        reports: list[BatchReport] = []
        with simulated_pool(tmp_path / run, [device], learned=tmp_path / "learned", batch_size=256) as pool:
            list(pool.encode_tokenized(pieces_of(papers), reports.append))
        sizes.append(reports[0].papers)
    [kept] = (tmp_path / "learned").iterdir()
    assert kept.name.startswith("Simulated-24-GiB-float32-padded-")
    assert sizes[1] > 2 * sizes[0]  # it need not begin carefully any more
    kept.write_text(kept.read_text().replace("256,", "0,").replace("76800", "1e400"))
    with simulated_pool(tmp_path / "absurd", [device], learned=tmp_path / "learned") as pool:
        assert len(list(pool.encode_tokenized(pieces_of(papers_of(50))))) == 50
    kept.write_text("{ half a")
    with simulated_pool(tmp_path / "third", [device], learned=tmp_path / "learned") as pool:
        assert len(list(pool.encode_tokenized(pieces_of(papers_of(50))))) == 50


def test_a_device_that_cannot_start_leaves_the_work_to_the_others(tmp_path: Path) -> None:
    told = embed(tmp_path, [Simulation(loads=False), Simulation(rate=1e5)], papers_of(400))
    assert {report.device for report in told.reports} == {"cuda:1"}
    assert told.happened["lost"] >= 1
    assert "fallen off the bus" in told.incidents[0].detail


def test_with_no_device_that_starts_the_reason_is_told(tmp_path: Path) -> None:
    pool = simulated_pool(tmp_path, [Simulation(loads=False), Simulation(loads=False)])
    with pytest.raises(WorkerNotStarted, match="fallen off the bus"):
        pool.__enter__()


def test_a_device_that_fails_again_and_again_is_retired_and_tried_again_later(tmp_path: Path) -> None:
    """Its first workers crash, on a paper known to be good too; when it is tried again much later, it is well."""
    ill = Simulation(script=[Event("crash", 0, 4)])
    told = embed(tmp_path, [ill, Simulation(rate=1e4)], papers_of(600), batch_size=8)
    assert told.happened["retired"] == 1
    assert not told.failed
    after = [incident.what for incident in told.incidents]
    assert "back" in after[after.index("retired") :]
    assert any(report.device == "cuda:0" for report in told.reports)


def test_with_no_device_left_the_run_stops_and_what_was_finished_stands(tmp_path: Path) -> None:
    dying = Simulation(script=[Event("crash", 6, EVER)])
    outcomes: list[Outcome] = []
    with (
        simulated_pool(tmp_path, [dying, dying], patience=IMPATIENT, batch_size=4) as pool,
        pytest.raises(NoDeviceLeft, match="run again to go on"),
    ):
        outcomes.extend(pool.encode_tokenized(pieces_of(papers_of(600))))
    assert 20 < len({outcome.index for outcome in outcomes}) == len(outcomes)


@pytest.mark.timeout(60)
def test_answers_are_taken_while_papers_are_still_fed(tmp_path: Path) -> None:
    """Without the drain the pool would read an endless source for ever, or wait for room that nobody makes."""
    read = 0

    def endless() -> Iterator[Piece]:
        nonlocal read
        while True:
            yield [paper(read + n, 50) for n in range(64)], None
            read += 64

    with simulated_pool(tmp_path, [Simulation(), Simulation()], batch_size=16) as pool:
        call = pool.encode_tokenized(endless())
        for taken in range(1, 20_001):
            next(call)
            assert read - taken < 3000  # bounded queues: what is held does not grow
        call.close()
        assert len(list(pool.encode_tokenized(pieces_of(papers_of(100))))) == 100


def test_a_batch_taken_back_from_a_slow_device_is_computed_once(tmp_path: Path) -> None:
    slow = Simulation(rate=5e3)
    told = embed(tmp_path, [slow, Simulation(rate=4e6)], papers_of(400), batch_size=16)
    done = Counter(report.device for report in told.reports)
    assert done["cuda:1"] > done["cuda:0"]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_befalls_both_devices_each_paper_comes_back_once_or_fails_with_a_reason(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)

    def device() -> Simulation:
        numbers = [chance.randrange(2, 60) for _ in range(6)]
        kinds = ["crash", "crash", "out of memory", "out of memory", "hang", "error"]
        script = [Event(kind, number, number) for kind, number in zip(kinds, numbers, strict=True)]
        return Simulation(rate=1e6, script=[*script, Event("crash", token=POISON)])

    told = embed(tmp_path, [device(), device()], papers_of(800, poisoned=[500]), batch_size=16)
    assert 500 in told.failed
    assert len(told.failed) <= 3


def test_workers_killed_from_outside_lose_no_paper(tmp_path: Path) -> None:
    devices = [Simulation(rate=6e4), Simulation(rate=6e4)]
    outcomes: list[Outcome] = []
    incidents: list[Incident] = []
    papers = papers_of(1000)
    with simulated_pool(tmp_path, devices, batch_size=16, patience=IMPATIENT) as pool:
        for outcome in pool.encode_tokenized(pieces_of(papers), on_incident=incidents.append):
            outcomes.append(outcome)
            if len(outcomes) in (100, 300, 500, 700):
                [pid, *_] = subprocess.run(
                    ["pgrep", "-f", str(tmp_path)], capture_output=True, text=True
                ).stdout.split()
                os.kill(int(pid), signal.SIGKILL)
    assert Counter(outcome.index for outcome in outcomes) == Counter(range(1000))
    assert all(isinstance(outcome, EncodedPaper) for outcome in outcomes)
    assert "exit code -9" in {incident.what: incident.detail for incident in incidents}["lost"]


def test_a_worker_that_cannot_even_be_killed_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits in the driver of a GPU that has fallen off the bus."""
    monkeypatch.setattr("arxiv_embed.gpu.process.KILLED_SECONDS", 0.05)
    worker = WorkerProcess(Device("cpu:0", "cpu"), ["sh", "-c", "exec sleep 60"])
    monkeypatch.setattr(worker._process, "kill", lambda: None)
    begun = time.monotonic()
    assert worker.end(0.0) == -signal.SIGKILL
    assert time.monotonic() - begun < 5
    os.kill(worker.pid, signal.SIGKILL)
    worker._process.wait()
