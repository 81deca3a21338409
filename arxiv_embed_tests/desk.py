"""A user's desk: a metadata folder, a home, options, and a pool that says what it was given to embed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.encoding.space import Space
from arxiv_embed.plan import plan_run
from arxiv_embed.record import progress_path
from arxiv_embed.settings import RunOptions, settings_from_environment
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed_tests.fake_pool import FakePool, run_shards


def record(name: str, abstract: str = "", updated: str = "2024-01-01") -> dict[str, Any]:
    return {
        "id": name,
        "title": f"On {name}",
        "abstract": abstract or f"All there is to say on {name}.",
        "categories": "cs.LG",
        "update_date": updated,
    }


class Desk:
    """One user's folder, home and options, and the pool that sees what is embedded."""

    def __init__(self, top: Path) -> None:
        self.folder = top / "metadata"
        self.folder.mkdir(parents=True)
        self.home = top / "home"
        self.settings = settings_from_environment({"ARXIV_EMBED_HOME": str(self.home)})
        self.options = RunOptions(self.folder, self.settings.store, self.settings.checkpoints, devices="cpu:1")
        self.pool = FakePool()
        self.runs = 0

    def put(self, name: str, *records: dict[str, Any]) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in records))
        self.runs += 1
        os.utime(path, ns=(self.runs * 10**9, self.runs * 10**9))
        return path

    def run(self, *, steps: Sequence[str] = ("read", "embed", "store"), **options: Any) -> list[str]:
        """Runs what is pending; returns the papers whose texts took time of a device."""
        self.runs += 1
        before = len(self.pool.embedded)
        run_shards(replace(self.options, **options), self.home, f"run-{self.runs}", steps)
        return sorted(text.split("\n")[0].removeprefix("On ") for text in self.pool.embedded[before:])

    def pending(self, **options: Any) -> dict[str, tuple[str, ...]]:
        plan = plan_run(replace(self.options, **options), self.settings)
        return {shard.shard.key: shard.steps for shard in plan.pending}

    @cached_property
    def space(self) -> Space:
        return plan_run(self.options, self.settings).space

    @property
    def checkpoints(self) -> CheckpointStore:
        return CheckpointStore(self.settings.checkpoints)

    def rows(self) -> list[dict[str, Any]]:
        store = LanceStore(Path(self.settings.store))
        table = store._tables.get(f"rows_{self.space.fingerprint}")
        rows: list[dict[str, Any]] = table.to_arrow().sort_by("key").to_pylist()
        assert len({row["key"] for row in rows}) == len(rows)
        return rows

    def stored(self) -> dict[str, str]:
        """Paper → abstract, as the store has them."""
        return {row["paper_id"]: row["abstract"] for row in self.rows() if row["chunk_index"] == -1}

    def files(self, asset: str, name: str, shard: str = "a.jsonl") -> list[Path]:
        return sorted(self.settings.checkpoints.glob(f"{asset}/*/{shard}/{name}"))

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = progress_path(self.settings, f"run-{self.runs}").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]
