"""Random damage to a tree of checkpoints: none is believed, none crashes a reader, every one is reported."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from arxiv_embed.checkpoint.manifest import CheckpointKey, Source
from arxiv_embed.checkpoint.quarantine import RECORD, Damage
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed_tests.damage import files_below, flip, try_random_damages

KEYS = [
    CheckpointKey("embeddings", shard, space) for shard in ("cs.jsonl", "math.jsonl") for space in ("0" * 16, "f" * 16)
]
CASES, DAMAGES_EACH = 10, 500
Item = tuple[str, str, str]
"""What is damaged as a whole: shard, space, and a generation ("g000002") or a segment's file."""


def table(*rows: str) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([float(len(row)) for row in rows], pa.float32()), 1)
    return pa.table({"paper_id": list(rows), "vector": vectors})


def content(key: CheckpointKey, generation: int) -> list[str]:
    return [f"{key.shard} {key.space} {generation}", "another"]


def segment(key: CheckpointKey, number: int) -> str:
    return f"{key.shard} {key.space} segment {number}"


def build(root: Path) -> None:
    """Two generations and two segments of each, and one generation set aside."""
    store = CheckpointStore(root)
    for key in KEYS:
        for generation in (1, 2):
            contents = {"vectors": table(*content(key, generation))}
            if key is KEYS[0]:
                contents["failures"] = pa.table({"paper_id": [f"failed {generation}"]})
            store.commit(
                key, contents, source=Source("signature", "c"), counts={"papers": 2}, run_id=f"run {generation}"
            )
        segments = store.segments(key, "c")
        for number in (1, 2):
            segments.append(table(segment(key, number)))
    bad = CheckpointKey("papers", "bad.jsonl")
    store.commit(bad, {"papers": table("x")}, source=Source("s", "c"), counts={}, run_id="run")
    flip(next(root.glob("papers/-/bad.jsonl/*.arrow")))
    assert store.load(bad) is None


def item(name: str) -> Item:
    """What a file's path within the store belongs to."""
    _, space, shard, *_, file = name.split("/")
    return shard, space, file[:7] if file.startswith("g") else file


def item_of(damage: Damage) -> Item:
    return damage.shard, damage.space, damage.file[:7] if damage.file.startswith("g") else damage.file


def check(root: Path, changed: Collection[str], random: Random) -> None:
    """That exactly the damage of the files `changed` is found, by `verify` and by who reads."""
    hurt = {item(name) for name in changed if not name.endswith(RECORD)}
    found: list[Damage] = []
    store = CheckpointStore(root, found.append)
    assert {item_of(verified.damage) for verified in store.verify(repair=False) if verified.damage} == hurt
    assert len(found) == len(hurt)
    found.clear()
    for key in {random.choice(KEYS), *(key for key in KEYS for shard, space, _ in hurt if of(key) == (shard, space))}:
        whole = [number for number in (2, 1) if (*of(key), f"g{number:06d}") not in hurt]
        assert read(store, key, random) == (content(key, whole[0]) if whole else None)
        hurt_segments = {int(name[1:7]) + 1 for *where, name in hurt if tuple(where) == of(key) and name[0] == "s"}
        texts = [part["paper_id"][0].as_py() for part in store.segments(key, "c").tables()]
        assert texts == [segment(key, number) for number in (1, 2) if number not in hurt_segments]
    # A damaged backup is not read while the newest is whole.
    met = {(*where, name) for *where, name in hurt if name != "g000001" or (*where, "g000002") in hurt}
    assert sorted(item_of(damage) for damage in found) == sorted(met)
    aside = store.quarantined()
    assert len(aside) == len(met) + 1
    assert set(found) <= set(aside)
    record_is_whole = not any(name.endswith(RECORD) for name in changed)
    assert ("bad.jsonl" in {damage.shard for damage in aside}) == record_is_whole


def of(key: CheckpointKey) -> tuple[str, str]:
    return key.shard, key.space


def read(store: CheckpointStore, key: CheckpointKey, random: Random) -> list[str] | None:
    """By one of the ways to read a checkpoint."""
    way = random.choice(["load", "reader", "batches"])
    if way == "load":
        loaded = store.load(key)
        return None if loaded is None else loaded.tables["vectors"]["paper_id"].to_pylist()
    reader = store.reader(key)
    if reader is None:
        return None
    if way == "reader":
        return reader.table("vectors")["paper_id"].to_pylist()
    return [row for batch in reader.batches("vectors", ["paper_id"]) for row in batch["paper_id"].to_pylist()]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", range(CASES))
def test_no_random_damage_is_believed_and_every_one_is_reported(in_memory: Path, seed: int) -> None:
    root = in_memory / "checkpoints"
    build(root)
    names = [
        name
        for name in files_below(root)
        if name.endswith(RECORD) or (re.search(r"/[gs]0000", name) and not name.startswith("quarantine/"))
    ]
    assert len(names) == len(KEYS) * (2 * 2 + 2) + 2 + 1
    try_random_damages(root, names, lambda changed, random: check(root, changed, random), seed=seed, count=DAMAGES_EACH)
