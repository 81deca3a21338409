"""Why records were rejected, counted: a run's record has their number, the checkpoints have each one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.report.timeline import ShardLine

MOST_SHARDS = 20
"""Looked at, those with the most rejects: a report is to be quick."""


def reasons_of_rejects(checkpoints: Path, shards: Iterable[ShardLine]) -> Counter[str]:
    """By reason; of a checkpoint that is gone, or cannot be read, nothing."""
    store = CheckpointStore(checkpoints)
    rejecting = sorted((shard for shard in shards if shard.rejects), key=lambda shard: -shard.rejects)
    reasons: Counter[str] = Counter()
    for shard in rejecting[:MOST_SHARDS]:
        try:
            reader = store.reader(CheckpointKey("papers", shard.shard), sets_aside=False)
            if reader is not None:
                reasons.update(reader.glance("rejects", ["reason"])["reason"].to_pylist())
        except (ArxivEmbedError, OSError):
            continue
    return reasons
