"""Changes of a driven run's process: what makes a small run show what a large one does."""

from __future__ import annotations

import pytest

SEGMENT_PAPERS = 40


def make_segments_small() -> None:
    """A shard of a hundred papers has several segments."""
    import arxiv_embed.embed

    pytest.MonkeyPatch().setattr(arxiv_embed.embed, "SEGMENT_PAPERS", SEGMENT_PAPERS)
