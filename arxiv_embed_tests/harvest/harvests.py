"""Harvests for tests: run in this process without waiting, or as a process of its own that a test may kill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lxml import etree

from arxiv_embed.harvest.harvest import harvest
from arxiv_embed.harvest.progress import Harvested
from arxiv_embed.harvest.request import HarvestRequest
from arxiv_embed.harvest.source import Source
from arxiv_embed_tests.harvest.repository import OAI, Record, Repository

ALL = "2007-01-01"
"""A day before all records that are replayed."""


def harvest_now(
    repository: Repository, folder: Path, since: str | None = ALL, set: str | None = None, **options: Any
) -> Harvested:
    """A harvest whose waits take no time; the home is beside the metadata folder."""
    until = options.pop("until", None)
    with Source(repository.url, pause=0, sleep=lambda seconds: None) as source:
        return harvest(HarvestRequest(folder, set, since, until), source, folder.parent / "home", **options)


def harvested_records(folder: Path, harvested: Harvested) -> list[tuple[str, str]]:
    """The id of each record in the dated files of a harvest, with its canonical XML, in their order."""
    return [
        (
            record.findtext(f"{OAI}header/{OAI}identifier"),
            canonical(etree.tostring(record, with_tail=False, encoding="unicode")),
        )
        for file in harvested.files
        for record in etree.parse(folder / file).getroot().iter(f"{OAI}record")
    ]


def served_records(records: list[Record]) -> list[tuple[str, str]]:
    """The same of the records that a repository serves."""
    return [
        (record.id, canonical(record.xml.replace("<record>", f'<record xmlns="{OAI[1:-1]}">', 1))) for record in records
    ]


def canonical(xml: str) -> str:
    return etree.canonicalize(xml)


if __name__ == "__main__":
    url, place = sys.argv[1:]
    with Source(url, pause=0) as opened:
        harvest(HarvestRequest(Path(place), None, ALL), opened, Path(place).parent / "home")
