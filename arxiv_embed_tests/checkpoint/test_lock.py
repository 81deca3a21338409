"""Locks: held by one process, named after it, gone with it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from arxiv_embed.checkpoint.lock import FileLock, Locked

HOLDER = (
    "import sys, time; from pathlib import Path; from arxiv_embed.checkpoint.lock import FileLock; "
    "lock = FileLock(Path(sys.argv[1]), 'It').__enter__(); print('held', flush=True); time.sleep(float(sys.argv[2]))"
)


def holder(path: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_is_refused_with_its_holders_name_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = holder(path, 60)
    with pytest.raises(Locked, match=f"The store is in use by process {process.pid} on .*: wait") as caught:
        FileLock(path, "The store").__enter__()
    assert caught.value.holder == f"process {process.pid} on {socket.gethostname()}"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with FileLock(path, "The store"):
        pass


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    process = holder(tmp_path / "lock", 0.3)
    with FileLock(tmp_path / "lock", "The store", wait_seconds=30):
        pass
    process.wait()


def test_a_lock_is_free_again_after_its_block_failed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(RuntimeError), FileLock(path, "It"):
        raise RuntimeError
    with FileLock(path, "It"), pytest.raises(Locked):
        FileLock(path, "It").__enter__()


def test_a_full_disk_does_not_keep_a_lock_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with FileLock(tmp_path / "lock", "It"):
            pass
    with FileLock(tmp_path / "lock", "It"):
        pass
