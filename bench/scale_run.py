"""A whole run with a null encoder, in its own process: `python -m bench.scale_run METADATA HOME` prints its figures.

Metadata is read, texts are really tokenized, batches planned, checkpoints committed, rows stored, indexes built.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import arxiv_embed.equipment
from arxiv_embed.attempts import STEPS, Attempts, FailedAttempt
from arxiv_embed.checks import CheckResult
from arxiv_embed.events import PapersRead, ShardEmbedded, ShardStored
from arxiv_embed.gpu.process import WorkerProcess
from arxiv_embed.run import Report, Run
from arxiv_embed.settings import RunOptions, settings_from_environment
from bench.reading import peak_bytes

WORKER = (sys.executable, "-m", "bench.null_worker")
CHUNKER = "fixed:56"
"""Four chunks of an abstract of 200 tokens."""


NAMES = {PapersRead: "reading", ShardEmbedded: "embedding", ShardStored: "storing"}


class _Times:
    """Adds up what each step takes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(NAMES.values(), 0.0)

    def begun(self, shard: str, assets: Sequence[str]) -> None: ...

    def made(self, report: Report) -> None:
        self.seconds[NAMES[type(report)]] += report.seconds

    def checked(self, asset: str, shard: str, results: Sequence[CheckResult]) -> None: ...

    def failed(self, attempt: FailedAttempt) -> None:
        raise attempt.error


def embedded(metadata: Path, home: Path) -> dict[str, float]:
    """Seconds of the whole, of each step and of the end (indexes); papers and rows stored; bytes at the peak."""
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(home)})
    options = RunOptions(metadata, settings.store, settings.checkpoints, devices="cpu:1", chunker=CHUNKER)
    times = _Times()
    begun = time.monotonic()
    null = patch.object(arxiv_embed.equipment, "WorkerProcess", partial(WorkerProcess, command=WORKER))
    with null, Run(options, settings, "scale") as run:
        shards = [plan.shard.key for plan in run.plan.pending]
        run.start(shards)
        Attempts(run, {}, times).take(shards, list(STEPS))
        ending = time.monotonic()
        run.finish_store()
        ended = time.monotonic()
        papers, rows = run._equipment.store().count(run.space.fingerprint)
    figures = {
        "seconds": ended - begun,
        "indexes": ended - ending,
        "papers": papers,
        "rows": rows,
        "bytes": peak_bytes(),
    }
    return {**figures, "papers": papers, "rows": rows, **times.seconds}


if __name__ == "__main__":
    print(json.dumps(embedded(Path(sys.argv[1]), Path(sys.argv[2]))))
