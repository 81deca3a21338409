"""The command `demo`: a few hundred real abstracts embedded and searched, in a home of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from arxiv_embed.cli import options as ask
from arxiv_embed.cli.checkout import in_checkout
from arxiv_embed.cli.formats import show
from arxiv_embed.cli.run import embed_folder, shown
from arxiv_embed.cli.terminal import open_console, say
from arxiv_embed.searcher import Searcher
from arxiv_embed.settings import settings_from_environment

SAMPLE = "examples/metadata"
QUERIES = ("dark matter in galaxy clusters", "teaching machines to sort texts by topic")
HITS = 3


def demo() -> None:
    """Embed the sample of real arXiv records, search it, and say where to look next.

    Example: arxiv-embed demo
    """
    home = settings_from_environment().home / "demo"
    os.environ["ARXIV_EMBED_HOME"] = str(home)  # the run's own process reads it too
    os.environ.pop("ARXIV_EMBED_STORE", None)
    settings = settings_from_environment()
    console = open_console()
    options = ask.run_options(settings, metadata_dir=in_checkout(SAMPLE, "demo"))
    code = embed_folder(options, settings, console)
    if code:
        raise typer.Exit(code)
    with Searcher(settings, options.store) as searcher:
        for query in QUERIES:
            console.print(f'\narxiv-embed search "{query}" -k {HITS}\n', style="bold")
            show(searcher.search(query, HITS), console)
    say(console, _what_next(shown(home)))


def _what_next(home: str) -> str:
    programs, sample = shown(Path(sys.executable).parent), shown(in_checkout(SAMPLE, "demo"))
    workspace = shown(in_checkout(".", "demo") / "workspace.yaml")
    return f"""Where to look next:
  ARXIV_EMBED_HOME={home} {programs}/arxiv-embed search "your own words"
  ARXIV_EMBED_HOME={home} {programs}/arxiv-embed serve
  ARXIV_EMBED_HOME={home} {programs}/arxiv-embed status
  ARXIV_EMBED_HOME={home} ARXIV_EMBED_METADATA_DIR={sample} {programs}/dagster dev -w {workspace}
  {programs}/arxiv-embed run --metadata-dir YOUR_FOLDER"""
