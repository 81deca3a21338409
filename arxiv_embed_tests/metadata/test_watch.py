"""The watch: what is new, changed, still being written or gone, whatever happens to a folder between two looks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from arxiv_embed.metadata.shards import Source, list_sources
from arxiv_embed.metadata.watch import MONTH_WAITS, Known, Look, look_at, taken

FILES = ("a.jsonl", "b.jsonl")
PAPERS = ("2401.00001.json", "2401.00002.json", "2401.00003.json")
MONTH = "month:2401"


@dataclass
class Folder:
    """Versions of files by name, the per-paper ones among them in one month."""

    files: dict[str, int] = field(default_factory=dict)

    def sources(self) -> list[Source]:
        single = [Source(name, f"1-{self.files[name]}", (name,), 1) for name in FILES if name in self.files]
        month = tuple(name for name in PAPERS if name in self.files)
        signature = " ".join(f"{name}-{self.files[name]}" for name in month)
        return [*single, *([Source(MONTH, signature, month)] if month else [])]


@dataclass(frozen=True)
class Step:
    """What happens to a folder, then a look; `recorded` says whether what the look found was kept."""

    changes: Mapping[str, int | None]
    seconds: float
    recorded: bool


changes = st.dictionaries(st.sampled_from([*FILES, *PAPERS]), st.none() | st.integers(1, 3), max_size=3)
steps = st.lists(
    st.builds(Step, changes, st.sampled_from([30.0, 900.0, 2 * MONTH_WAITS]), st.booleans() | st.just(True)),
    max_size=14,
)


@dataclass
class Watcher:
    """Looks at a folder again and again, takes what is ready, and remembers all that it saw."""

    folder: Folder = field(default_factory=Folder)
    known: Mapping[str, Known] = field(default_factory=dict)
    now: float = 1_000_000.0
    seen: list[tuple[float, dict[str, Source], set[str]]] = field(default_factory=list)
    """Of each look that was recorded: its time, the sources, and the keys of those that were taken."""

    def look(self, *, most_removed: int = 100) -> Look:
        return look_at(self.known, self.folder.sources(), self.now, most_removed)

    def record(self, look: Look) -> None:
        keys = {source.key for source in look.ready}
        self.known = taken(look.known, dict.fromkeys(keys, True))
        self.seen.append((self.now, {source.key: source for source in self.folder.sources()}, keys))

    def tick(self, seconds: float = 30.0) -> list[str]:
        self.now += seconds
        look = self.look()
        self.record(look)
        return [source.key for source in look.ready]

    def take(self, step: Step) -> Look:
        for name, version in step.changes.items():
            if version is None:
                self.folder.files.pop(name, None)
            else:
                self.folder.files[name] = version
        self.now += step.seconds
        look = self.look()
        assert look == self.look(), "a look changes nothing"
        if step.recorded:
            self.record(look)
        return look

    def is_due(self, source: Source) -> bool:
        """Whether a source is to be taken now, by all that was recorded before."""
        changed_at: float | None = None
        last: str | None = None
        for time, sources, keys in [*self.seen, (self.now, {source.key: source}, set[str]())]:
            here = sources.get(source.key)
            previous, last = last, here.signature if here else None
            if here is None:
                changed_at = None
            elif last != previous:
                changed_at = time if changed_at is None else changed_at
            at_rest = last == previous
            if source.key in keys:
                changed_at = None
        waits_too_long = source.key == MONTH and changed_at is not None and self.now - changed_at >= MONTH_WAITS
        return changed_at is not None and (at_rest or (waits_too_long and previous is not None))


@given(steps)
def test_what_is_new_or_changed_is_ready_once_it_is_at_rest_and_nothing_else_is(steps: Sequence[Step]) -> None:
    watcher = Watcher()
    for step in steps:
        due_before = watcher.seen[:]
        look = watcher.take(step)
        watcher.seen, recorded = due_before, watcher.seen
        assert [source.key for source in look.ready] == [
            source.key for source in sorted(watcher.folder.sources(), key=lambda s: s.key) if watcher.is_due(source)
        ]
        watcher.seen = recorded


@given(steps)
def test_after_two_quiet_looks_every_change_has_been_taken_and_a_third_takes_nothing(steps: Sequence[Step]) -> None:
    watcher = Watcher()
    for step in steps:
        watcher.take(step)
    watcher.tick()
    watcher.tick()
    for source in watcher.folder.sources():
        taken_as = [sources[source.key].signature for _, sources, keys in watcher.seen if source.key in keys]
        assert taken_as[-1] == source.signature
    assert watcher.tick() == []
    assert watcher.tick() == []


@given(steps)
def test_a_look_that_was_lost_changes_nothing_of_what_the_next_one_finds(steps: Sequence[Step]) -> None:
    with_lost, without = Watcher(), Watcher()
    for step in steps:
        found = with_lost.take(step)
        again = with_lost.look()
        assert again.ready == found.ready or step.recorded
        if step.recorded:
            without.folder.files = dict(with_lost.folder.files)
            without.now = with_lost.now
            assert without.look() == found
            without.record(found)


@given(steps)
def test_what_was_taken_and_is_gone_is_told_once(steps: Sequence[Step]) -> None:
    watcher = Watcher()
    held: set[str] = set()
    before: dict[str, Source] = {}
    for step in steps:
        look = watcher.take(step)
        now = {source.key: source for source in watcher.folder.sources()}
        whole = {removal.key for removal in look.removed if not removal.files}
        parts = {removal.key: set(removal.files) for removal in look.removed if removal.files}
        assert whole == held - now.keys()
        lost = {key: set(before[key].files) - set(now[key].files) for key in held & now.keys()}
        assert parts == {key: files for key, files in lost.items() if files}
        if step.recorded:
            held = (held & now.keys()) | {source.key for source in look.ready}
            before = now


@given(steps, st.sets(st.sampled_from([*FILES, *PAPERS]), min_size=1))
def test_what_cannot_be_read_for_a_while_is_neither_removed_nor_changed_and_then_is_as_it_was(
    steps: Sequence[Step], hidden: set[str]
) -> None:
    watcher = Watcher()
    for step in steps:
        watcher.take(step)
    watcher.record(watcher.look())
    seen = watcher.folder.sources()
    before = watcher.known
    held_back = {source.key for source in seen if hidden.intersection(source.files)}
    watcher.folder.files = {name: version for name, version in watcher.folder.files.items() if name not in hidden}
    for _ in range(2):
        look = look_at(watcher.known, watcher.folder.sources(), watcher.now, 100, hidden)
        assert look.removed == ()
        assert held_back.isdisjoint(source.key for source in look.ready)
        assert {key: look.known[key] for key in held_back} == {key: before[key] for key in held_back}
        watcher.known = look.known
    assert look_at(watcher.known, seen, watcher.now, 100) == look_at(before, seen, watcher.now, 100)


def test_a_month_is_taken_once_all_of_it_can_be_read_again_and_then_tells_what_is_gone() -> None:
    watcher = Watcher(Folder({"2401.00001.json": 1, "2401.00002.json": 1, "2401.00003.json": 1}))
    watcher.tick()
    assert watcher.tick() == [MONTH]
    watcher.folder.files = {"2401.00002.json": 2}
    for _ in range(3):
        watcher.now += 2 * MONTH_WAITS
        look = look_at(watcher.known, watcher.folder.sources(), watcher.now, 100, {"2401.00001.json"})
        assert (look.ready, look.removed, look.writing) == ((), (), 0)
        watcher.record(look)
    watcher.folder.files = {"2401.00001.json": 1, "2401.00002.json": 2}
    look = watcher.look()
    assert [removal.files for removal in look.removed] == [("2401.00003.json",)]
    watcher.record(look)
    assert watcher.tick() == [MONTH]


def test_many_removals_are_told_a_few_at_a_time_and_each_once() -> None:
    known = {f"{number:02d}": Known("1-1", None, True, "") for number in range(25)}
    told = []
    for _ in range(4):
        look = look_at(known, [], 0.0, 10)
        told += [removal.key for removal in look.removed]
        known = taken(look.known, {})
    assert told == sorted(f"{number:02d}" for number in range(25))


def test_a_month_into_which_files_keep_arriving_waits_an_hour_and_a_file_that_grows_as_long_as_it_does() -> None:
    watcher = Watcher(Folder({"a.jsonl": 0, "2401.00001.json": 0}))
    taken_at = []
    for minute in range(130):
        watcher.folder.files |= {"a.jsonl": minute, "2401.00001.json": minute}
        taken_at += [(minute, key) for key in watcher.tick(60.0)]
    assert taken_at == [(60, MONTH), (121, MONTH)]
    assert watcher.tick() == ["a.jsonl", MONTH]


def test_what_is_not_taken_is_ready_again_at_the_next_look() -> None:
    watcher = Watcher(Folder({"a.jsonl": 1}))
    watcher.tick()
    for _ in range(3):
        look = watcher.look()
        assert [source.key for source in look.ready] == ["a.jsonl"]
        watcher.known = look.known


def test_a_file_that_holds_no_metadata_is_looked_at_once_and_never_told_as_gone() -> None:
    watcher = Watcher(Folder({"a.jsonl": 1}))
    watcher.tick()
    watcher.known = taken(watcher.look().known, {"a.jsonl": False})
    assert watcher.look().ready == ()
    watcher.folder.files.clear()
    assert watcher.look().removed == ()


@pytest.mark.parametrize("turned", [-1e6, 1e6])
def test_a_clock_that_is_set_anew_keeps_no_month_waiting_for_ever(turned: float) -> None:
    watcher = Watcher(Folder({"2401.00001.json": 0}))
    watcher.tick()
    watcher.now += turned
    for minute in range(62):
        watcher.folder.files["2401.00001.json"] = minute + 1
        if watcher.tick(60.0):
            return
    pytest.fail("the month was never taken")


def test_the_signature_of_a_month_is_of_its_files_sorted_by_path_as_checkpoints_hold_it(folder: Path) -> None:
    places = [b"", b"a/", b"a.b/", b"a!/", b"\xff/"]
    files = [os.fsdecode(place + b"2401.%05d.json" % number) for number, place in enumerate(places, 1)]
    listing = hashlib.sha256()
    for file in sorted(files):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(b"{}")
        stat = (folder / file).stat()
        listing.update(f"{file}\0{stat.st_size}-{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    [source] = list_sources(folder)
    assert source == Source(MONTH, listing.hexdigest(), tuple(sorted(files)))
