"""The machine: each kind of trouble is told with its remedy, and a sound one is fine."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from arxiv_embed.doctor import machine
from arxiv_embed.doctor.check import Check, State, Subject
from arxiv_embed.settings import Settings
from arxiv_embed_tests.faults.read_only import read_only
from arxiv_embed_tests.metadata.permissions import permissions_bind

GB = 10**9


@pytest.fixture
def subject(settings: Settings, small_folder: Path) -> Subject:
    settings.home.mkdir()
    return Subject(settings, small_folder, settings.store, settings.model, settings.checkpoints)


@pytest.mark.parametrize(
    ("check", "state", "said"),
    [
        (machine.memory(16 * GB, 9 * GB), State.FINE, "9.0 of 16.0 GB free"),
        (machine.memory(16 * GB, None), State.FINE, "16.0 GB"),
        (machine.memory(16 * GB, 1 * GB), State.WARN, "1.0 of 16.0 GB free"),
        (machine.memory(1 * GB, GB // 10), State.WRONG, "0.1 of 1.0 GB free"),
        (machine.disk("home", Path("/d"), 90 * GB, 10), State.FINE, "90.0 GB free in /d"),
        (machine.disk("home", Path("/d"), 90 * GB, None), State.FINE, "90.0 GB"),
        (machine.disk("home", Path("/d"), 3 * GB, 10), State.WARN, "3.0 GB"),
        (machine.disk("home", Path("/d"), GB // 5, 10), State.WRONG, "0.2 GB"),
        (machine.disk("home", Path("/d"), 90 * GB, 0), State.WRONG, "no inodes"),
        (machine.open_files(resource.RLIM_INFINITY), State.FINE, "no limit"),
        (machine.open_files(65536), State.FINE, "65536 at once"),
        (machine.open_files(512), State.WARN, "512 at once"),
        (machine.open_files(64), State.WRONG, "64 at once"),
        (machine.clock(0.1, True), State.FINE, "synchronized"),
        (machine.clock(0.1, None), State.FINE, "not known"),
        (machine.clock(0.1, False), State.WARN, "nothing synchronizes"),
        (machine.clock(-90.0, True), State.WRONG, "90 s behind this machine"),
        (machine.clock(90.0, True), State.WRONG, "90 s ahead of this machine"),
    ],
)
def test_figures_of_the_machine_are_judged(check: Check, state: State, said: str) -> None:
    assert check.state is state
    assert said in check.text
    assert bool(check.remedy) == (state is not State.FINE)


def test_this_machine_is_looked_at_and_nothing_is_left_behind(subject: Subject) -> None:
    found = [
        *machine.this_memory(),
        *machine.disks(subject),
        *machine.rights(subject),
        *machine.shared_memory(),
        *machine.these_open_files(),
        *machine.clocks(subject),
    ]
    assert {"memory", "disk of home", "home", "metadata", "shared memory", "open files", "clocks"} <= {
        check.name for check in found
    }
    assert {check.state for check in machine.rights(subject)} == {State.FINE}
    assert list(subject.settings.home.iterdir()) == []


def test_a_home_that_is_not_there_yet_is_fine_and_is_not_made(subject: Subject) -> None:
    subject.settings.home.rmdir()
    home, *_ = machine.rights(subject)
    assert (home.state, home.text) == (State.FINE, f"{subject.settings.home} will be made")
    list(machine.clocks(subject))
    assert not subject.settings.home.exists()


def test_a_home_that_may_not_be_written_is_wrong_and_so_is_a_folder_in_it(subject: Subject) -> None:
    with read_only(subject.settings.home):
        home, *_ = machine.rights(subject)
        assert home.state is State.WRONG
        assert home.text.startswith(f"nothing can be written to {subject.settings.home}")
        assert f"chown -R $USER {subject.settings.home}" in home.remedy
        list(machine.clocks(subject))
    runs = subject.settings.runs
    runs.mkdir()
    with read_only(runs):
        home, *_ = machine.rights(subject)
        assert home.text.startswith(f"nothing can be written to {runs}")
        subject.settings.history.mkdir()
        with read_only(subject.settings.history):
            home, *_ = machine.rights(subject)
    assert f"{runs} (owner" in home.text
    assert f"{subject.settings.history} (owner" in home.text
    assert f"{runs} {subject.settings.history}" in home.remedy


def test_a_home_of_another_user_that_may_not_be_entered_is_wrong_and_says_whose_it_is(subject: Subject) -> None:
    home = subject.settings.home
    subject.settings.runs.mkdir(parents=True)
    home.chmod(0)
    try:
        with permissions_bind():
            found = {check.name: check for check in (*machine.rights(subject), *machine.disks(subject))}
    finally:
        home.chmod(0o755)
    assert found["home"].state is found["checkpoints"].state is State.WRONG
    assert f"nothing can be written to {home} (owner {os.geteuid()}" in found["home"].text
    assert "chown" in found["home"].remedy
    assert str(home) in found["disk of checkpoints"].text


def test_a_file_in_the_place_of_the_home_is_wrong(subject: Subject) -> None:
    subject.settings.home.rmdir()
    subject.settings.home.write_text("")
    home, *_ = machine.rights(subject)
    assert (home.state, home.text) == (State.WRONG, f"{subject.settings.home} is no folder")


def test_metadata_is_named_there_and_not_empty(subject: Subject, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    found = [machine.readable_metadata(folder) for folder in (None, tmp_path / "none", empty, subject.metadata_dir)]
    assert [check.state for check in found] == [State.SKIPPED, State.WRONG, State.WRONG, State.FINE]
    assert "arxiv-embed harvest" in found[2].remedy


def test_a_machine_without_its_folder_of_shared_memory_is_wrong(tmp_path: Path) -> None:
    [check] = machine.shared_memory(tmp_path / "none")
    assert check.state is State.WRONG
    assert "--shm-size" in check.remedy


def test_a_store_elsewhere_takes_no_disk_here(subject: Subject) -> None:
    elsewhere = replace(subject, store="s3://bucket/papers")
    assert [check.name for check in machine.disks(elsewhere)] == ["disk of home", "disk of checkpoints"]
