"""Verdicts: what is found of a device in one report, after what was found before, and what is to be done about it."""

from __future__ import annotations

from typing import Any

import pytest

from arxiv_embed.gpu.health import Action, Verdict
from arxiv_embed.gpu.lane import State
from arxiv_embed.gpu.readings import Reading
from arxiv_embed.gpu.verdicts import History, LaneLook, Limits, judge

GB = 10**9
WELL: dict[str, Any] = {"memory_used": 10 * GB, "memory_total": 80 * GB, "temperature": 60, "slowdown_at": 89}
ECC = History(ecc_first=2, ecc_last=2)
STALLED = History(Verdict.STALLED, stalled=7)
ONCE = History(ecc_first=2, ecc_last=2, restarts=1)


def read(**told: Any) -> Reading:
    return Reading("cuda:0", **{**WELL, **told})


def lane(state: State = State.READY, **seen: Any) -> LaneLook:
    return LaneLook("cuda:0", state, **seen)


SLOW = ["software thermal slowdown"]
HOT_AND_SLOW = read(temperature=90, throttled_by=["hardware thermal slowdown"], clock=900, clock_limit=1980)
AT_A_NINTH = read(throttled_by=["hardware slowdown"], clock=220, clock_limit=1980)
NEVER_TOLD = Reading("cpu:0")

CASES: list[tuple[Reading, LaneLook, History, Verdict, Action, str]] = [
    (read(), lane(), History(), Verdict.OK, Action.NONE, ""),
    (NEVER_TOLD, lane(), History(), Verdict.OK, Action.NONE, ""),
    # heat, with two degrees before the driver slows it down, and eight until it is cool
    (read(temperature=86), lane(), History(), Verdict.OK, Action.NONE, ""),
    (read(temperature=91), lane(), History(), Verdict.HOT, Action.PAUSE, "91 °C, of 87 °C at most"),
    (read(temperature=91), lane(rests=True), History(), Verdict.HOT, Action.NONE, "91 °C, of 87 °C at most"),
    (read(temperature=80), lane(rests=True), History(), Verdict.HOT, Action.NONE, "80 °C, it rests until 79 °C"),
    (read(temperature=80), lane(), History(Verdict.HOT), Verdict.OK, Action.NONE, ""),
    (read(temperature=79), lane(rests=True), History(), Verdict.OK, Action.BRING_BACK, "79 °C"),
    (read(temperature=None), lane(rests=True), History(), Verdict.OK, Action.BRING_BACK, "not told any more"),
    (read(temperature=88, slowdown_at=None), lane(), History(), Verdict.HOT, Action.PAUSE, "of 87 °C at most"),
    (read(temperature=88, slowdown_at=0), lane(), History(), Verdict.HOT, Action.PAUSE, "of 87 °C at most"),
    (read(temperature=91, slowdown_at=95), lane(), History(), Verdict.OK, Action.NONE, ""),
    (read(temperature=91), lane(rests=True, rested=890.0), History(), Verdict.HOT, Action.NONE, "91 °C, of"),
    (read(temperature=91), lane(rests=True, rested=910.0), History(), Verdict.FAILING, Action.RETIRE, "after 15 minut"),
    (read(temperature=80), lane(rests=True, rested=910.0), History(), Verdict.FAILING, Action.RETIRE, "80 °C after"),
    (read(temperature=79), lane(rests=True, rested=910.0), History(), Verdict.OK, Action.BRING_BACK, "79 °C"),
    # slowed down
    (HOT_AND_SLOW, lane(), History(), Verdict.THROTTLED, Action.PAUSE, "slowdown (900 of 1980 MHz); 90"),
    (HOT_AND_SLOW, lane(rests=True), History(), Verdict.THROTTLED, Action.SHRINK, "hardware thermal slowdown"),
    (read(throttled_by=SLOW), lane(), History(), Verdict.THROTTLED, Action.SHRINK, "thermal"),
    (read(throttled_by=SLOW), lane(scale=0.5), History(), Verdict.THROTTLED, Action.NONE, "th"),
    (read(throttled_by=["power brake slowdown"]), lane(), History(), Verdict.THROTTLED, Action.NONE, "power brake"),
    (read(throttled_by=["software power cap"]), lane(), History(), Verdict.OK, Action.NONE, "software power cap"),
    # memory
    (read(memory_used=72 * GB), lane(), History(), Verdict.OK, Action.NONE, ""),
    (read(memory_used=76 * GB), lane(), History(), Verdict.MEMORY_CRITICAL, Action.SHRINK, "95% of 80.0 GB are used"),
    (read(memory_used=76 * GB), lane(shrunk=True), History(), Verdict.MEMORY_CRITICAL, Action.SHRINK, "95%"),
    (read(memory_used=70 * GB), lane(shrunk=True), History(), Verdict.OK, Action.NONE, ""),
    (read(memory_used=64 * GB), lane(shrunk=True), History(), Verdict.OK, Action.BRING_BACK, "not too much for it"),
    (read(memory_used=76 * GB), lane(allocated=9 * GB), History(), Verdict.MEMORY_CRITICAL, Action.SHRINK, "95%"),
    (read(memory_used=76 * GB), lane(allocated=2 * GB), History(), Verdict.MEMORY_CRITICAL, Action.NONE, "by oth"),
    (HOT_AND_SLOW, lane(rests=True, shrunk=True, scale=0.4), History(), Verdict.THROTTLED, Action.NONE, "thermal"),
    # a batch that takes long: five times what was predicted, and ten seconds
    (read(), lane(expected=4.0, computing=19.0), History(), Verdict.OK, Action.NONE, ""),
    (read(), lane(batch=7, expected=4.0, computing=21.0), History(), Verdict.STALLED, Action.NONE, "takes 21.0 s"),
    (read(), lane(batch=7, expected=4.0, computing=51.0), STALLED, Verdict.STALLED, Action.RESTART, "takes 51.0 s"),
    (read(), lane(batch=8, expected=4.0, computing=21.0), STALLED, Verdict.STALLED, Action.NONE, "takes 21.0 s"),
    (read(), lane(expected=0.1, computing=9.0), History(), Verdict.OK, Action.NONE, ""),
    (read(), lane(batch=7, expected=0.1, computing=11.0), STALLED, Verdict.STALLED, Action.RESTART, "were 0.1 s"),
    (read(), lane(expected=0.0, computing=500.0), History(), Verdict.OK, Action.NONE, ""),
    (read(), lane(expected=4.0, computing=21.0, spoken=True), History(), Verdict.OK, Action.NONE, ""),
    (AT_A_NINTH, lane(scale=0.5, expected=4.0, computing=150.0), History(), Verdict.THROTTLED, Action.NONE, "220 of"),
    (AT_A_NINTH, lane(batch=7, expected=4.0, computing=190.0), History(), Verdict.STALLED, Action.NONE, "190.0 s"),
    (read(), lane(State.LOADING, expected=4.0, computing=21.0), History(), Verdict.OK, Action.NONE, ""),
    # errors of the hardware: another worker, and at the next ones no more of it
    (read(ecc_uncorrected=2), lane(), History(), Verdict.OK, Action.NONE, ""),
    (read(ecc_uncorrected=2), lane(), ECC, Verdict.OK, Action.NONE, ""),
    (read(ecc_uncorrected=3), lane(), ECC, Verdict.FAILING, Action.RESTART, "1 new ECC errors that were not corrected"),
    (read(ecc_uncorrected=3), lane(), ONCE, Verdict.FAILING, Action.RETIRE, "1 new ECC errors"),
    (read(ecc_uncorrected=5), lane(), History(ecc_first=2, ecc_last=5), Verdict.OK, Action.NONE, "3 ECC errors in"),
    (read(xid=[48]), lane(), History(), Verdict.FAILING, Action.RESTART, "XID 48: an ECC error of two bits"),
    (read(xid=[94]), lane(), ONCE, Verdict.FAILING, Action.RETIRE, "XID 94"),
    (read(xid=[79]), lane(), History(), Verdict.FAILING, Action.RETIRE, "fallen off the bus"),
    (read(xid=[13]), lane(), History(), Verdict.OK, Action.NONE, "XID 13"),
    (read(links_up=16), lane(), History(links_up=18), Verdict.OK, Action.NONE, "16 of 18 NVLinks are up"),
    (read(), lane(losses=3), History(), Verdict.FAILING, Action.NONE, "3 workers were lost in a row"),
    (read(), lane(batch=7, losses=3, expected=4.0, computing=21.0), STALLED, Verdict.STALLED, Action.RESTART, "takes"),
    # gone, and there again
    (Reading("cuda:0", lost="GPU is lost"), lane(), History(), Verdict.FAILING, Action.RETIRE, "it: GPU is lost"),
    (Reading("cuda:0", lost="x"), lane(State.LOADING), History(), Verdict.FAILING, Action.RETIRE, "has lost it"),
    (Reading("cuda:0", lost="x"), lane(State.RETIRED), History(lost=True), Verdict.RETIRED, Action.NONE, "has lost it"),
    (read(), lane(State.RETIRED), History(lost=True), Verdict.RETIRED, Action.BRING_BACK, "sees it again"),
    (read(), lane(State.RETIRED), History(lost=True, returns=1), Verdict.RETIRED, Action.BRING_BACK, "sees it again"),
    (read(), lane(State.RETIRED), History(lost=True, returns=2), Verdict.RETIRED, Action.NONE, "lost it 3 times"),
    (read(temperature=95), lane(State.RETIRED, retry_in=240.0), History(), Verdict.RETIRED, Action.NONE, "in 240 s"),
    # several at once: the worst verdict, and the strongest of what they ask for
    (read(temperature=91, memory_used=79 * GB), lane(), History(), Verdict.MEMORY_CRITICAL, Action.PAUSE, "99%"),
    (read(temperature=91, xid=[48]), lane(), History(), Verdict.FAILING, Action.RESTART, "XID 48"),
]  # fmt: skip


@pytest.mark.parametrize(("reading", "seen", "history", "verdict", "action", "reason"), CASES)
def test_a_device_is_judged_with_reasons_in_numbers(
    reading: Reading, seen: LaneLook, history: History, verdict: Verdict, action: Action, reason: str
) -> None:
    health = judge(reading, seen, history)
    assert (health.verdict, health.action) == (verdict, action)
    assert reason in "; ".join(health.reasons)
    assert bool(health.reasons) == bool(reason)


def test_errors_restart_a_worker_once_and_the_next_ones_retire_it() -> None:
    history, actions = History(), []
    for count in (4, 4, 5, 5, 6):
        reading = read(ecc_uncorrected=count, xid=[31] if count == 5 else [])
        health = judge(reading, lane(), history)
        history = history.then(reading, lane(), health)
        actions.append(health.action)
    assert actions == [Action.NONE, Action.NONE, Action.RESTART, Action.NONE, Action.RETIRE]
    assert health.xid == [31, 31]  # all of the run's


def test_only_a_device_that_was_lost_is_brought_back_before_its_time() -> None:
    history = History()
    gone = Reading("cuda:0", lost="GPU is lost")
    steps = [
        (gone, State.READY, Action.RETIRE),
        (read(), State.READY, Action.NONE),  # the pool does what it was asked only now
        (read(), State.RETIRED, Action.BRING_BACK),
        (read(), State.LOADING, Action.NONE),
        (read(), State.RETIRED, Action.NONE),  # by the pool, as its worker failed again and again
    ]
    for reading, state, action in steps:
        health = judge(reading, lane(state), history)
        history = history.then(reading, lane(state), health)
        assert health.action is action


def test_a_batch_that_takes_long_is_told_at_once_and_its_worker_exchanged_at_the_next_report() -> None:
    history, actions = History(), []
    for batch, computing in ((3, 2.0), (4, 21.0), (5, 21.0), (5, 51.0)):
        look = lane(batch=batch, expected=4.0, computing=computing)
        health = judge(read(), look, history)
        history = history.then(read(), look, health)
        actions.append((health.verdict, health.action))
    told = (Verdict.STALLED, Action.NONE)
    assert actions == [(Verdict.OK, Action.NONE), told, told, (Verdict.STALLED, Action.RESTART)]


def test_a_device_that_comes_and_goes_is_brought_back_twice_and_then_waits_its_time() -> None:
    history, actions = History(), []
    for _ in range(4):
        for reading, state in (
            (Reading("cuda:0", lost="x"), State.READY),
            (read(), State.RETIRED),
            (read(), State.LOADING),
        ):
            health = judge(reading, lane(state, retry_in=300.0), history)
            history = history.then(reading, lane(state), health)
        actions.append(history.returns)
    assert actions == [1, 2, 2, 2]


def test_without_batches_by_memory_nothing_is_said_to_become_smaller() -> None:
    fixed = Limits(shrinks=False)
    for reading in (read(throttled_by=SLOW), read(memory_used=76 * GB)):
        assert judge(reading, lane(), History(), fixed).action is Action.NONE


def test_the_lines_of_memory_are_drawn_in_what_the_device_has() -> None:
    health = judge(read(), lane(allocated=7 * GB, total=79 * GB), History())
    assert (health.memory_target, health.memory_critical) == (60 * GB, 72 * GB)
    assert (health.memory_allocated, health.memory_used) == (7 * GB, 10 * GB)
    unread = judge(Reading("cuda:0"), lane(total=40 * GB), History())
    assert (unread.memory_total, unread.memory_target) == (40 * GB, 30 * GB)
