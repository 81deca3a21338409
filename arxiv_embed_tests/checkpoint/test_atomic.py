"""Atomic files: whole under their name, or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from arxiv_embed.checkpoint.atomic import DiskFault, NoSpace, write_atomically
from arxiv_embed.errors import Kind
from arxiv_embed_tests.damage import files_below


def test_a_file_is_flushed_before_it_is_named_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
        fsync(descriptor)

    def recorded_replace(path: Path, target: Path) -> None:
        steps.append("rename")
        replace(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_atomically(tmp_path / "a", b"content")
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    write_atomically(tmp_path / "new" / "folders" / "a", b"content")
    assert steps == ["folder", "folder", "file", "rename", "folder"]
    assert (tmp_path / "new" / "folders" / "a").read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(NoSpace, match="No space is left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_fault_of_the_disk_is_one_sentence_and_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFault, match=r"The disk of .* fails \(.*\): check it") as caught:
        write_atomically(tmp_path / "a", b"new")
    assert caught.value.kind is Kind.TRANSIENT
    assert list(tmp_path.iterdir()) == []


def test_what_a_failed_fsync_lost_is_not_given_a_name_by_a_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system tells of a page that it could not write once; an fsync after that succeeds, and has written nothing."""
    calls = 0
    fsync = os.fsync

    def fail_once(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(DiskFault):
        write_atomically(tmp_path / "a", b"new")
    assert calls == 1
    assert files_below(tmp_path) == {"a": b"old"}


def test_a_write_that_the_system_cuts_short_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    write_atomically(tmp_path / "a", b"ten bytes.")
    assert (tmp_path / "a").read_bytes() == b"ten bytes."
