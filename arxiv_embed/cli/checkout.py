"""The checkout: what lies beside the package in its repository, and in no wheel."""

from __future__ import annotations

from pathlib import Path

from arxiv_embed.errors import ArxivEmbedError

REPOSITORY = Path(__file__).parents[2]


def in_checkout(place: str, command: str) -> Path:
    """A folder of the repository; raises `ArxivEmbedError` where the package was installed without it."""
    folder = REPOSITORY / place
    if not folder.is_dir():
        raise ArxivEmbedError(f"`arxiv-embed {command}` needs {place} of the project's repository: run it from there.")
    return folder
