"""Wording of the commands: what a run has done, in the words that all displays have in common."""

from __future__ import annotations

from arxiv_embed.progress import RunProgress
from arxiv_embed.wording import count, plural


def papers_done(progress: RunProgress) -> str:
    """20 of 300 papers, 5 of them reused"""
    reused = f", {count(progress.papers_reused)} of them reused" if progress.papers_reused else ""
    return f"{count(progress.papers_done)} of {plural(progress.papers, 'paper')}{reused}"
