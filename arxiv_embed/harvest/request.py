"""A request: what to harvest, and where to; and those that a home knows, as a harvest was begun with them before."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

from arxiv_embed.errors import ArxivEmbedError, masked
from arxiv_embed.harvest.answers import is_day
from arxiv_embed.harvest.progress import HarvestFolder

SUBFOLDER = "harvest"
MOST_COLONS = 2
"""In arXiv's names of sets, as in physics:astro-ph:CO."""
LONGEST_SET = 100
"""Letters; the files of a harvest are named after its set."""

_SET = re.compile(r"[A-Za-z0-9._~-]+(?::[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True)
class HarvestRequest:
    """What to harvest, and where to; days are "YYYY-MM-DD". Without `since` it is from the last complete harvest on."""

    metadata_dir: Path
    set: str | None = None
    since: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        """Raises `ArxivEmbedError` for what cannot be asked for."""
        for name, day in (("since", self.since), ("until", self.until)):
            if day is not None and not is_day(day):
                raise ArxivEmbedError(f"--{name} '{day}' is no day: write YYYY-MM-DD, like 2026-11-24.")
        if self.since and self.until and self.since > self.until:
            raise ArxivEmbedError(f"--since {self.since} is after --until {self.until}: swap them.")
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)  # where it is today already
        if self.since and self.since > tomorrow.isoformat():
            raise ArxivEmbedError(f"--since {self.since} is in the future: give a day that has begun.")
        if self.set is not None and not _is_set(self.set):
            shown = masked(self.set) if len(self.set) <= LONGEST_SET else f"{masked(self.set)[:LONGEST_SET]}…"
            raise ArxivEmbedError(f"'{shown}' is no name of a set: write one like cs or physics:hep-th.")

    @property
    def folder(self) -> Path:
        """Where the dated files go."""
        return self.metadata_dir / SUBFOLDER

    @property
    def stem(self) -> str:
        """How the names of the dated files begin."""
        return f"arxiv-{self.set.replace(':', '-')}" if self.set else "arxiv"

    def __str__(self) -> str:
        return f"set {self.set}" if self.set else "all sets"


def place_of(request: HarvestRequest, url: str, home: Path) -> Path:
    """The folder in the project's home that is of this set, metadata folder and address; each has one of its own."""
    identity = b"\0".join((url.encode(), os.fsencode(request.metadata_dir), (request.set or "").encode()))
    return home / "harvest" / f"{request.stem}-{hashlib.sha256(identity).hexdigest()[:8]}"


def harvests_begun(metadata_dir: Path, url: str, home: Path) -> list[HarvestRequest]:
    """What goes on with the harvests into a metadata folder from an address: of each set one, where it was begun."""
    places = [place for place in sorted((home / "harvest").glob("arxiv-*")) if HarvestFolder(place).is_begun]
    read = [(HarvestRequest(metadata_dir, name or None), place) for place in places for name in _sets_of(place)]
    return [request for request, place in read if place_of(request, url, home) == place]


def _sets_of(place: Path) -> list[str]:
    """The set that a folder's harvests are of; of older ones, which do not say it, all that the folder may be named
    after: the digest in its name tells which one it is."""
    desk = HarvestFolder(place)
    noted = {one.set for one in (desk.under_way(), *desk.done()) if one and one.set is not None}
    return sorted(noted or (name for name in _readings(place.name.split("-")[1:-1]) if not name or _is_set(name)))


def _readings(words: Sequence[str]) -> Iterator[str]:
    """The names that these words are of, where "-" may stand for ":"."""
    for colons in range(MOST_COLONS + 1):
        for places in combinations(range(1, len(words)), colons):
            yield "".join((":" if at in places else "-") + word for at, word in enumerate(words))[1:]


def _is_set(name: str) -> bool:
    """Whether a set may be named so."""
    return len(name) <= LONGEST_SET and _SET.fullmatch(name) is not None
