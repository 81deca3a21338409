"""A model of a disk: what may be left of a folder when the power goes in the middle of an operation.

A file's content is safe once the file was synced, a folder's entries once the folder was. Of what is not, a crash keeps
any part: it may keep a rename and lose the content of what was renamed, or keep the second of two renames alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Tree = Mapping[str, bytes | None]
"""Path → content, None for a folder; relative to the folder that is watched."""

MOST_SUBSETS = 6
"""Of so many unsynced changes every subset is tried; of more, the likely ones."""


class Killed(BaseException):
    """The process ends here, and what it asked of the disk stays as it is."""


@dataclass
class File:
    safe: bytes
    now: bytes


@dataclass
class Change:
    """A change of a folder's entries that is not synced: name → node, None where the name is taken away. Both sides of
    a move between folders are one change where the disk keeps a journal."""

    sides: dict[int, dict[str, int | None]]


@dataclass
class Folder:
    safe: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)


def _apply(entries: dict[str, int], side: Mapping[str, int | None]) -> None:
    for name, node in side.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class Disk:
    """The files below `root`, as they are and as they are sure to be after a crash."""

    def __init__(self, root: Path, *, journal: bool) -> None:
        self._root = root
        self._journal = journal
        self._nodes: dict[int, File | Folder] = {}
        self._unsynced: list[Change] = []
        self._top = self._take(root)

    def _take(self, path: Path) -> int:
        node = len(self._nodes)
        if path.is_dir():
            folder = self._nodes[node] = Folder()
            for child in path.iterdir():
                folder.safe[child.name] = folder.now[child.name] = self._take(child)
        else:
            content = path.read_bytes()
            self._nodes[node] = File(content, content)
        return node

    def holds(self, path: Path) -> bool:
        return path == self._root or self._root in path.parents

    def _find(self, path: Path) -> int:
        node = self._top
        for name in path.relative_to(self._root).parts:
            folder = self._nodes[node]
            assert isinstance(folder, Folder)
            node = folder.now[name]
        return node

    def _change(self, *changes: tuple[Path, int | None]) -> None:
        sides: dict[int, dict[str, int | None]] = {}
        for path, node in changes:
            sides.setdefault(self._find(path.parent), {})[path.name] = node
        for place, side in sides.items():
            folder = self._nodes[place]
            assert isinstance(folder, Folder)
            _apply(folder.now, side)
        if self._journal:
            self._unsynced.append(Change(sides))
        else:
            self._unsynced.extend(Change({place: side}) for place, side in sides.items())

    def create(self, path: Path) -> None:
        node = len(self._nodes)
        self._nodes[node] = Folder() if path.is_dir() else File(b"", b"")
        self._change((path, node))

    def rename(self, path: Path, target: Path) -> None:
        self._change((path, None), (target, self._find(path)))

    def remove(self, path: Path) -> None:
        self._change((path, None))

    def write(self, path: Path) -> None:
        file = self._nodes[self._find(path)]
        assert isinstance(file, File)
        file.now = path.read_bytes()

    def sync(self, path: Path) -> None:
        place = self._find(path)
        node = self._nodes[place]
        if isinstance(node, File):
            node.safe = node.now
            return
        for change in [change for change in self._unsynced if place in change.sides]:
            for other, side in change.sides.items():
                folder = self._nodes[other]
                assert isinstance(folder, Folder)
                _apply(folder.safe, side)
            self._unsynced.remove(change)

    def now(self) -> Tree:
        """The tree as processes see it."""
        return self._tree(self._unsynced, {})

    def dropped(self) -> Tree:
        """The tree with all lost that may be."""
        return self._tree([], {node: file.safe for node, file in self._files()})

    def crashes(self) -> Iterator[Tree]:
        """The trees that a crash at this moment may leave."""
        dirty = {node: file for node, file in self._files() if file.now != file.safe}
        contents: list[dict[int, bytes]] = [{}, {node: file.safe for node, file in dirty.items()}]
        for node, file in dirty.items():
            half = file.now[: len(file.now) // 2]
            torn = (file.safe, half, half + bytes(len(file.now) - len(half)), bytes(len(file.now)))
            contents.extend({node: content} for content in torn)
        for kept, content in itertools.product(self._subsets(), contents):
            yield self._tree(kept, content)

    def _subsets(self) -> Iterator[list[Change]]:
        changes = self._unsynced
        if len(changes) <= MOST_SUBSETS:
            for pick in itertools.product((True, False), repeat=len(changes)):
                yield list(itertools.compress(changes, pick))
            return
        for number in range(len(changes) + 1):
            yield changes[:number]
            yield changes[number:]
            yield changes[number : number + 1]
            yield changes[:number] + changes[number + 1 :]

    def _files(self) -> list[tuple[int, File]]:
        return [(node, file) for node, file in self._nodes.items() if isinstance(file, File)]

    def _tree(self, kept: list[Change], contents: Mapping[int, bytes]) -> Tree:
        entries = {node: dict(folder.safe) for node, folder in self._nodes.items() if isinstance(folder, Folder)}
        for change in kept:
            for place, side in change.sides.items():
                _apply(entries[place], side)
        tree: dict[str, bytes | None] = {}

        def walk(place: int, prefix: str) -> None:
            for name, node in entries[place].items():
                found = self._nodes[node]
                if isinstance(found, File):
                    tree[prefix + name] = contents.get(node, found.now)
                else:
                    tree[prefix + name] = None
                    walk(node, f"{prefix}{name}/")

        walk(self._top, "")
        return tree


class Watch:
    """Follows every step that this process takes below `root`, by the functions of `os`; `on_step` is called after
    each. With `steps`, the process is killed when it wants to take one more."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, *, journal: bool = True) -> None:
        self.disk = Disk(root, journal=journal)
        self.taken = 0
        self.steps: int | None = None
        self.on_step: Callable[[], None] = lambda: None
        self._open: dict[int, Path] = {}
        self._patch_open(patch)
        for name, note in {"mkdir": self.disk.create, "unlink": self.disk.remove, "rmdir": self.disk.remove}.items():
            self._patch_paths(patch, name, note)
        for name in ("rename", "replace"):
            self._patch_paths(patch, name, self.disk.rename)
        for name in ("write", "pwrite", "ftruncate"):
            self._patch_descriptors(patch, name, self.disk.write)
        self._patch_descriptors(patch, "fsync", self.disk.sync)

    def end_process(self) -> None:
        """What the system does for one that was killed; the next may take as many steps as it likes."""
        for descriptor in list(self._open):
            os.close(descriptor)
        self.steps = None

    def _take(self, act: Callable[[], Any], note: Callable[[], None]) -> Any:
        if self.steps is not None and self.taken >= self.steps:
            raise Killed
        result = act()
        note()
        self.taken += 1
        self.on_step()
        return result

    def _patch_paths(self, patch: pytest.MonkeyPatch, name: str, note: Callable[..., None]) -> None:
        real = getattr(os, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            paths = [Path(arg) for arg in args if isinstance(arg, str | Path)]
            if not self.disk.holds(paths[0]):
                return real(*args, **kwargs)
            return self._take(lambda: real(*args, **kwargs), lambda: note(*paths))

        patch.setattr(os, name, step)

    def _patch_descriptors(self, patch: pytest.MonkeyPatch, name: str, note: Callable[[Path], None]) -> None:
        real = getattr(os, name)

        def step(descriptor: int, *args: Any) -> Any:
            path = self._open.get(descriptor)
            if path is None:
                return real(descriptor, *args)
            return self._take(lambda: real(descriptor, *args), lambda: note(path))

        patch.setattr(os, name, step)

    def _patch_open(self, patch: pytest.MonkeyPatch) -> None:
        real_open, real_close = os.open, os.close

        def opened(path: str | Path, flags: int, *args: Any, **kwargs: Any) -> int:
            place = Path(path)
            if not self.disk.holds(place):
                return real_open(path, flags, *args, **kwargs)
            if flags & os.O_CREAT and not place.exists():
                note = self.disk.create
            elif flags & os.O_TRUNC:
                note = self.disk.write
            else:
                descriptor = real_open(path, flags, *args, **kwargs)
                self._open[descriptor] = place
                return descriptor
            descriptor = self._take(lambda: real_open(path, flags, *args, **kwargs), lambda: note(place))
            self._open[descriptor] = place
            return int(descriptor)

        def closed(descriptor: int) -> None:
            self._open.pop(descriptor, None)
            real_close(descriptor)

        patch.setattr(os, "open", opened)
        patch.setattr(os, "close", closed)


def write_tree(tree: Tree, root: Path) -> None:
    for path, content in tree.items():
        if content is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)


def read_tree(root: Path) -> Tree:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))
    }
