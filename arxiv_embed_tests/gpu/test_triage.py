"""What is done about a batch or a device in trouble, case by case, without processes."""

from __future__ import annotations

from collections import deque

import pytest

from arxiv_embed.gpu.batching import Batch
from arxiv_embed.gpu.faults import Faults, NoDeviceLeft
from arxiv_embed.gpu.lane import Patience, State
from arxiv_embed.gpu.protocol import OutOfMemory
from arxiv_embed_tests.gpu.simulated import paper
from arxiv_embed_tests.gpu.virtual import VirtualLane

PATIENCE = Patience()


def lanes_of(count: int = 2) -> list[VirtualLane]:
    return [VirtualLane(f"cuda:{number}", lambda now: 1e5) for number in range(count)]


def batch_of(papers: int, kills: int = 0) -> Batch:
    return Batch([paper(index, 20) for index in range(papers)], kills=kills)


def faults_of(lanes: list[VirtualLane]) -> Faults:
    faults = Faults(lanes, PATIENCE)
    faults.begin(deque())
    return faults


def test_what_a_lost_worker_computed_is_suspect_and_what_waited_behind_is_not() -> None:
    [lane, _] = lanes = lanes_of()
    faults = faults_of(lanes)
    computed, behind = batch_of(4), batch_of(3)
    lane.send(computed, 0.0)
    lane.send(behind, 0.0)
    faults.lost(lane, "lost")
    assert list(faults.again) == [behind, computed]
    assert [(batch.kills, batch.avoid) for batch in faults.again] == [(0, set()), (1, {lane.name})]
    assert (lane.state, lane.deaths) == (State.PAUSED, 1)


def test_a_batch_that_kills_again_is_cut_in_two_and_the_device_is_not_to_blame() -> None:
    [lane, _] = lanes = lanes_of()
    faults = faults_of(lanes)
    lane.send(batch_of(4, kills=1), 0.0)
    faults.lost(lane, "lost")
    assert [(len(batch.papers), batch.kills) for batch in faults.again] == [(2, 1), (2, 1)]
    assert (lane.deaths, lane.losses) == (0, 1)
    [incident] = faults.incidents
    assert (incident.device, incident.what) == (lane.name, "lost")


def test_a_paper_that_kills_alone_is_given_up() -> None:
    [lane, _] = lanes = lanes_of()
    faults = faults_of(lanes)
    lane.send(batch_of(1, kills=1), 0.0)
    faults.lost(lane, "hung", "it did not answer within 9 s")
    [failed] = faults.given_up
    assert failed.reason == "the worker that embeds it is hung (it did not answer within 9 s)"
    assert not faults.again


def test_a_paper_is_refused_twice_before_it_is_given_up() -> None:
    one, other = lanes = lanes_of()
    faults = faults_of(lanes)
    batch = batch_of(1)
    faults.failed(one, batch, "no")
    assert (list(faults.again), batch.avoid) == ([batch], {one.name})
    faults.again.clear()
    faults.failed(other, batch, "no")
    assert [failed.reason for failed in faults.given_up] == ["it could not be encoded: no"]


def test_running_out_of_memory_teaches_the_law_shrinks_the_budget_and_halves_the_batch() -> None:
    [lane, _] = lanes = lanes_of()
    faults = faults_of(lanes)
    batch = batch_of(6)
    before = lane.budget.room
    lane.budget.looked(lane.budget.free - 1000)
    faults.ran_out(lane, batch, OutOfMemory(0, 0, tried=True))
    assert lane.budget.room < before
    assert [len(half.papers) for half in faults.again] == [3, 3]
    assert [observation.measured for observation in lane.budget.law.seen] == [False]


def test_a_batch_that_the_worker_did_not_try_is_no_fault() -> None:
    [lane, _] = lanes = lanes_of()
    faults = faults_of(lanes)
    batch = batch_of(6)
    faults.ran_out(lane, batch, OutOfMemory(0, 5 * 2**30, tried=False))
    assert list(faults.again) == [batch]
    assert (lane.budget.scale, batch.refusals) == (1.0, 0)
    assert not faults.incidents


def test_pauses_grow_with_lost_workers_and_a_batch_that_is_done_makes_good_a_little() -> None:
    [lane, other] = lanes = lanes_of()
    faults = faults_of(lanes)
    pauses = []
    for _ in range(3):
        lane.state = State.READY
        faults.lost(lane, "lost")
        lane.pause(100.0)
        pauses.append(lane.until - 100.0)
    assert pauses == [1.0, 2.0, 4.0]
    lane.state = State.READY
    for _ in range(25):
        lane.succeeded()
    assert lane.deaths == pytest.approx(0.5)
    assert other.deaths == 0


def test_a_device_that_dies_between_a_few_successes_is_retired_for_longer_each_time() -> None:
    [lane, _] = lanes = lanes_of()
    faults = faults_of(lanes)
    while lane.state is not State.RETIRED:
        lane.state = State.READY
        lane.succeeded()
        faults.lost(lane, "lost")
        assert lane.deaths < 6
    first = lane.until
    lane.state = State.READY
    faults.lost(lane, "lost")
    assert lane.state is State.RETIRED
    assert lane.until - first > 0.9 * PATIENCE.retired
    assert [incident.what for incident in faults.incidents].count("retired") == 2


def test_workers_that_many_batches_kill_retire_the_device_too() -> None:
    [lane, _] = lanes = lanes_of()
    faults = faults_of(lanes)
    for _ in range(PATIENCE.failures_in_a_row):
        assert lane.state is not State.RETIRED
        lane.state = State.READY
        lane.send(batch_of(1, kills=1), 0.0)
        faults.lost(lane, "lost")
    assert lane.state is State.RETIRED


def test_a_device_that_fails_on_every_batch_is_retired_and_with_none_left_it_is_said() -> None:
    lanes = lanes_of()
    faults = faults_of(lanes)
    for _ in range(PATIENCE.failures_in_a_row):
        faults.failed(lanes[0], batch_of(8), "no")
    assert lanes[0].state is State.RETIRED
    waiting = batch_of(3)
    lanes[1].send(waiting, 0.0)
    for _ in range(PATIENCE.failures_in_a_row - 1):
        faults.failed(lanes[1], batch_of(8), "no")
    with pytest.raises(NoDeviceLeft, match="cuda:1 was the last: 12 batches in a row failed"):
        faults.failed(lanes[1], batch_of(8), "no")
    assert waiting in faults.again
    told: list[str] = []
    faults.tell(lambda incident: told.append(incident.what))
    assert told.count("retired") == 2
    assert not faults.incidents
