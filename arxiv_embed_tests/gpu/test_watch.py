"""The watch, over a pool of simulated devices and a scripted NVML: what befalls a device, and what follows from it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pynvml
import pytest

from arxiv_embed.gpu import devices, readings
from arxiv_embed.gpu.backlog import Piece
from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.crew import WorkerNotStarted
from arxiv_embed.gpu.devices import Device
from arxiv_embed.gpu.faults import Faults, NoDeviceLeft
from arxiv_embed.gpu.health import Action, HealthReport, Verdict
from arxiv_embed.gpu.lane import Lane, Patience
from arxiv_embed.gpu.memory import MemoryLaw
from arxiv_embed.gpu.orders import Order, Orders, obey
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident, Outcome
from arxiv_embed.gpu.process import DEPTH, WorkerProcess
from arxiv_embed.gpu.verdicts import Limits
from arxiv_embed.gpu.watch import Watch, next_due
from arxiv_embed_tests.gpu.fake_nvml import FakeGpu, FakeNvml
from arxiv_embed_tests.gpu.simulated import Event, Simulation, paper, simulated_pool
from arxiv_embed_tests.gpu.virtual import VirtualLane

pytestmark = pytest.mark.timeout(30)

SECONDS = 0.05
NEVER = 10_000.0
PATIENT = Patience(pause=0.02, longest_pause=0.2, first_batch=NEVER, hang_floor=NEVER, retired=NEVER, look=0.05)
"""What is noticed in time is noticed by the watch."""
WELL = (FakeGpu("GPU-0"), FakeGpu("GPU-1", bus=0x2A))
DEVICE = Simulation(rate=1e5)


class Ward:
    """A pool under a watch. It is given papers until `until` holds, and then ends; `script` is played report by
    report, from the first batch on."""

    def __init__(
        self,
        nvml: FakeNvml,
        folder: Path,
        simulations: Sequence[Simulation],
        longest_rest: float = 900.0,
        **options: Any,
    ) -> None:
        self.nvml = nvml
        self.reports: list[HealthReport] = []
        self.batches: list[BatchReport] = []
        self.incidents: list[Incident] = []
        self.outcomes: list[Outcome] = []
        self.told: list[BatchReport | Incident] = []
        """Batches and incidents in the order that the pool told of them."""
        self.script: Callable[[int], Any] = lambda number: None
        self.until: Callable[[], bool] = lambda: True
        self.watch = Watch(SECONDS, self._on_report, Limits(stall_floor=0.2, longest_rest=longest_rest))
        self._given = self._acts = 0
        options = {"batch_size": 8, "patience": PATIENT, **options}
        self._pool = simulated_pool(folder, simulations, watch=self.watch, **options)

    def _on_report(self, report: HealthReport) -> None:
        self.reports.append(report)
        if self.batches:  # its workers are ready
            self._acts += 1
            self.script(self._acts)

    def _papers(self) -> Iterator[Piece]:
        while not self.until() or self._given < 400:
            lengths = np.random.default_rng(self._given).integers(20, 400, 16)
            yield [paper(self._given + n, int(length)) for n, length in enumerate(lengths)], None
            self._given += len(lengths)

    def embed(self) -> None:
        """Runs to the end; checks that every paper came back once, with its own vectors."""

        def on_batch(batch: BatchReport) -> None:
            self.batches.append(batch)
            self.told.append(batch)

        def on_incident(incident: Incident) -> None:
            self.incidents.append(incident)
            self.told.append(incident)

        with self._pool as pool:
            self.outcomes += pool.encode_tokenized(self._papers(), on_batch, on_incident)
        assert Counter(outcome.index for outcome in self.outcomes) == Counter(range(self._given))
        for outcome in self.outcomes:
            assert isinstance(outcome, EncodedPaper)

    def happened(self, *whats: str) -> bool:
        return Counter(whats) <= Counter(incident.what for incident in self.incidents)

    def told_of(self, device: str, what: str) -> str:
        return next(i.detail for i in self.incidents if (i.device, i.what) == (device, what))

    def verdicts(self, device: int = 0) -> list[Verdict]:
        return [report.devices[device].verdict for report in self.reports]

    def batches_between(self, device: str, first: str, last: str) -> int:
        """Batches of a device that were done after one incident of it and before another."""
        told = [one.what if isinstance(one, Incident) else "batch" for one in self.told if one.device == device]
        return told[told.index(first) : told.index(last)].count("batch")

    def done_since(self, what: str, device: str) -> int:
        """Batches of a device since an incident."""
        at = next((n for n, one in enumerate(self.told) if isinstance(one, Incident) and one.what == what), None)
        return 0 if at is None else sum(one.device == device for one in self.told[at + 1 :])

    def after(self, what: str) -> set[str]:
        """Devices that did batches after an incident."""
        at = next(n for n, one in enumerate(self.told) if isinstance(one, Incident) and one.what == what)
        return {one.device for one in self.told[at:] if isinstance(one, BatchReport)}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    nvml = FakeNvml(WELL)
    monkeypatch.setattr(devices, "_nvml", lambda: nvml)
    return nvml


@pytest.fixture
def ward(nvml: FakeNvml, tmp_path: Path) -> Callable[..., Ward]:
    return lambda *simulations, **options: Ward(nvml, tmp_path, simulations or [DEVICE, DEVICE], **options)


def befalls(ward: Ward, number: int, **changed: Any) -> None:
    """From now on the first GPU is so."""
    ward.nvml.gpus = (replace(WELL[0], **changed), WELL[1])


def test_devices_that_are_well_are_reported_as_that_and_left_alone(ward: Callable[..., Ward]) -> None:
    well = ward()
    well.until = lambda: len(well.reports) >= 5
    well.embed()
    assert not well.incidents
    assert {*well.verdicts(0), *well.verdicts(1)} == {Verdict.OK}
    assert [report.number for report in well.reports] == list(range(1, len(well.reports) + 1))
    last = well.reports[-1]
    assert last.cpu is not None
    assert last.memory
    for health in last.devices:
        assert (health.temperature, health.power, health.utilization) == (45, 300.0, 0.97)
        assert health.cpu is not None
        assert health.process_memory
        assert health.memory_allocated
    assert max(health.expected for report in well.reports for health in report.devices) > 0
    assert max(report.waiting for report in well.reports) > 0


@pytest.mark.parametrize("production", [True, False])
def test_a_hot_device_gets_no_batch_until_it_is_cool(ward: Callable[..., Ward], production: bool) -> None:
    hot = ward(production=production)
    temperatures = {3: 84, 4: 91, 8: 82}  # of 88 at most, cool again at 80

    def script(number: int) -> None:
        if number in temperatures:
            befalls(hot, number, temperature=temperatures[number])
        elif number > 8 and hot.done_since("paused", "cuda:1") > 2 * DEPTH:  # the other one goes on alone
            befalls(hot, number, temperature=75)

    hot.script = script
    hot.until = lambda: hot.happened("cool again") and "cuda:0" in hot.after("cool again")
    hot.embed()
    assert [incident.what for incident in hot.incidents] == ["paused", "cool again"]
    assert hot.told_of("cuda:0", "paused") == "91 °C, of 88 °C at most"
    assert hot.told_of("cuda:0", "cool again") == "75 °C"
    assert hot.batches_between("cuda:0", "paused", "cool again") <= DEPTH  # what was under way
    assert Verdict.HOT in hot.verdicts()
    assert hot.after("cool again") == {"cuda:0", "cuda:1"}


def test_with_every_device_hot_the_run_waits_until_one_is_cool(ward: Callable[..., Ward]) -> None:
    hot = ward(DEVICE, patience=replace(PATIENT, memory=0.01))

    def script(number: int) -> None:
        if number in (2, 15):
            befalls(hot, number, temperature=95 if number == 2 else 50)

    hot.script = script
    hot.until = lambda: hot.happened("cool again")
    hot.embed()
    assert [incident.what for incident in hot.incidents] == ["paused", "cool again"]


def test_a_device_that_stays_hot_at_rest_is_retired_and_the_others_do_its_work(ward: Callable[..., Ward]) -> None:
    hot = ward(longest_rest=0.5)
    hot.script = lambda number: befalls(hot, number, temperature=95)
    hot.until = lambda: hot.happened("retired")
    hot.embed()
    assert [incident.what for incident in hot.incidents] == ["paused", "retired"]
    assert "95 °C after" in hot.told_of("cuda:0", "retired")


def test_a_run_whose_only_device_stays_hot_ends_with_that_reason(ward: Callable[..., Ward]) -> None:
    alone = ward(DEVICE, longest_rest=0.3)
    alone.script = lambda number: befalls(alone, number, temperature=95)
    alone.until = lambda: False
    with pytest.raises(NoDeviceLeft, match="of rest"):
        alone.embed()


def test_smaller_batches_are_smaller_also_where_memory_is_not_what_limits_them(ward: Callable[..., Ward]) -> None:
    slow = ward(DEVICE, batch_size=40)
    heat = pynvml.nvmlClocksEventReasonSwThermalSlowdown
    slow.script = lambda number: befalls(slow, number, reasons=heat if max(b.papers for b in slow.batches) == 40 else 0)
    slow.until = lambda: slow.done_since("shrunk", "cuda:0") > 30
    slow.embed()
    told = [one.what if isinstance(one, Incident) else one.papers for one in slow.told]
    shrunk = told.index("shrunk")
    assert max(told[:shrunk]) == 40
    assert max(told[shrunk + DEPTH + 1 :]) <= 34  # 0.85 of them


def test_a_device_slowed_down_by_heat_gets_smaller_batches(ward: Callable[..., Ward]) -> None:
    roomless = Simulation(law=(0.0, 1e7, 0.0), start=(0.0, 1e7, 0.0), rate=1e5, noise=0.0)
    slow = ward(roomless, batch_size=256)
    scales: list[float] = []

    def script(number: int) -> None:
        scales.append(slow._pool._lanes[0].budget.scale)
        befalls(slow, number, reasons=pynvml.nvmlClocksEventReasonSwThermalSlowdown if 3 < number < 14 else 0)

    slow.script = script
    slow.until = lambda: slow.happened("grows again") and scales[-1] == 1.0
    slow.embed()
    assert slow.told_of("cuda:0", "shrunk") == "software thermal slowdown (1755 of 1980 MHz)"
    assert Verdict.THROTTLED in slow.verdicts()
    assert 0.4 < min(scales) < 0.6
    told = [one.what if isinstance(one, Incident) else one.papers for one in slow.told]
    small = told[told.index("shrunk") : told.index("grows again")]
    assert min(small[1:]) < 0.7 * max(told[: told.index("shrunk")])
    assert [incident.what for incident in slow.incidents] == ["shrunk", "grows again"]  # told once, as long as it lasts


def test_a_device_nearly_full_of_whoever_s_memory_gets_smaller_batches(ward: Callable[..., Ward]) -> None:
    full = ward()
    full.script = lambda number: befalls(full, number, memory=(100, 4))
    full.until = lambda: full.happened("shrunk")
    full.embed()
    assert "96% of" in full.told_of("cuda:0", "shrunk")
    assert Verdict.MEMORY_CRITICAL in full.verdicts()


def test_a_power_cap_is_told_and_asks_for_nothing(ward: Callable[..., Ward]) -> None:
    capped = ward()
    capped.script = lambda number: befalls(capped, number, reasons=pynvml.nvmlClocksEventReasonSwPowerCap)
    capped.until = lambda: len(capped.reports) > 4
    capped.embed()
    assert not capped.incidents
    assert capped.reports[-1].devices[0].reasons == ["software power cap (1755 of 1980 MHz)"]


def test_a_stalled_worker_is_noticed_within_two_reports_and_restarted(ward: Callable[..., Ward]) -> None:
    stalling = ward(Simulation(rate=1e5, script=[Event("hang", 12, 12)]), DEVICE)
    stalling.until = lambda: stalling.happened("hung", "back")
    stalling.embed()
    assert stalling.told_of("cuda:0", "hung").startswith("its batch takes ")
    told = [report.devices[0] for report in stalling.reports]
    first = next(n for n, health in enumerate(told) if health.verdict is Verdict.STALLED)
    most = [max(0.2, 5 * health.expected) for health in told]
    assert all(health.computing <= limit for health, limit in zip(told[:first], most, strict=False) if health.expected)
    acts = [health.action for health in told[first : first + 2]]
    assert acts == [Action.NONE, Action.RESTART]


def test_errors_of_its_memory_restart_a_worker_and_then_retire_the_device(ward: Callable[..., Ward]) -> None:
    ill = ward()

    def script(number: int) -> None:
        befalls(ill, number, ecc=(9, (number > 3) + ill.happened("back")))

    ill.script = script
    ill.until = lambda: ill.happened("retired")
    ill.embed()
    assert [incident.what for incident in ill.incidents] == ["restarted", "back", "retired"]
    assert ill.told_of("cuda:0", "restarted") == "1 new ECC errors that were not corrected"
    assert ill.verdicts()[-1] in (Verdict.RETIRED, Verdict.FAILING)
    assert ill.after("retired") == {"cuda:1"}


def test_an_xid_of_the_hardware_restarts_a_worker(ward: Callable[..., Ward]) -> None:
    ill = ward()
    ill.script = lambda number: ill.nvml.meets("GPU-0", 95 if number == 4 else 13) if number in (3, 4) else None
    ill.until = lambda: ill.happened("restarted", "back")
    ill.embed()
    assert "XID 95: an ECC error, not contained" in ill.told_of("cuda:0", "restarted")
    assert ill.reports[-1].devices[0].xid == [13, 95]


def test_a_lost_device_is_retired_and_brought_back_when_it_answers_again(ward: Callable[..., Ward]) -> None:
    gone = ward()

    def script(number: int) -> None:
        befalls(gone, number, lost=pynvml.NVML_ERROR_GPU_IS_LOST if 3 <= number < 10 else None)

    gone.script = script
    gone.until = lambda: gone.happened("seen again", "back") and "cuda:0" in gone.after("back")
    gone.embed()
    assert [incident.what for incident in gone.incidents] == ["retired", "seen again", "back"]
    assert "the driver has lost it" in gone.told_of("cuda:0", "retired")
    assert gone.batches_between("cuda:0", "retired", "back") == 0
    assert gone.batches_between("cuda:0", "retired", "seen again") == 0
    assert Verdict.RETIRED in gone.verdicts()
    assert gone.verdicts(1) == [Verdict.OK] * len(gone.reports)


def test_a_run_whose_only_device_is_lost_ends_with_that_reason(ward: Callable[..., Ward]) -> None:
    alone = ward(DEVICE)
    alone.script = lambda number: befalls(alone, number, lost=pynvml.NVML_ERROR_GPU_IS_LOST)
    alone.until = lambda: False
    with pytest.raises(NoDeviceLeft, match="the driver has lost it"):
        alone.embed()


def test_reports_are_made_while_the_pool_stands_still(nvml: FakeNvml, tmp_path: Path) -> None:
    """Whoever takes the papers takes none before five reports more, which come from another thread."""
    ward = Ward(nvml, tmp_path, [DEVICE])
    enough = threading.Event()
    ward.until = enough.is_set
    ward.script = lambda number: enough.set() if number >= 8 else None
    with ward._pool as pool:
        outcomes = pool.encode_tokenized(ward._papers(), ward.batches.append)
        next(outcomes)
        assert enough.wait(20)
        rest = list(outcomes)
    assert len(rest) == ward._given - 1
    assert not {report.devices[0].verdict for report in ward.reports} & {Verdict.STALLED}  # it has done its batch


def test_the_schedule_does_not_drift_and_passes_over_what_was_missed() -> None:
    due = 0.0
    for now in (30.7, 61.5, 90.0, 121.9):  # each report a little late
        due = next_due(due, 30.0, now - 30.0)
    assert due == 120.0
    assert next_due(120.0, 30.0, 155.0) == 150.0  # the one before took too long: at once
    assert next_due(120.0, 30.0, 275.0) == 270.0


def test_what_goes_wrong_in_looking_is_told_once_and_the_watch_and_the_run_go_on(
    ward: Callable[..., Ward], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ward()
    rounds = []

    def reading(*_: object) -> None:
        rounds.append(1)
        if 3 < len(rounds) < 9:
            raise ZeroDivisionError("a fault of the watch's own")

    monkeypatch.setattr(readings, "_machine_memory_used", reading)
    monkeypatch.setattr(readings, "_slowdowns", lambda nvml, handle: reading() or ())
    broken.until = lambda: len(rounds) > 20
    broken.embed()
    assert [incident.what for incident in broken.incidents] == ["unwatched"]
    assert "a fault of the watch's own" in broken.told_of("cuda:0", "unwatched")


def test_a_report_that_cannot_be_written_ends_nothing(ward: Callable[..., Ward]) -> None:
    tried: list[int] = []

    def full(number: int) -> None:
        tried.append(number)
        raise OSError(28, "No space left on device")

    ward_ = ward()
    ward_.script = full
    ward_.until = lambda: len(tried) > 5
    ward_.embed()
    assert [incident.what for incident in ward_.incidents] == ["unwatched"]


def test_a_hot_device_rests_also_where_its_reports_cannot_be_written(ward: Callable[..., Ward]) -> None:
    hot, written = ward(), [0]

    def full(number: int) -> None:
        written[0] = number
        befalls(hot, number, temperature=95 if number < 12 else 50)
        raise OSError(28, "No space left on device")

    hot.script = full
    hot.until = lambda: hot.happened("cool again") and written[0] >= 16
    hot.embed()
    assert Counter(incident.what for incident in hot.incidents) == {"paused": 1, "unwatched": 1, "cool again": 1}
    assert hot.told_of("cuda:0", "cool again") == "50 °C"


def test_a_device_that_rests_is_not_forgotten_where_nobody_can_tell_how_warm_it_is(
    ward: Callable[..., Ward], monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = ward()

    def gone(*_: object) -> float:
        raise ZeroDivisionError("the watch is broken for good")

    def script(number: int) -> None:
        befalls(hot, number, temperature=95)
        if hot.happened("paused"):
            monkeypatch.setattr(readings, "_slowdowns", gone)

    hot.script = script
    hot.until = lambda: hot.happened("cool again")
    hot.embed()
    assert [incident.what for incident in hot.incidents] == ["paused", "unwatched", "cool again"]
    assert hot.told_of("cuda:0", "cool again") == "how it is cannot be told any more"


def test_reports_are_counted_on_when_the_pool_is_started_anew_and_when_it_changes_its_model(
    nvml: FakeNvml, tmp_path: Path
) -> None:
    one, other = Ward(nvml, tmp_path / "one", [DEVICE]), Ward(nvml, tmp_path / "other", [DEVICE])
    other._pool._watch = one.watch
    one.until = lambda: len(one.reports) >= 3
    one.embed()
    counted = len(one.reports)
    with other._pool as pool:
        list(pool.encode_tokenized(other._papers()))
        pool.change_model(pool._crew.files, pool._crew.space)
        before = len(one.reports)
        other.until = lambda: len(one.reports) >= before + 2
        list(pool.encode_tokenized(other._papers()))
    assert len(one.reports) >= counted + 2
    assert [report.number for report in one.reports] == list(range(1, len(one.reports) + 1))
    assert not any(thread.name == "health" for thread in threading.enumerate())
    ended = len(one.reports)
    one.watch.end()
    assert len(one.reports) == ended


def test_a_driver_that_never_answers_keeps_no_run_from_ending(
    ward: Callable[..., Ward], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, answer = ward(), threading.Event()
    monkeypatch.setattr(readings, "_slowdowns", lambda nvml, handle: (answer.wait(60), ())[1])
    monkeypatch.setattr("arxiv_embed.gpu.watch.END_SECONDS", 0.05)
    silent.embed()
    answer.set()
    assert not silent.reports


def test_a_report_that_is_never_written_keeps_no_run_from_ending(
    ward: Callable[..., Ward], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked, written = ward(), threading.Event()
    monkeypatch.setattr("arxiv_embed.gpu.watch.END_SECONDS", 0.05)
    blocked.script = lambda number: written.wait(60)
    blocked.until = lambda: blocked._acts > 0
    blocked.embed()
    assert len(blocked.reports) == blocked.reports[-1].number
    written.set()


def test_a_driver_that_does_not_answer_any_more_lets_no_device_rest_for_ever(
    ward: Callable[..., Ward], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's only device is hot, and nobody could say that it is cool."""
    hot, answer = ward(DEVICE), threading.Event()
    monkeypatch.setattr("arxiv_embed.gpu.watch.SILENT_SECONDS", 0.5)
    monkeypatch.setattr("arxiv_embed.gpu.watch.END_SECONDS", 0.05)

    def script(number: int) -> None:
        befalls(hot, number, temperature=95)
        if hot.happened("paused"):
            monkeypatch.setattr(readings, "_slowdowns", lambda nvml, handle: (answer.wait(60), ())[1])

    hot.script = script
    hot.until = lambda: hot.happened("cool again")
    hot.embed()
    answer.set()
    assert [incident.what for incident in hot.incidents] == ["paused", "unwatched", "cool again"]
    assert hot.told_of("cuda:0", "unwatched") == "a report of health failed: the driver, or the disk, does not answer"


def test_a_worker_of_a_cpu_is_reported_with_what_the_system_tells() -> None:
    """Of this very process, as its worker."""
    came = threading.Event()
    reports: list[HealthReport] = []

    def on_report(report: HealthReport) -> None:
        reports.append(report)
        if report.number == 2:
            came.set()

    lane = Lane(Device("cpu:0", "cpu"), WorkerProcess, lambda ready: MemoryLaw(ready.law), PATIENT)
    lane.worker = OwnProcess()  # type: ignore[assignment]
    watch = Watch(SECONDS, on_report)
    watch.begin([lane])
    assert came.wait(60)
    watch.end()
    [health] = reports[1].devices
    assert health.cpu is not None
    assert health.process_memory is not None
    assert health.memory_used is not None
    assert health.memory_total is not None
    assert health.memory_used < health.memory_total
    assert (health.temperature, health.power, health.clock, health.links_up) == (None, None, None, None)
    assert reports[1].cpu is not None


class OwnProcess:
    pid = os.getpid()


def test_of_two_orders_alike_only_the_last_is_done_and_after_those_that_came_between() -> None:
    orders = Orders()
    for action, why in ((Action.PAUSE, "1"), (Action.BRING_BACK, "2"), (Action.PAUSE, "3")):
        orders.post(Order("cuda:0", action, why))
    assert [order.why for order in orders.take()] == ["2", "3"]
    assert orders.take() == []


def test_a_device_is_told_to_be_shrunk_when_it_is_and_grown_as_often() -> None:
    """Also where it was slowed down before, by what asks for nothing, or had no worker at the first report of it."""
    lane = VirtualLane("cuda:0", lambda now: 1e4)
    faults = Faults([lane], PATIENT)
    for action in (Action.SHRINK, Action.SHRINK, Action.BRING_BACK, Action.BRING_BACK, Action.SHRINK):
        obey(Order("cuda:0", action, "it is hot"), [lane], faults, 0.0)
    assert [incident.what for incident in faults.incidents] == ["shrunk", "grows again", "shrunk"]


def test_a_device_that_was_retired_since_is_not_told_to_rest() -> None:
    lane = VirtualLane("cuda:0", lambda now: 1e4)
    lane.worker = None
    faults = Faults([lane, VirtualLane("cuda:1", lambda now: 1e4)], PATIENT)
    for action in (Action.PAUSE, Action.RETIRE, Action.PAUSE):
        obey(Order("cuda:0", action, "it is hot"), [lane], faults, 0.0)
    assert [incident.what for incident in faults.incidents] == ["paused", "retired"]
    assert not lane.rests


def test_a_batch_that_was_done_since_is_no_reason_to_restart() -> None:
    lane = VirtualLane("cuda:0", lambda now: 1e4)
    lane.worker = None
    faults = Faults([lane], PATIENT)
    for number in range(2):
        lane.send(Batch([paper(number, 50)]), 0.0)
    order = Order("cuda:0", Action.RESTART, "it takes long", batch=0, computing=5.0)
    lane.finish(9.0)
    obey(order, [lane], faults, 10.0)
    obey(replace(order, batch=1), [lane], faults, 10.0)  # begun a second ago
    assert not faults.incidents
    obey(replace(order, batch=1), [lane], faults, 15.0)
    assert [incident.what for incident in faults.incidents] == ["hung"]


def test_a_pool_that_cannot_start_leaves_no_watch_behind(ward: Callable[..., Ward]) -> None:
    broken = ward(Simulation(loads=False))
    with pytest.raises(WorkerNotStarted):
        broken.embed()
    assert not any(thread.name == "health" for thread in threading.enumerate())
