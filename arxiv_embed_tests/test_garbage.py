"""A process that is made of libraries looks for garbage rarely, and not at all when it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from arxiv_embed.garbage import OBJECTS

AT_ITS_END = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))"
CLOSED_SOCKET = "import socket; ours, theirs = socket.socketpair(); ours.close()"


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param("from arxiv_embed.cli.main import main; sys.argv[1:] = ['nothing']; main()", id="command"),
        pytest.param("import arxiv_embed.definitions", id="step"),
        pytest.param("from arxiv_embed.pipeline.launch import main; main()", id="run"),
        pytest.param(
            f"{CLOSED_SOCKET}; from arxiv_embed.gpu.worker import main; main([str(theirs.fileno())], None)", id="worker"
        ),
    ],
)
def test_no_process_of_a_run_goes_through_its_libraries_at_its_end(begun: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"{AT_ITS_END}; {begun}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.splitlines()[-1:] == [f"{OBJECTS} True"], ended.stderr
