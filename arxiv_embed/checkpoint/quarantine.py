"""The quarantine: where what did not verify is set aside, with a record of what was wrong with it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from arxiv_embed.checkpoint.atomic import (
    DRAFT_PREFIX,
    DamagedFile,
    disk_faults_as_sentences,
    make_folder,
    move,
    reading,
    write_atomically,
)
from arxiv_embed.checkpoint.lock import FileLock
from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.sealed import seal, unseal
from arxiv_embed.errors import ArxivEmbedError

RECORD = "damage.json"
LOCK = "lock"
WAIT_SECONDS = 60.0
"""For another process to set something aside, which is the work of a moment."""

BACKUP_USED = "its backup is used"
NEWEST_WHOLE = "the newest is whole"
DONE_AGAIN = "it is done again"
ONLY_FOUND = "none: found by verify"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Damage:
    """What did not verify, and what is done about it. `place` is the folder where it was set aside, "" where nothing
    was moved; `time` is UTC, ISO 8601."""

    checkpoint: str
    file: str
    reason: str
    remedy: str
    place: str = ""
    time: str = ""
    asset: str = ""
    shard: str = ""
    space: str = ""

    @classmethod
    def of(cls, key: CheckpointKey, file: str, reason: str, remedy: str) -> Damage:
        """One that is found now."""
        return cls(str(key), file, reason, remedy, "", now(), key.asset, key.shard, key.space)

    def __str__(self) -> str:
        place = f"set aside in {self.place}" if self.place else "left where it is"
        return f"Damaged: {self.checkpoint}, {self.file}: {self.reason}; {place}; {self.remedy}"

    def to_json(self) -> str:
        return seal(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Damage:
        """Raises `DamagedFile`."""
        content = unseal(text)
        try:
            damage = cls(**content)
        except TypeError as error:
            raise DamagedFile(str(error)) from None
        if not all(isinstance(value, str) for value in content.values()):
            raise DamagedFile("a value in it is no text")
        return damage


class Quarantine:
    """A folder `folder` that mirrors the tree beside it: a file of `tree/a/b` is set aside in `folder/a/b/000001`.
    Damage is logged, and given to `on_damage`. `tree` is the folder of all that."""

    def __init__(self, folder: Path, on_damage: Callable[[Damage], object] | None = None) -> None:
        self._folder = folder
        self.tree = folder.parent
        self._on_damage = on_damage

    def set_aside(self, files: Sequence[Path], damage: Damage) -> Damage | None:
        """Moves files of one folder, the last being the one that gives the others their meaning, and reports them.

        None where that last one is no longer there, as another process was first. A crash at any moment leaves either
        the last where it was, so that it is found again, or all moved. Raises `ArxivEmbedError` where nothing can be
        written.
        """
        moved = self._move(files, damage)
        if moved is not None:
            self.report(moved)
        return moved

    def try_to_set_aside(self, files: Sequence[Path], damage: Damage) -> Damage | None:
        """As `set_aside`; where nothing can be written, the damage is reported all the same."""
        try:
            moved = self._move(files, damage)
        except (ArxivEmbedError, OSError) as error:
            moved = replace(damage, remedy=f"{damage.remedy} (not set aside: {error})")
        if moved is not None:
            self.report(moved)
        return moved

    def _move(self, files: Sequence[Path], damage: Damage) -> Damage | None:
        with disk_faults_as_sentences(self._folder), FileLock(self._folder / LOCK, "The quarantine", WAIT_SECONDS):
            if not files[-1].exists():
                return None
            place = self._new_place(files[-1].parent)
            damage = replace(damage, place=str(place))
            write_atomically(place / RECORD, damage.to_json().encode())
            for path in files:
                move(path, place)
        return damage

    def found(self, files: Sequence[Path], damage: Damage, *, repair: bool) -> Damage | None:
        """What `verify` does about damage: sets it aside where it is to repair, else reports it; None where the files
        have gone meanwhile."""
        if repair:
            return self.set_aside(files, damage)
        if not files[-1].exists():
            return None
        damage = replace(damage, remedy=ONLY_FOUND)
        self.report(damage)
        return damage

    def report(self, damage: Damage) -> None:
        log.warning("%s", damage, extra={"told": self._on_damage is not None})  # whoever was told logs it himself
        if self._on_damage is not None:
            self._on_damage(damage)

    def damages(self) -> list[Damage]:
        """All that lies here, newest first."""
        places = {path.parent for path in self._folder.rglob("*") if path.is_file()} - {self._folder}
        found = [damage for place in places for damage in self._recorded(place)]
        return sorted(found, key=lambda damage: (damage.time, damage.place), reverse=True)

    def names(self, origin: Path) -> Iterator[str]:
        """The names of files that were set aside from a folder."""
        for path in self._mirror(origin).glob("*/*"):
            yield path.name

    def _mirror(self, origin: Path) -> Path:
        return self._folder / origin.relative_to(self.tree)

    def _new_place(self, origin: Path) -> Path:
        """Numbered, as clocks stand still and go back."""
        mirror = self._mirror(origin)
        number = 1 + max((int(path.name) for path in mirror.glob("*") if path.name.isdecimal()), default=0)
        place = mirror / f"{number:06d}"
        make_folder(place, root=self._folder)
        return place

    def _recorded(self, place: Path) -> Iterator[Damage]:
        names = sorted(path.name for path in place.iterdir() if path.is_file() and path.name not in (RECORD, LOCK))
        names = [name for name in names if not name.startswith(DRAFT_PREFIX)]
        if not names:
            return  # a crash came before anything was moved, or somebody has taken it
        try:
            with reading(place / RECORD):
                damage = Damage.from_json((place / RECORD).read_bytes())
        except (DamagedFile, ArxivEmbedError) as fault:
            log.warning("the record %s is damaged itself (%s)", place / RECORD, fault)
            what = str(place.parent.relative_to(self._folder))
            damage = Damage(what, ", ".join(names), f"not known: {RECORD} is damaged ({fault})", "not known")
        yield replace(damage, place=str(place))


def size_of(files: Iterable[Path]) -> int:
    """The bytes of those that are there."""
    size = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
