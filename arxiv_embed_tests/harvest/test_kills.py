"""Kills: the harvesting process is ended by SIGKILL in the middle of paging, and the next one goes on."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from arxiv_embed.harvest.progress import HarvestFolder
from arxiv_embed_tests.harvest.harvests import harvested_records, served_records
from arxiv_embed_tests.harvest.repository import Record, Repository

KILLED_AT = (0, 1, 4, 5, 9)
"""Requests, of all processes together, that the process which makes them does not survive."""


def test_a_harvest_that_is_killed_again_and_again_loses_nothing_and_asks_no_page_twice(
    records: list[Record], folder: Path
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    repository = Repository(records[:400], page_records=40)

    def kill(number: int) -> None:
        if number in KILLED_AT:
            processes[-1].kill()
            processes[-1].wait()

    repository.before = kill
    with repository.running():
        while not processes or processes[-1].returncode:
            assert len(processes) <= len(KILLED_AT)
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "arxiv_embed_tests.harvest.harvests", repository.url, str(folder)],
                    stderr=subprocess.PIPE,
                )
            )
            _, printed = processes[-1].communicate(timeout=60)
            assert processes[-1].returncode in (0, -9), printed.decode()
    assert len(processes) == len(KILLED_AT) + 1

    [place] = (folder.parent / "home" / "harvest").iterdir()
    [harvested] = HarvestFolder(place).done()
    assert harvested_records(folder, harvested) == served_records(records[:400])
    under_way = Counter(repository.asked[number].query.get("resumptionToken", "") for number in KILLED_AT)
    pages = Counter(asked.query.get("resumptionToken", "") for asked in repository.asked)
    assert len(pages) == harvested.pages == 10
    assert pages - Counter(dict.fromkeys(pages, 1)) == under_way
