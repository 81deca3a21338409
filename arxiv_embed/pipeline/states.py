"""The states of the sensor's watch: one document in the home for each, that its cursor names."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from arxiv_embed.checkpoint.atomic import DamagedFile, reading, remove, write_atomically
from arxiv_embed.metadata.watch import Known

_NAME = re.compile(r"(\d{8})-[0-9a-f]{32}")
_LEFT_BEHIND = re.compile(r"(?:\.draft-\d+-)?" + _NAME.pattern)


@dataclass(frozen=True)
class State:
    """What a tick begins with: a cursor, and what was known of the folder then; `lost` says why that is nothing."""

    cursor: str
    known: Mapping[str, Known]
    lost: str = ""


class States:
    """The documents of one metadata folder's watch; a document's name ends in the digest of its text, so that not one
    byte of it can change unnoticed."""

    def __init__(self, folder: Path, metadata_dir: Path) -> None:
        self._folder = folder
        self._metadata_dir = str(metadata_dir)

    def load(self, cursor: str | None) -> State:
        """The state that a cursor names, or one in which nothing is known. Those before it are removed: Dagster has
        recorded a later one."""
        if not cursor:
            return State("", {})
        try:
            generation, metadata_dir, known = self._read(cursor)
        except DamagedFile as damage:
            return State(
                "",
                {},
                f"What was known of the metadata folder is lost ({self._folder / cursor}: {damage}): all of it counts "
                "as new and is asked for once more, of which a run does only what is missing.",
            )
        if metadata_dir != self._metadata_dir:
            return State("", {}, f"The metadata folder was {metadata_dir} before: all of {self._metadata_dir} is new.")
        self._remove_before(generation)
        return State(cursor, known)

    def _read(self, cursor: str) -> tuple[int, str, dict[str, Known]]:
        """Generation, metadata folder and what was known of it; raises `DamagedFile`."""
        name = _NAME.fullmatch(cursor)
        if name is None:
            raise DamagedFile("that is no state's name")
        with reading(self._folder / cursor):
            text = (self._folder / cursor).read_bytes()
        if cursor != _name(int(name[1]), text):
            raise DamagedFile("its checksum does not fit")
        try:
            content = json.loads(text)
            known = {key: Known(*values) for key, values in content["sources"].items()}
            return int(name[1]), content["metadata_dir"], known
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFile("another version wrote it") from error

    def keep(self, before: State, known: Mapping[str, Known]) -> str:
        """The cursor of a state, kept durably, which is the one before if nothing else is known."""
        if before.cursor and known == before.known:
            return before.cursor
        content = {"metadata_dir": self._metadata_dir, "sources": {key: astuple(known[key]) for key in sorted(known)}}
        text = json.dumps(content).encode()
        generation = int(before.cursor[:8]) if before.cursor else max(self._generations().values(), default=0)
        name = _name(generation + 1, text)
        write_atomically(self._folder / name, text)
        return name

    def _generations(self) -> dict[Path, int]:
        """Of every document and draft, which in the order of states it is."""
        if not self._folder.is_dir():
            return {}
        found = {path: _LEFT_BEHIND.fullmatch(path.name) for path in self._folder.iterdir()}
        return {path: int(match[1]) for path, match in found.items() if match}

    def _remove_before(self, generation: int) -> None:
        old = [path for path, number in self._generations().items() if number < generation]
        if old:
            remove(old, self._folder)


def _name(generation: int, text: bytes) -> str:
    return f"{generation:08d}-{hashlib.sha256(text).hexdigest()[:32]}"
