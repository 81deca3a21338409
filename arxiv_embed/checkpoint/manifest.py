"""A manifest: what a checkpoint says of itself, and how it is known to be whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from arxiv_embed.checkpoint.atomic import DamagedFile
from arxiv_embed.checkpoint.sealed import seal, unseal

FORMAT_VERSION = "2.0"


@dataclass(frozen=True)
class CheckpointKey:
    """What a checkpoint is of: a shard's `papers` (in no space) or its `embeddings` in a space (a fingerprint)."""

    asset: str
    shard: str
    space: str = ""

    def __str__(self) -> str:
        return f"{self.asset} of {self.shard}" + (f" (space {self.space})" if self.space else "")


@dataclass(frozen=True)
class Source:
    """What a checkpoint was made from: `signature` is a listing's, cheap to compare; `sha256` is the content's."""

    signature: str
    sha256: str


@dataclass(frozen=True)
class DataFile:
    """One table of a checkpoint; `name` is a file beside the manifest."""

    name: str
    sha256: str
    bytes: int
    rows: int
    schema: str


class DamagedManifest(DamagedFile):
    """The text is not a manifest of this format, or not the one that was written."""


@dataclass(frozen=True)
class Manifest:
    """`counts` and `details` are the numbers and the provenance that the run recorded; a count that has the name of a
    table is its number of rows. `created` is UTC, ISO 8601."""

    key: CheckpointKey
    generation: int
    source: Source
    counts: Mapping[str, int]
    files: Mapping[str, DataFile]
    run_id: str
    created: str
    versions: Mapping[str, str]
    details: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """Equal exactly for equal data: a sha256 over the data files' own."""
        return hashlib.sha256("".join(file.sha256 for _, file in sorted(self.files.items())).encode()).hexdigest()

    def to_json(self) -> str:
        """With its own checksum, so that a torn or edited manifest is noticed."""
        return seal({"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises `DamagedManifest` for anything but the exact bytes that `to_json` gave."""
        try:
            content = unseal(text)
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise DamagedManifest(f"its format is {version}, not {FORMAT_VERSION}")
            manifest = cls(
                key=CheckpointKey(**content.pop("key")),
                source=Source(**content.pop("source")),
                files={table: DataFile(**file) for table, file in content.pop("files").items()},
                **content,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedManifest(str(error)) from None
        manifest.check()
        return manifest

    def check(self) -> None:
        """Raises `DamagedManifest` where a value is of the wrong type or a count does not fit its table."""
        for part in (self.key, self.source, *self.files.values()):
            _check_types(part)
        numbers = [self.generation, *self.counts.values()] if isinstance(self.counts, dict) else [None]
        texts = [self.run_id, self.created, *self.versions.values()] if isinstance(self.versions, dict) else [None]
        if {type(number) for number in numbers} != {int} or {type(text) for text in texts} != {str}:
            raise DamagedManifest("a value in it is of the wrong type")
        if not isinstance(self.details, dict):
            raise DamagedManifest("its details are no mapping")
        for table, file in self.files.items():
            if self.counts.get(table, file.rows) != file.rows:
                raise DamagedManifest(f"its count of {table} does not fit the table")


def _check_types(part: Any) -> None:
    """All fields of `part` are declared as plain `str` or `int`."""
    for field in fields(part):
        if type(getattr(part, field.name)).__name__ != field.type:
            raise DamagedManifest(f"its {field.name} is no {field.type}")
