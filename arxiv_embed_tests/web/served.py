"""A server started by the command, for tests that meet it from outside."""

from __future__ import annotations

import re
import subprocess


def address_said(server: subprocess.Popen[str]) -> str:
    """Where it answers, as it prints when it is ready."""
    assert server.stdout is not None
    printed = []
    for line in server.stdout:
        printed.append(line)
        if said := re.search(r"http://\S+", line):
            return said[0]
    raise AssertionError("".join(printed))
