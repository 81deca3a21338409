"""Generations: the numbered versions of one checkpoint, in its folder.

A generation is data files `g000001.<table>.arrow` and then, as the act of committing, their manifest
`g000001.manifest.json`. The one before stays as backup. A number is never used twice, so that a name stands for one
content for ever, and whoever finds it damaged sets aside what it looked at, and never what came after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from arxiv_embed.checkpoint import tables
from arxiv_embed.checkpoint.atomic import (
    DRAFT_PREFIX,
    DamagedFile,
    disk_faults_as_sentences,
    make_folder,
    reading,
    remove,
    write_atomically,
)
from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest
from arxiv_embed.checkpoint.quarantine import BACKUP_USED, DONE_AGAIN, NEWEST_WHOLE, Damage, Quarantine, size_of
from arxiv_embed.checkpoint.reader import CheckpointReader, DamagedCheckpoint
from arxiv_embed.errors import ArxivEmbedError

_FILE = re.compile(r"g(\d{6})\.(manifest\.json|.*\.arrow)")
_MANIFEST = "manifest.json"
NEVER = 10**6
"""No generation has this number."""

Checked = TypeVar("Checked")


@dataclass(frozen=True)
class Verified:
    """What `verify` looked at, how many bytes that was, and what was wrong with it, if anything."""

    what: str
    bytes: int
    damage: Damage | None


class Generations:
    """Those of the checkpoint `key`, in `folder`; `root` is the checkpoint store's."""

    def __init__(self, folder: Path, key: CheckpointKey, root: Path, quarantine: Quarantine) -> None:
        self._folder = folder
        self._key = key
        self._root = root
        self._quarantine = quarantine

    def newest(
        self,
        check: Callable[[CheckpointReader], Checked],
        on_fault: Callable[[int, DamagedCheckpoint], object],
        before: int = NEVER,
    ) -> Checked | None:
        """What `check` makes of the newest generation (older than `before`) that it does not refuse; the refused go to
        `on_fault`."""
        while True:
            for number in self._numbers():
                if number >= before:
                    continue
                try:
                    return check(self.reader(number))
                except DamagedCheckpoint as fault:
                    if not self.has(number):
                        break  # another process has replaced it, or set it aside: look again
                    on_fault(number, fault)
            else:
                return None

    def add(self, manifest: Manifest, contents: Mapping[str, bytes | memoryview]) -> Manifest:
        """Commits the files' contents as the next generation, verified as it then lies on disk, and only then lets go
        of what is older than its backup. The manifest's number and file names are chosen here."""
        with disk_faults_as_sentences(self._folder):
            make_folder(self._folder, root=self._root)
        # What does not verify is set aside, so that what is kept as backup does.
        backup = self.newest(checked, self.set_aside)
        number = 1 + max(self._used(), default=0)
        self._forget_all_but(self._numbers())  # what failed and killed writers left, which takes space
        files = {
            table: replace(file, name=self._path(number, f"{table}{tables.SUFFIX}").name)
            for table, file in manifest.files.items()
        }
        written = self.write(replace(manifest, generation=number, files=files), contents)
        self._forget_all_but([number, backup.manifest.generation if backup else number])
        return written

    def write(self, manifest: Manifest, contents: Mapping[str, bytes | memoryview]) -> Manifest:
        """Writes a generation, its manifest last, and reads it again; raises `ArxivEmbedError` where that differs."""
        for table, content in contents.items():
            write_atomically(self._folder / manifest.files[table].name, content)
        write_atomically(self._path(manifest.generation, _MANIFEST), manifest.to_json().encode())
        try:
            reader = self.reader(manifest.generation)
            reader.check()
        except DamagedCheckpoint as fault:
            raise ArxivEmbedError(
                f"The checkpoint {self._key} is not as it was written ({fault.file}: {fault.reason}): check the disk "
                f"of {self._folder} and run again; the one before it stands."
            ) from fault
        return reader.manifest

    def set_aside(self, number: int, fault: DamagedCheckpoint) -> Damage | None:
        """Moves a damaged generation to the quarantine; raises `ArxivEmbedError` where that cannot be written."""
        return self._quarantine.set_aside(self._files(number), self._damage(number, fault))

    def has(self, number: int) -> bool:
        return self._path(number, _MANIFEST).exists()

    def try_to_set_aside(self, number: int, fault: DamagedCheckpoint) -> Damage | None:
        """For who only reads: what cannot be moved is reported, and read past."""
        return self._quarantine.try_to_set_aside(self._files(number), self._damage(number, fault))

    def verify(self, *, repair: bool) -> Iterator[Verified]:
        """Every generation, newest first, to its last byte; with `repair` a damaged one is set aside."""
        for number in self._numbers():
            damage = None
            size = size_of(self._files(number))
            try:
                self.reader(number).check()
            except DamagedCheckpoint as fault:
                damage = self._damage(number, fault)
                damage = self._quarantine.found(self._files(number), damage, repair=repair)
                if damage is None:
                    continue  # another process has replaced it, or set it aside
            yield Verified(f"generation {number} of {self._key}", size, damage)

    def reader(self, number: int) -> CheckpointReader:
        """Of one generation, whose manifest alone is verified; raises `DamagedCheckpoint`."""
        path = self._path(number, _MANIFEST)
        try:
            with reading(path):
                manifest = Manifest.from_json(path.read_bytes())
            if (manifest.key, manifest.generation) != (self._key, number):
                raise DamagedFile(f"it is of generation {manifest.generation} of {manifest.key}")
            for table, file in manifest.files.items():
                if file.name != self._path(number, f"{table}{tables.SUFFIX}").name:
                    raise DamagedFile(f"its table {table} is in {file.name}")
        except DamagedFile as fault:
            raise DamagedCheckpoint(self._key, path.name, str(fault)) from None
        return CheckpointReader(self._folder, manifest)

    def number_of(self, manifest: Path) -> int | None:
        """Of a file in this folder; None where it is no manifest."""
        match = _FILE.fullmatch(manifest.name)
        return int(match[1]) if match and match[2] == _MANIFEST else None

    def _damage(self, number: int, fault: DamagedCheckpoint) -> Damage:
        others = [other for other in self._numbers() if other != number and self._is_whole(other)]
        remedy = DONE_AGAIN
        if others:
            remedy = BACKUP_USED if max(others) < number else NEWEST_WHOLE
        return Damage.of(self._key, fault.file, fault.reason, remedy)

    def _is_whole(self, number: int) -> bool:
        try:
            sized(self.reader(number))
        except DamagedCheckpoint:
            return False
        return True

    def _path(self, number: int, name: str) -> Path:
        return self._folder / f"g{number:06d}.{name}"

    def _files(self, number: int) -> list[Path]:
        """A generation's files, the manifest last."""
        manifest = self._path(number, _MANIFEST)
        return [*sorted(set(self._folder.glob(f"g{number:06d}.*{tables.SUFFIX}"))), manifest]

    def _numbers(self) -> list[int]:
        """Newest first; a generation exists once its manifest does."""
        found = (_FILE.fullmatch(path.name) for path in self._folder.glob(f"g*.{_MANIFEST}"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _used(self) -> Iterator[int]:
        """Numbers that were given, whatever became of them."""
        for name in (*(path.name for path in self._folder.glob("g*")), *self._quarantine.names(self._folder)):
            if match := _FILE.fullmatch(name):
                yield int(match[1])

    def _forget_all_but(self, keep: Sequence[int]) -> None:
        """Removes all other generations, the manifests durably before their data, and the drafts of killed writers."""
        ours = [(match, path) for path in self._folder.glob("g*") if (match := _FILE.fullmatch(path.name))]
        old = [(match, path) for match, path in ours if int(match[1]) not in keep]
        manifests = [path for match, path in old if match[2] == _MANIFEST]
        others = [path for match, path in old if match[2] != _MANIFEST]
        drafts = list(self._folder.glob(f"{DRAFT_PREFIX}*"))
        if old or drafts:
            remove(manifests, self._folder)
            remove([*others, *drafts], self._folder)


def sized(reader: CheckpointReader) -> Manifest:
    """A check of names and sizes alone."""
    reader.check_sizes()
    return reader.manifest


def checked(reader: CheckpointReader) -> CheckpointReader:
    """A check of every byte."""
    reader.check()
    return reader


def unreported(number: int, fault: DamagedCheckpoint) -> None:
    """What planning does about a damaged generation: nothing."""
