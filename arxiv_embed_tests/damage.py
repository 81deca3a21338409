"""Damage: what disks, crashes and people do to files; by name, or at random over a whole tree of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from random import Random

FEW_BYTES = 64


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, truncate, empty, delete)


def files_below(folder: Path) -> dict[str, bytes]:
    """Path within the folder → content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def changed_byte(content: bytes, random: Random) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ random.randrange(1, 256)]) + content[place + 1 :]


def cut_off(content: bytes, random: Random) -> bytes:
    return content[: random.choice([0, len(content) - 1, random.randrange(len(content))])]


def grown(content: bytes, random: Random) -> bytes:
    return content + random.choice([b"\n", b" ", b"\0", random.randbytes(random.randrange(1, FEW_BYTES))])


def random_damage(
    files: Mapping[str, bytes], names: Sequence[str], random: Random, older: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The new contents of one or two of the files `names`; `older` holds what was once under a name."""
    kinds = [changed_byte, cut_off, grown, "swapped", *(["older"] if older else [])]
    kind = random.choice(kinds)
    if kind == "swapped":
        first, second = random.sample(names, 2)
        return {first: files[second], second: files[first]}
    if kind == "older":
        name = random.choice(sorted(older))
        return {name: older[name]}
    assert callable(kind)
    name = random.choice(names)
    return {name: kind(files[name], random)}


def try_random_damages(
    folder: Path,
    names: Sequence[str],
    check: Callable[[Collection[str], Random], None],
    *,
    seed: int,
    count: int,
    older: Mapping[str, bytes] | None = None,
) -> None:
    """Damages the files `names` of a folder `count` times, each time anew, and calls `check` with the names of those
    that differ then from what they were; it raises where something bad is believed, or not reported."""
    files = files_below(folder)
    for number in range(count):
        random = Random(seed * 1_000_000 + number)
        damaged = random_damage(files, names, random, older or {})
        for name, content in damaged.items():
            (folder / name).write_bytes(content)
        try:
            check([name for name, content in damaged.items() if content != files[name]], random)
        except BaseException as error:
            error.add_note(f"damage {number} of seed {seed}, of {sorted(damaged)}")
            raise
        _put_back(folder, files)


def _put_back(folder: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(folder)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
