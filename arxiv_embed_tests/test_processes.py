"""Processes: known by host, number and start, and known to be gone."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from arxiv_embed.processes import ProcessId


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for its input to close."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        yield child
        child.kill()


def of(pid: int) -> ProcessId:
    from arxiv_embed.processes import _started

    return ProcessId(socket.gethostname(), pid, _started(pid) or "")


def test_a_process_is_gone_when_it_has_ended_and_not_before(child: subprocess.Popen[bytes]) -> None:
    process = of(child.pid)
    assert not process.is_gone
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.is_gone  # a zombie does nothing any more
    child.wait()
    assert process.is_gone


def test_another_process_of_the_same_number_is_not_taken_for_it(child: subprocess.Popen[bytes]) -> None:
    assert replace(of(child.pid), started="1").is_gone


def test_what_runs_on_another_machine_is_not_known_to_be_gone() -> None:
    assert not ProcessId("elsewhere", 2**22, "1").is_gone


def test_a_process_that_may_not_be_signalled_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not of(os.getpid()).is_gone


def _tell(pipe) -> None:  # type: ignore[no-untyped-def]
    pipe.send(ProcessId.of_run())


def test_a_step_in_a_process_of_its_own_belongs_to_the_process_that_started_it() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    step = context.Process(target=_tell, args=(theirs,))
    step.start()
    assert ours.recv() == ProcessId.of_run()
    step.join()
