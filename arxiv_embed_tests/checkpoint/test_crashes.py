"""Crashes: after every step of every operation, whatever the disk had not yet synced, nothing is lost and nothing half
is believed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest, Source
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed_tests.checkpoint.crash import Killed, Watch, read_tree, write_tree
from arxiv_embed_tests.damage import flip

KEY = CheckpointKey("embeddings", "cs.jsonl", "0123456789abcdef")
STORE = "home/checkpoints"


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch, quiet: None) -> None:
    """Disks that differ by the time alone are alike."""
    for module in ("quarantine", "store"):
        monkeypatch.setattr(f"arxiv_embed.checkpoint.{module}.now", lambda: "2026-01-01T00:00:00+00:00")


def table(name: str) -> pa.Table:
    return pa.table({"paper_id": [name], "tokens": [7]})


def commit(store: CheckpointStore, name: str) -> Manifest:
    """As a run does it: held, two tables."""
    with store.hold(KEY):
        return store.commit(
            KEY,
            {"vectors": table(name), "failures": table(f"{name}?")},
            source=Source("s", "c"),
            counts={"papers": 1},
            run_id="run",
        )


def commit_and_clear(store: CheckpointStore, name: str) -> None:
    commit(store, name)
    store.segments(KEY, "c").clear()


def append(store: CheckpointStore, *names: str) -> None:
    """Adds those that are not there."""
    segments = store.segments(KEY, "c")
    there = {part["paper_id"][0].as_py() for part in segments.tables()}
    for name in names:
        if name not in there:
            segments.append(table(name))


def loaded(store: CheckpointStore) -> str | None:
    checkpoint = store.load(KEY)
    if checkpoint is None:
        return None
    name = checkpoint.tables["vectors"]["paper_id"][0].as_py()
    assert checkpoint.tables["failures"]["paper_id"][0].as_py() == f"{name}?"
    return str(name)


def held(store: CheckpointStore) -> list[str]:
    return [part["paper_id"][0].as_py() for part in store.segments(KEY, "c").tables()]


def prepared(*commits: str, segments: str = "", damaged: bool = False) -> Callable[[CheckpointStore], None]:
    def prepare(store: CheckpointStore) -> None:
        store.root.parent.mkdir()
        for name in commits:
            commit(store, name)
        append(store, *segments)
        if damaged:
            flip(max(store.root.rglob("g*.vectors.arrow")))

    return prepare


@dataclass(frozen=True)
class Operation:
    """`before` and `after` are what is loaded, and which segments there are, before it and once it has returned; in
    between it is either. `damage` says whether something damaged is there that is to be set aside."""

    prepare: Callable[[CheckpointStore], None]
    act: Callable[[CheckpointStore], object]
    before: tuple[str | None, str]
    after: tuple[str | None, str]
    damage: bool = False
    partly: bool = False
    """Whether segments may go one by one, as what they held is committed."""


OPERATIONS = {
    "a first commit": Operation(prepared(), lambda store: commit(store, "a"), (None, ""), ("a", "")),
    "a second commit": Operation(prepared("a"), lambda store: commit(store, "b"), ("a", ""), ("b", "")),
    "a third commit": Operation(prepared("a", "b"), lambda store: commit(store, "c"), ("b", ""), ("c", "")),
    "a first segment": Operation(prepared(), lambda store: append(store, "x"), (None, ""), (None, "x")),
    "a third segment": Operation(
        prepared(segments="xy"), lambda store: append(store, "z"), (None, "xy"), (None, "xyz")
    ),
    "segments cleared after a commit": Operation(
        prepared("a", segments="xyz"), lambda store: commit_and_clear(store, "b"), ("a", "xyz"), ("b", ""), partly=True
    ),
    "a damaged generation set aside": Operation(
        prepared("a", "b", damaged=True), loaded, ("a", ""), ("a", ""), damage=True
    ),
    "a commit over a damaged generation": Operation(
        prepared("a", "b", damaged=True), lambda store: commit(store, "c"), ("a", ""), ("c", ""), damage=True
    ),
    "a damaged generation repaired": Operation(
        prepared("a", "b", damaged=True),
        lambda store: list(store.verify(repair=True)),
        ("a", ""),
        ("a", ""),
        damage=True,
    ),
    "a restore": Operation(prepared("a", "b"), lambda store: store.restore(KEY, run_id="run"), ("b", ""), ("a", "")),
}


class Crashes:
    """The disks that crashes may leave, each once, with whether the operation had returned in every case that leaves
    it; `tried` counts those that are alike as well."""

    def __init__(self) -> None:
        self.disks: dict[frozenset[tuple[str, bytes | None]], bool] = {}
        self.tried = 0

    def note(self, watch: Watch, *, returned: bool = False) -> None:
        for tree in watch.disk.crashes():
            self.tried += 1
            disk = frozenset(tree.items())
            self.disks[disk] = self.disks.get(disk, False) or returned


def act(
    in_memory: Path, operation: Operation, crashes: Crashes, *, journal: bool, killed_after: int | None = None
) -> int:
    """Carries the operation out on a modelled disk and notes what a crash may leave at each step; where it is killed
    first, it is done again by a process that nothing is done to. Returns the number of steps."""
    root = in_memory / "disk"
    root.mkdir()
    store = CheckpointStore(root / STORE)
    operation.prepare(store)
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(root, patch, journal=journal)
        if killed_after is not None:
            watch.steps = killed_after
            with pytest.raises(Killed):
                operation.act(store)
            watch.end_process()
        watch.on_step = lambda: crashes.note(watch)
        crashes.note(watch)
        operation.act(store)
        crashes.note(watch, returned=True)
        assert dict(watch.disk.now()) == dict(read_tree(root)), "a step went past the model"
    shutil.rmtree(root)
    return watch.taken


def check_all(in_memory: Path, operation: Operation, crashes: Crashes, *, journal: bool) -> None:
    sound = in_memory / "sound"
    operation.prepare(CheckpointStore(make(sound) / STORE))
    originals = {path.read_bytes() for path in sound.rglob("g000002.*.arrow")} if operation.damage else set()
    for number, (disk, returned) in enumerate(crashes.disks.items()):
        root = make(in_memory / str(number))
        write_tree(dict(disk), root)
        check(root, operation, originals, returned=returned, journal=journal)
        shutil.rmtree(root)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def check(root: Path, operation: Operation, originals: set[bytes], *, returned: bool, journal: bool) -> None:
    found: list[Damage] = []
    store = CheckpointStore(root / STORE, found.append)
    segments = "".join(held(store))
    content = loaded(store)
    allowed = {operation.after} if returned else {operation.before, operation.after}
    if operation.partly and content == operation.after[0] and not returned:
        assert set(segments) <= set(operation.before[1])
    else:
        assert (content, segments) in allowed
    if operation.damage:
        assert all(damage.file.startswith("g000002.") for damage in found)
        if journal:  # nothing that was set aside is lost on the way, nor why it was
            assert originals <= {path.read_bytes() for path in root.rglob("g000002.*")}
            assert "g000002.vectors.arrow" in {damage.file for damage in store.quarantined()}
    else:
        assert found == []
    assert [verified.damage for verified in store.verify(repair=False) if verified.damage] == []
    commit(store, "next")
    assert loaded(store) == "next"
    assert not list((store.root / KEY.asset).rglob(".draft-*.manifest.json"))
    if content is not None:
        flip(max(store.root.glob("*/*/*/g*.vectors.arrow")))
        assert loaded(store) == content


AGAIN = [
    "a first commit",
    "a second commit",
    "a third commit",
    "a first segment",
    "a third segment",
    "segments cleared after a commit",
    "a damaged generation set aside",
]
"""Not a restore, as that is undone by doing it twice; and none that is made of these."""
FEWEST = 2000
"""So many crashes of operations that are not disturbed before, with a journal and without."""


@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no journal"])
def test_a_crash_after_any_step_leaves_the_old_or_the_new_whole(in_memory: Path, journal: bool) -> None:
    tried = 0
    for name, operation in OPERATIONS.items():
        crashes = Crashes()
        act(make(in_memory / name), operation, crashes, journal=journal)
        check_all(in_memory / name, operation, crashes, journal=journal)
        print(f"{name}: {crashes.tried} crashes, {len(crashes.disks)} different disks")
        tried += crashes.tried
    assert tried > FEWEST


@pytest.mark.parametrize("name", AGAIN)
def test_a_process_that_was_killed_leaves_the_next_no_trap(in_memory: Path, name: str) -> None:
    """Killed after any step, carried out again, and the power cut at any step of that."""
    operation = OPERATIONS[name]
    steps = act(in_memory, operation, Crashes(), journal=True)
    crashes = Crashes()
    for killed_after in range(1, steps):
        act(in_memory, operation, crashes, journal=True, killed_after=killed_after)
    check_all(in_memory, operation, crashes, journal=True)
    print(f"{name}: {steps} kills, {crashes.tried} crashes, {len(crashes.disks)} different disks")
