"""A fresh start: which runs belong to it, kept until every shard has been done anew, so that a killed one is gone on
with."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from arxiv_embed.checkpoint.atomic import DamagedFile, disk_faults_as_sentences, remove, write_atomically
from arxiv_embed.checkpoint.sealed import seal, unseal


def unfinished_fresh_start(checkpoints: Path, space: str) -> frozenset[str] | None:
    """The runs of the fresh start in a space that is not finished; None where there is none."""
    with contextlib.suppress(OSError, DamagedFile, KeyError, TypeError):
        return frozenset(map(str, unseal(_path(checkpoints, space).read_bytes())["runs"]))
    return None


def keep_fresh_start(checkpoints: Path, space: str, runs: Collection[str]) -> None:
    """Says that these runs are a fresh start that is not finished."""
    write_atomically(_path(checkpoints, space), seal({"runs": sorted(runs)}).encode())


def end_fresh_start(checkpoints: Path, space: str) -> None:
    """Every shard has been done anew."""
    path = _path(checkpoints, space)
    if path.exists():
        with disk_faults_as_sentences(checkpoints):
            remove([path], checkpoints)


def _path(checkpoints: Path, space: str) -> Path:
    return checkpoints / f"fresh-{space}.json"
