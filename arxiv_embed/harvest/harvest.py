"""A harvest: the records of a set from a day on, page by page, into dated files in the metadata folder."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from arxiv_embed.checkpoint.atomic import disk_faults_as_sentences, make_folder
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.errors import ArxivEmbedError, masked
from arxiv_embed.harvest.answers import Deleted, ErrorAnswer, read_page, records_in
from arxiv_embed.harvest.files import remove_drafts, write_dated_files
from arxiv_embed.harvest.progress import PROGRESS, Harvested, HarvestFolder, Progress
from arxiv_embed.harvest.request import HarvestRequest, place_of
from arxiv_embed.harvest.source import Source, Unavailable
from arxiv_embed.settings import DEFAULT_SHARD_PAPERS

METADATA_PREFIX = "arXivRaw"
"""The form that has the versions of a paper with their dates."""
OVERLAP_DAYS = 2
"""A record may show up after the day that it bears: its day may be New York's, and arXiv announces some hours later."""
TOKEN_SECONDS = 24 * 3600.0
"""arXiv's tokens hold a number of records to skip, in a list that every night's announcement changes."""
MOST_TIMES_AGAIN = 5
CHANCE = 1e-9
SETS_SHOWN = 12


def harvest(
    request: HarvestRequest,
    source: Source,
    home: Path,
    *,
    shard_papers: int = DEFAULT_SHARD_PAPERS,
    page: Callable[[Progress], object] = lambda progress: None,
    note: Callable[[str], object] = lambda line: None,
    now: Callable[[], float] = time.time,
) -> Harvested:
    """Goes on with the harvest that is under way, or begins one, and ends it; `page` is told of the progress with each
    page, `note` of what else happens.

    May be interrupted at any moment. Raises `Locked` where another process harvests the same set into the same folder,
    `Unavailable` where the repository does not answer for now, and `ArxivEmbedError` for what the user can mend.
    """
    with FileLock(request.folder / f".{request.stem}.lock", f"The harvest of {request} into {request.folder}"):
        desk = HarvestFolder(place_of(request, source.url, home))
        with disk_faults_as_sentences(desk.folder):
            make_folder(desk.folder)
        remove_drafts(request.folder, request.stem)
        under_way = _Harvest(request, source, desk, desk.done(), page, note, now)
        progress = under_way.follow(under_way.where_it_stands())
        harvested = under_way.gather(progress, shard_papers)
        desk.finish(harvested)
        return harvested


@dataclass(frozen=True)
class _Harvest:
    """One harvest, by the process that holds its lock."""

    request: HarvestRequest
    source: Source
    desk: HarvestFolder
    done: Sequence[Harvested]
    page: Callable[[Progress], object]
    note: Callable[[str], object]
    now: Callable[[], float]

    def where_it_stands(self) -> Progress:
        """The progress of the one that is under way, or of a new one."""
        request, progress = self.request, self.desk.under_way()
        if progress is None:
            self.desk.clear()
            since = request.since or self._since_last()
            until = f" until {request.until}" if request.until else ""
            self.note(f"{request}, from {since} on{until}: {self.source.shown}")
            begun = datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="microseconds")
            return Progress(begun, since, request.until or "", list_since=since, set=request.set or "")
        if (request.since or progress.since) != progress.since or (request.until or progress.until) != progress.until:
            raise ArxivEmbedError(
                f"A harvest of {request} from {progress.since} on is under way: leave out --since and --until to "
                f"finish it, or remove {self.desk.folder / PROGRESS} to give it up."
            )
        came = f"page {len(progress.pages)}, {progress.records:,} records"
        self.note(f"{request}, from {progress.since} on: goes on after {came}")
        if progress.token and self.now() - progress.answered > TOKEN_SECONDS:
            return self._begin_again(progress, "it stood still for more than a day")
        return progress

    def _since_last(self) -> str:
        through = _through(self.done)
        if not through:
            raise ArxivEmbedError(
                f"No harvest of {self.request} into {self.request.folder} is complete, so there is none to go on from: "
                "give --since."
            )
        last = self.done[-1]
        if last.announced and last.since == through:
            return through  # the same list again, which shows whether more comes
        return (date.fromisoformat(through) - timedelta(days=OVERLAP_DAYS)).isoformat()

    def follow(self, progress: Progress) -> Progress:
        """To the end of the list."""
        times_again = 0
        while not progress.ended:
            try:
                content, read = self.source.ask(_query(self.request, progress), read_page)
            except ErrorAnswer as answer:
                if not progress.token:
                    self._check_refusal(answer)
                    return replace(progress, first_day=progress.first_day or answer.day, ended=True)
                times_again += 1
                if times_again > MOST_TIMES_AGAIN:
                    raise Unavailable(
                        f"{self.source.shown} has refused its own resumption tokens {times_again} times ({answer}): "
                        "run the same command again later; what came before is saved."
                    ) from None
                progress = self._begin_again(progress, str(answer))
                continue
            if read.token is not None and read.token == progress.token:
                raise Unavailable(f"{self.source.shown} gives a page without end: run the same command again later.")
            progress = self.desk.keep(progress, content, read, self.now())
            self.page(progress)
        return progress

    def _check_refusal(self, answer: ErrorAnswer) -> None:
        """Raises `ArxivEmbedError` unless there is merely nothing new: a repository may say so of a set that is not
        there, too."""
        request, shown = self.request, self.source.shown
        names: set[str] = set()
        if request.set is not None:
            with contextlib.suppress(ErrorAnswer):
                names = self.source.sets()
        if names and request.set not in names:
            some = sorted(names, key=lambda name: (name.count(":"), name))[:SETS_SHOWN]
            raise ArxivEmbedError(f"There is no set '{request.set}' at {shown}: give one like {', '.join(some)}.")
        if answer.code != "noRecordsMatch":
            raise ArxivEmbedError(f"{shown} refuses the harvest of {request}: {masked(str(answer))}.")

    def _begin_again(self, progress: Progress, why: str) -> Progress:
        """With a new list, as the token leads no further, from the first day on of which records may be missing."""
        came = self.desk.pages(progress, progress.list_before)
        days = [day for content in came for day in read_page(content).datestamps]
        since = days[-1] if is_in_order(days) else progress.list_since
        self.note(f"The list begins again from {since} on, after {progress.records:,} records: {masked(why)}")
        return progress.begins_again(since)

    def gather(self, progress: Progress, shard_papers: int) -> Harvested:
        """Writes the dated files; doing so again, after a kill, leaves them as they are."""
        request = self.request
        deleted: dict[Deleted, None] = {}

        def records() -> Iterator[bytes]:
            for content in self.desk.pages(progress):
                deleted.update(dict.fromkeys(read_page(content).deleted))
                yield from records_in(content)

        found = _once(records()) if progress.begun_again else records()
        written = write_dated_files(found, request.folder, f"{request.stem}-{progress.first_day}", shard_papers)
        files = {path.relative_to(request.metadata_dir).as_posix(): number for path, number in written}
        short = progress.list_records < (progress.announced or 0)
        harvested = Harvested(
            begun=progress.begun,
            since=progress.since,
            until=progress.until,
            through=_new_through(progress, short, self.done),
            pages=len(progress.pages),
            records=sum(files.values()),
            deleted=tuple(deleted),
            files=files,
            announced=progress.announced if short else None,
            begun_again=progress.begun_again,
            set=request.set or "",
            day=progress.first_day,
        )
        if not (self.done and _is_as_short(harvested, self.done[-1])):
            return harvested
        self.note(
            f"The list ended before its {harvested.announced:,} records, as it did the last time: that number is taken "
            "for an estimate"
        )
        return replace(harvested, announced=None, through=_new_through(progress, False, self.done))


def _query(request: HarvestRequest, progress: Progress) -> dict[str, str]:
    if progress.token:
        return {"verb": "ListRecords", "resumptionToken": progress.token}
    limits = {"from": progress.list_since, "until": progress.until, "set": request.set or ""}
    return {
        "verb": "ListRecords",
        "metadataPrefix": METADATA_PREFIX,
        **{name: limit for name, limit in limits.items() if limit},
    }


def _through(done: Iterable[Harvested]) -> str:
    return max((harvested.through for harvested in done), default="")


def is_in_order(days: Sequence[str]) -> bool:
    """Whether a list comes by datestamp, told by its beginning: that the days of a list in another order come sorted,
    as often as each occurs, is less likely than one in a billion.

    arXiv's list of 2016 came by identifier; what its present server sends comes by the time of the last change.
    """
    if not days or any(later < earlier for earlier, later in pairwise(days)):
        return False
    orders = math.lgamma(len(days) + 1) - sum(math.lgamma(number + 1) for number in Counter(days).values())
    return orders > -math.log(CHANCE)


def _new_through(progress: Progress, short: bool, done: Sequence[Harvested]) -> str:
    """Up to which day nothing is missing: a harvest that begins behind the last one's end leaves a gap, and of a list
    that is short nobody knows what is missing."""
    before = _through(done)
    through = min(progress.first_day, progress.until or progress.first_day, progress.since if short else "9999")
    return before if before and progress.since > before else max(before, through)


def _is_as_short(harvested: Harvested, last: Harvested) -> bool:
    """Whether two lists of the same days, asked for on different days, ended as far before their announced ends.
    OAI-PMH lets a repository announce an estimate; one that loses its last page for an hour does not do so at another
    day with the same number of records missing."""
    if not (harvested.announced and last.announced) or harvested.begun_again or last.begun_again:
        return False
    if (harvested.since, harvested.until) != (last.since, last.until) or harvested.day == last.day:
        return False
    return harvested.announced - harvested.records == last.announced - last.records


def _once(records: Iterable[bytes]) -> Iterator[bytes]:
    """Each record that came in the same words once."""
    seen: set[bytes] = set()
    for record in records:
        digest = hashlib.sha256(record).digest()
        if digest not in seen:
            seen.add(digest)
            yield record
