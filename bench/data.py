"""The data that the benches measure on: a folder of real metadata beside the repository."""

from __future__ import annotations

from pathlib import Path

from arxiv_embed.errors import ArxivEmbedError

REPOSITORY = Path(__file__).parent.parent


def real_data() -> Path:
    """Raises `ArxivEmbedError` where the folder is not there."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        raise ArxivEmbedError(f"This bench measures on real metadata, and {folder} is not there: put it there first.")
    return folder
