"""The progress of a harvest: where it stands, on disk before the next page is asked for; and those that are complete.

A page is in its file before the progress counts it, and counted before its token is followed. So a process that is
killed at any moment leaves at most one page that is asked for again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arxiv_embed.checkpoint.atomic import DamagedFile, disk_faults_as_sentences, remove, write_atomically
from arxiv_embed.checkpoint.sealed import seal, unseal
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.harvest.answers import Deleted, Page

PROGRESS = "progress.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """A harvest under way. `pages` are the sha256 of what came; the list that is being followed was asked for from
    `list_since` on, begins behind the first `list_before` of them, and has `list_records` so far. `first_day` is the
    UTC day of the first answer, `answered` the time of the last, in seconds since the epoch. `set` is "" for all sets,
    None in what was written before it was noted."""

    begun: str
    since: str
    until: str
    list_since: str
    first_day: str = ""
    answered: float = 0.0
    token: str = ""
    pages: tuple[str, ...] = ()
    records: int = 0
    deleted: int = 0
    list_before: int = 0
    list_records: int = 0
    announced: int | None = None
    begun_again: int = 0
    ended: bool = False
    set: str | None = None

    def with_page(self, sha256: str, page: Page, now: float) -> Progress:
        return replace(
            self,
            first_day=self.first_day or page.day,
            answered=now,
            token=page.token or "",
            pages=(*self.pages, sha256),
            records=self.records + len(page.datestamps),
            deleted=self.deleted + len(page.deleted),
            list_records=self.list_records + len(page.datestamps),
            announced=page.announced or self.announced,
            ended=page.token is None,
        )

    def begins_again(self, since: str) -> Progress:
        """With a list of its own from that day on; what came stays."""
        return replace(
            self,
            list_since=since,
            token="",
            list_before=len(self.pages),
            list_records=0,
            announced=None,
            begun_again=self.begun_again + 1,
        )


@dataclass(frozen=True)
class Harvested:
    """A complete harvest. `since` and `until` are what was asked for, `through` the day up to which everything has been
    harvested, "" where that is not known; `files` has the records of each file, by its path in the metadata folder;
    `announced` is how many the repository said there were, where that was more than it gave and is not known to be
    an estimate; `set` is as in `Progress`."""

    begun: str
    since: str
    until: str
    through: str
    pages: int
    records: int
    deleted: tuple[Deleted, ...]
    files: dict[str, int]
    announced: int | None
    begun_again: int
    set: str | None = None
    day: str = ""
    """When it was begun, by the repository's clock, UTC."""

    def to_json(self) -> str:
        return seal(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Harvested:
        """Raises `DamagedFile`."""
        content = unseal(text)
        with _as_damage():
            deleted = tuple(Deleted(**record) for record in content.pop("deleted"))
            return cls(**content, deleted=deleted)


class HarvestFolder:
    """The folder of the harvests of one set into one metadata folder; used by one process at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def is_begun(self) -> bool:
        """Whether a harvest was begun here, or is complete; that its note is damaged does not matter."""
        return any(self.folder.glob("progress.*")) or any(self.folder.glob("done/*.json"))

    def under_way(self) -> Progress | None:
        """The harvest that was begun and is not complete. A note of it that is damaged is set aside, and said."""
        path = self.folder / PROGRESS
        try:
            content: dict[str, Any] = unseal(path.read_bytes())
            with _as_damage():
                return Progress(**{**content, "pages": tuple(content["pages"])})
        except FileNotFoundError:
            return None
        except DamagedFile as fault:
            aside = path.with_suffix(".damaged")
            log.warning("%s is damaged (%s): set aside as %s, and the harvest begins anew", path, fault, aside.name)
            os.replace(path, aside)  # noqa: PTH105 - as in checkpoint/atomic.py
            return None

    def keep(self, progress: Progress, content: bytes, page: Page, now: float) -> Progress:
        """Keeps a page that came, durably; returns the progress with it."""
        kept = progress.with_page(hashlib.sha256(content).hexdigest(), page, now)
        write_atomically(self._page(len(kept.pages)), content)
        write_atomically(self.folder / PROGRESS, seal(asdict(kept)).encode())
        return kept

    def pages(self, progress: Progress, first: int = 0) -> Iterator[bytes]:
        """The pages behind the first so many, as they came; raises `ArxivEmbedError` where one is damaged."""
        for number, sha256 in enumerate(progress.pages[first:], first + 1):
            path = self._page(number)
            content = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ArxivEmbedError(
                    f"{path} is not as it was written: remove {self.folder / PROGRESS} and run the same command again, "
                    "which begins the harvest anew."
                )
            yield content

    def finish(self, harvested: Harvested) -> None:
        """Keeps the record of a complete harvest, then lets go of its pages."""
        name = "".join(character for character in harvested.begun if character.isalnum())
        write_atomically(self.folder / "done" / f"{name}.json", harvested.to_json().encode())
        remove([self.folder / PROGRESS], self.folder)
        self.clear()

    def clear(self) -> None:
        """Removes pages that no harvest under way counts."""
        with disk_faults_as_sentences(self.folder):
            for path in sorted((self.folder / "pages").glob("*")):
                path.unlink(missing_ok=True)

    def done(self) -> list[Harvested]:
        """The complete harvests, the oldest first. Without a damaged one the next harvest goes back further."""
        found = []
        for path in sorted((self.folder / "done").glob("*.json")):
            try:
                found.append(Harvested.from_json(path.read_bytes()))
            except DamagedFile as fault:
                log.warning("%s is damaged (%s): it does not count", path, fault)
        return found

    def _page(self, number: int) -> Path:
        return self.folder / "pages" / f"{number:06d}.xml"


@contextlib.contextmanager
def _as_damage() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError) as error:
        raise DamagedFile(str(error)) from None
