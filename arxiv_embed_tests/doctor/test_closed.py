"""Folders that may not be entered: each is told once, and nothing that lies below is called fine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from arxiv_embed.doctor import machine, records
from arxiv_embed.doctor.check import Check, Question, State, Subject, answers
from arxiv_embed.settings import Settings
from arxiv_embed_tests.metadata.permissions import permissions_bind

LOOKS = {
    "rights": machine.rights,
    "store": records.store,
    "Dagster's database": records.dagster_database,
    "devices": records.leases,
    "last run": records.killed,
    "quarantine": records.quarantine,
}


@pytest.fixture
def subject(settings: Settings, small_folder: Path) -> Subject:
    for folder in (settings.runs, settings.history, settings.leases, settings.stores, settings.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    return Subject(settings, small_folder, settings.store, settings.model, settings.checkpoints)


@contextmanager
def closed(folders: Sequence[Path], mode: int = 0) -> Iterator[None]:
    for folder in folders:
        folder.chmod(mode)
    try:
        with permissions_bind():
            yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


def found(subject: Subject) -> dict[str, Check]:
    return {check.name: check for check in answers([Question(name, partial(LOOKS[name], subject)) for name in LOOKS])}


def test_a_home_that_may_not_be_entered_is_one_thing_to_mend(subject: Subject) -> None:
    home = subject.settings.home
    with closed([home]):
        told = found(subject)
    assert [name for name, check in told.items() if check.state is State.WRONG] == ["home"]
    assert f"chown -R $USER {home}" in told["home"].remedy
    for name in ("checkpoints", *list(LOOKS)[1:]):
        assert told[name] == Check(name, State.SKIPPED, f"not looked at, as {home} is closed (see home)")


@pytest.mark.parametrize("mode", [0, 0o311])
def test_every_folder_of_a_home_that_is_closed_is_named_at_once(subject: Subject, mode: int) -> None:
    settings = subject.settings
    below = [settings.runs, settings.history, settings.leases]
    with closed(below, mode):
        told = found(subject)
    assert told["home"].state is State.WRONG
    for folder in below:
        assert f"{folder} (owner" in told["home"].text
        assert f" {folder}" in told["home"].remedy
    assert told["checkpoints"].state is State.FINE
    for name, folder in (("last run", settings.runs), ("devices", settings.leases)):
        assert told[name].text == f"not looked at, as {folder} is closed (see home)"
