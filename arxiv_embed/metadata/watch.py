"""A watch: which sources of a metadata folder are new, changed, still being written or gone."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from arxiv_embed.metadata.keys import file_of
from arxiv_embed.metadata.shards import Source, lies_in

MONTH_WAITS = 3600.0
"""Seconds. New files may keep arriving in a month, and no file of one paper takes so long to write."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a source from one look to the next."""

    signature: str
    """As it was seen last."""
    since: float | None
    """When a change that nobody has taken yet was first seen; None where there is none."""
    holds_metadata: bool | None
    """As it was taken last; None where it never was."""
    names: str
    """A month's files, packed."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A source that is gone, or, where `files` names some, these files of a month that stays."""

    key: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """A folder as it is found: what is known of it from now on, and what is to be done about it."""

    known: Mapping[str, Known]
    ready: tuple[Source, ...]
    """New or changed, and stable: to be taken, or found ready again at the next look."""
    first_seen: int
    writing: int
    removed: tuple[Removal, ...]


def look_at(
    before: Mapping[str, Known],
    sources: Iterable[Source],
    now: float,
    most_removed: int,
    unread: Collection[str] = (),
) -> Look:
    """What has become of `before`; time in seconds. Of removals beyond `most_removed` the next look tells.

    What was known of a file that lies in one of the places `unread`, or of a month with such a file, stays as it is.
    `sources` may add to `unread` until they come to the first month, as `list_sources` does.

    A source is stable when two looks one after the other find the same signature; a month, at the latest
    `MONTH_WAITS` after its change was first seen.
    """
    known: dict[str, Known] = {}
    ready: list[Source] = []
    removed: list[Removal] = []
    first_seen = writing = 0
    for source in sources:
        last = before.get(source.key)
        is_month = file_of(source.key) is None
        names = _packed(source.files) if is_month else ""
        if last is None:
            known[source.key] = Known(source.signature, now, None, names)
            first_seen += 1
            continue
        if last.names != names and (unread or last.holds_metadata):
            gone = set(_unpacked(last.names)).difference(source.files)
            if any(lies_in(file, unread) for file in gone):
                known[source.key] = last
                continue
            removed.extend([Removal(source.key, tuple(sorted(gone)))] if gone and last.holds_metadata else [])
        changed = source.signature != last.signature
        since = last.since
        if changed and (since is None or since > now):
            since = now
        known[source.key] = Known(source.signature, since, last.holds_metadata, names)
        if since is not None:
            if not changed or (is_month and now - since >= MONTH_WAITS):
                ready.append(source)
            else:
                writing += 1
    for key in sorted(before.keys() - known.keys()):
        if unread and any(lies_in(file, unread) for file in _files_of(key, before[key])):
            known[key] = before[key]
        elif before[key].holds_metadata:
            if len(removed) < most_removed:
                removed.append(Removal(key))
            else:
                known[key] = before[key]
    ready.sort(key=lambda source: source.key)
    return Look(known, tuple(ready), first_seen, writing, tuple(removed))


def taken(known: Mapping[str, Known], holding: Mapping[str, bool]) -> dict[str, Known]:
    """What is known once these sources were taken, and were found to hold metadata or not."""
    return dict(known) | {key: replace(known[key], since=None, holds_metadata=holds) for key, holds in holding.items()}


def _files_of(key: str, known: Known) -> list[str]:
    file = file_of(key)
    return _unpacked(known.names) if file is None else [file]


def _packed(files: Iterable[str]) -> str:
    """Sorted names, a few bytes each."""
    return base64.b64encode(zlib.compress("\0".join(files).encode("utf-8", "surrogateescape"), 1)).decode("ascii")


def _unpacked(names: str) -> list[str]:
    return zlib.decompress(base64.b64decode(names)).decode("utf-8", "surrogateescape").split("\0")
