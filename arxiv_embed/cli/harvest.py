"""The command `harvest`: new records from arXiv itself, into dated files of the metadata folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from arxiv_embed.cli.run import shown
from arxiv_embed.cli.terminal import complain, open_console, say
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.harvest.harvest import harvest as harvest_records
from arxiv_embed.harvest.progress import Harvested, Progress
from arxiv_embed.harvest.request import HarvestRequest
from arxiv_embed.harvest.source import PAUSE_SECONDS, Source, Unavailable
from arxiv_embed.settings import settings_from_environment
from arxiv_embed.wording import count, duration, plural

DONE, SOMETHING_FAILED, INTERRUPTED = 0, 1, 130


def harvest(
    since: Annotated[
        str | None,
        typer.Option(
            help="First day of change, YYYY-MM-DD; by default where the last complete harvest ended.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Last day of change, YYYY-MM-DD; by default none.", show_default=False)
    ] = None,
    set_name: Annotated[
        str | None,
        typer.Option("--set", help="A part of arXiv: cs, math, physics:hep-th; by default all.", show_default=False),
    ] = None,
    metadata_dir: Annotated[
        str | None,
        typer.Option(
            metavar="<path>", help="Folder of arXiv metadata. [default: ARXIV_EMBED_METADATA_DIR]", show_default=False
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Address of the OAI-PMH interface; by default arXiv's, or ARXIV_EMBED_OAI_URL."),
    ] = None,
    pause: Annotated[
        float, typer.Option(help="Seconds between two requests; arXiv asks for 3 at least.")
    ] = PAUSE_SECONDS,
) -> None:
    """Harvest new and changed records from arXiv into the metadata folder.

    It may be stopped at any time (Ctrl-C): every page is saved as it comes, and the same command goes on from there.

    Examples:

      arxiv-embed harvest --since 2026-11-01 --set cs --metadata-dir /data/arxiv

      arxiv-embed harvest --set cs --metadata-dir /data/arxiv
    """
    for option, value in (("--metadata-dir", metadata_dir), ("--url", url)):
        if value is not None and not value.strip():
            raise ArxivEmbedError(f"{option} is empty: give it a value, or leave it out.")
    settings = settings_from_environment()
    folder = Path(metadata_dir) if metadata_dir else settings.metadata_dir
    if folder is None:
        raise ArxivEmbedError("No metadata folder is named: give --metadata-dir, or set ARXIV_EMBED_METADATA_DIR.")
    request = HarvestRequest(folder.expanduser().absolute(), set_name, since, until)
    raise typer.Exit(_harvest(request, url or settings.oai_url, pause, settings.home, open_console()))


def _harvest(request: HarvestRequest, url: str, pause: float, home: Path, console: Console) -> int:
    """Returns the exit code; raises `ArxivEmbedError` for what the user can mend."""
    began = time.monotonic()
    try:
        with _display_on(console) as display, Source(url, pause=pause, waiting=display.waiting) as source:
            harvested = harvest_records(request, source, home, page=display.page, note=display.note)
    except KeyboardInterrupt:
        say(console, "Interrupted, with every page saved that has come: run the same command to go on.")
        return INTERRUPTED
    except Unavailable as error:
        complain(str(error))
        return SOMETHING_FAILED
    say(console, summary(harvested, request.metadata_dir, time.monotonic() - began))
    return SOMETHING_FAILED if harvested.announced else DONE


class _Display:
    """A line a page; on a terminal one line in all, which is gone at the end."""

    def __init__(self, console: Console, status: Status | None) -> None:
        self._console = console
        self._status = status

    def page(self, progress: Progress) -> None:
        announced = f" of {count(progress.announced)}" if progress.announced else ""
        deleted = f", {count(progress.deleted)} deleted" if progress.deleted else ""
        self._passing(f"page {len(progress.pages)}: {count(progress.list_records)}{announced} records{deleted}")

    def waiting(self, seconds: float, why: str) -> None:
        self._passing(f"waiting {duration(seconds)}: {why}")

    def note(self, line: str) -> None:
        say(self._console, line)

    def _passing(self, line: str) -> None:
        if self._status is None:
            say(self._console, line)
        else:
            self._status.update(line)


@contextlib.contextmanager
def _display_on(console: Console) -> Iterator[_Display]:
    if not console.is_terminal:
        yield _Display(console, None)
        return
    with console.status("asking …") as status:
        yield _Display(console, status)


def summary(harvested: Harvested, metadata_dir: Path, seconds: float) -> str:
    """What a complete harvest has brought, and what to do next."""
    pages, records = plural(harvested.pages, "page"), plural(harvested.records, "record")
    if not harvested.records:
        return f"Nothing new since {harvested.since}: no record was changed."
    lines = [f"{records} harvested in {duration(seconds)}: {pages}, {plural(len(harvested.deleted), 'deleted record')}"]
    lines += [f"  {shown(metadata_dir / file)}: {plural(number, 'record')}" for file, number in harvested.files.items()]
    lines += [f"deleted at arXiv: {record.id}, {record.datestamp}" for record in harvested.deleted]
    if harvested.announced:
        lines.append(
            f"The list ended before its {count(harvested.announced)} records: ask again with --since {harvested.since}"
        )
    lines.append(f"Next: arxiv-embed run --metadata-dir {shown(metadata_dir)}")
    return "\n".join(lines)
