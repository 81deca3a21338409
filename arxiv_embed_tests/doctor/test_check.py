"""Checks are made apart from each other: one that raises or hangs is a line, and says nothing secret."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from arxiv_embed.doctor.check import Check, Question, State, answers, fine, wrong
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.metadata.permissions import permissions_bind


def test_a_check_that_raises_is_a_line_and_the_others_are_made() -> None:
    def broken() -> Iterator[Check]:
        yield fine("a", "not told, as the rest is not known")
        raise ArxivEmbedError("It is broken.")

    found = list(answers([Question("a", broken), Question("b", lambda: [fine("b", "well")])]))
    assert [(check.name, check.state, check.text) for check in found] == [
        ("a", State.WRONG, "It is broken."),
        ("b", State.FINE, "well"),
    ]
    assert found[0].remedy


def test_a_check_that_hangs_is_a_line_and_keeps_nobody_waiting() -> None:
    never = threading.Event()

    def hangs() -> list[Check]:
        never.wait()
        return []

    hung, well = answers([Question("store", hangs, seconds=0.1), Question("b", lambda: [fine("b", "well")])])
    never.set()
    assert (hung.name, hung.state) == ("store", State.WRONG)
    assert hung.text.startswith("no answer within")
    assert well.state is State.FINE


def test_what_a_check_says_is_without_secrets() -> None:
    url = "postgresql://arxiv:hunter2@db/papers"
    [said] = answers([Question("store", lambda: [wrong("store", f"{url} is away", f"start {url}")])])
    assert "hunter2" not in said.text + said.remedy
    assert "postgresql://arxiv:***@" in said.text


def test_a_folder_that_may_not_be_entered_is_told_once(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    below = [closed / "runs", closed / "stores" / "papers"]

    def looks_at(place: Path) -> list[Check]:
        raise PermissionError(errno.EACCES, "Permission denied", str(place))

    closed.mkdir(mode=0)
    try:
        with permissions_bind():
            first, second = answers([Question(place.name, partial(looks_at, place)) for place in below])
    finally:
        closed.chmod(0o755)
    assert (first.name, first.state) == ("runs", State.WRONG)
    assert (second.name, second.state) == ("papers", State.SKIPPED)
    assert f"as {closed} is closed (see runs)" in second.text
