"""Plans: what remains to be done, told from listings, manifests and the store alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from arxiv_embed.checkpoint.manifest import Source
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.embed import papers_table, rejects_table
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.plan import embeddings_key, papers_key, plan_run, stored_identity
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.rows import row_schema
from arxiv_embed.vectors import vectors_schema
from arxiv_embed_tests.metadata.permissions import permissions_bind


@pytest.fixture
def options(settings: Settings, tmp_path: Path) -> RunOptions:
    folder = tmp_path / "metadata"
    folder.mkdir()
    for name in ("a", "b", "c"):
        write(folder, name)
    return RunOptions(folder, settings.store, settings.checkpoints, devices="cpu:1")


def write(folder: Path, name: str, count: int = 2) -> None:
    lines = [
        {"id": f"2401.{n:05d}", "title": f"{name} {n}", "abstract": f"{name} {n}", "categories": "cs.LG"}
        for n in range(count)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def finish(options: RunOptions, settings: Settings, *keys: str, steps: int = 3) -> None:
    """Does the first so many steps of these shards, without vectors worth the name."""
    plan = plan_run(options, settings)
    checkpoints = CheckpointStore(options.checkpoints)
    for key in keys:
        shard = plan.of(key).shard
        with ShardReader() as reader:
            content = reader.load(shard)
        papers = checkpoints.commit(
            papers_key(key),
            {"papers": papers_table(content.papers), "rejects": rejects_table(content.rejects)},
            source=Source(shard.signature, content.sha256),
            counts={"records": content.records, "papers": len(content.papers)},
            run_id="run",
            details={
                "folder": str(shard.folder),
                "folders": sorted({file.rpartition("/")[0] for file in shard.files}),
                "file": shard.files[0],
                "limit": shard.limit,
            },
        )
        if steps < 2:
            continue
        vectors = checkpoints.commit(
            embeddings_key(key, plan.space),
            {"vectors": vectors_schema(plan.space.dimensions).empty_table()},
            source=papers.source,
            counts={},
            run_id="run",
        )
        if steps < 3:
            continue
        rows: pa.Table = row_schema(plan.space.dimensions).empty_table()
        LanceStore(Path(options.store)).write_shard(plan.space, key, rows, stored_identity(papers, vectors))


def steps(options: RunOptions, settings: Settings) -> dict[str, tuple[tuple[str, ...], str]]:
    return {shard.shard.key: (shard.steps, shard.reason) for shard in plan_run(options, settings).pending}


def test_a_plan_says_which_step_each_shard_still_needs_and_why(options: RunOptions, settings: Settings) -> None:
    assert steps(options, settings) == {f"{n}.jsonl": (("read", "embed", "store"), "new") for n in "abc"}
    finish(options, settings, "a.jsonl", steps=1)
    finish(options, settings, "b.jsonl", steps=2)
    finish(options, settings, "c.jsonl", steps=3)
    plan = plan_run(options, settings)
    assert steps(options, settings) == {
        "a.jsonl": (("embed", "store"), "not embedded"),
        "b.jsonl": (("store",), "not in the store"),
    }
    assert not plan.of("c.jsonl").pending
    assert plan.papers == plan.of("a.jsonl").shard.records
    write(options.metadata_dir, "c", 3)
    assert steps(options, settings)["c.jsonl"] == (("read", "embed", "store"), "source changed")
    assert set(steps(replace(options, fresh=True), settings).values()) == {(("read", "embed", "store"), "fresh start")}


def test_papers_read_again_make_their_embeddings_due(options: RunOptions, settings: Settings) -> None:
    finish(options, settings, "a.jsonl")
    write(options.metadata_dir, "a", 5)
    finish(options, settings, "a.jsonl", steps=1)
    assert steps(options, settings)["a.jsonl"] == (("embed", "store"), "source changed")


def test_a_limit_takes_the_first_papers_and_no_more(options: RunOptions, settings: Settings) -> None:
    plan = plan_run(replace(options, limit=3), settings)
    assert [(shard.shard.key, shard.shard.limit) for shard in plan.shards] == [("a.jsonl", 3), ("b.jsonl", 1)]
    finish(replace(options, limit=3), settings, "a.jsonl", "b.jsonl")
    assert steps(replace(options, limit=3), settings) == {}
    assert steps(replace(options, limit=2), settings) == {}
    assert set(steps(replace(options, limit=4), settings)) == {"a.jsonl", "b.jsonl"}


def test_a_plan_changes_nothing_on_disk(options: RunOptions, settings: Settings) -> None:
    finish(options, settings, "a.jsonl", steps=2)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in settings.home.rglob("*"))
    plan_run(options, settings)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in settings.home.rglob("*")) == before
    assert not Path(options.store).exists()


def test_planning_reads_no_metadata_and_no_vectors(
    options: RunOptions, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(options, settings, "a.jsonl", "b.jsonl", "c.jsonl")
    opened: list[str] = []
    queries: list[str] = []
    read_bytes, shards = Path.read_bytes, LanceStore.shards

    def recorded_read(self: Path) -> bytes:
        opened.append(self.name)
        return read_bytes(self)

    def recorded_shards(self: LanceStore, space: str) -> Any:
        queries.append(space)
        return shards(self, space)

    monkeypatch.setattr(Path, "read_bytes", recorded_read)
    monkeypatch.setattr(LanceStore, "shards", recorded_shards)
    assert steps(options, settings) == {}
    assert not [name for name in opened if name.endswith((".arrow", ".jsonl"))]
    assert opened.count("g000001.manifest.json") == 6
    assert len(queries) == 1  # not one a shard


def test_planning_loads_neither_torch_nor_transformers(options: RunOptions, settings: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from arxiv_embed.plan import plan_run; "
        "from arxiv_embed.settings import *; s = settings_from_environment({'ARXIV_EMBED_HOME': sys.argv[2]}); "
        "plan_run(RunOptions(Path(sys.argv[1]), s.store, s.checkpoints), s); "
        "print([m for m in ('torch', 'transformers', 'dagster') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(options.metadata_dir), str(settings.home)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_in_another_space_all_is_to_be_done_beside_what_the_store_holds(
    options: RunOptions, settings: Settings
) -> None:
    finish(options, settings, "a.jsonl")
    same = plan_run(options, settings)
    assert (len(same.pending), same.beside) == (2, ())
    for other in (replace(options, chunker="whole"), replace(options, max_tokens=64)):
        plan = plan_run(other, settings)
        assert (len(plan.pending), plan.beside) == (3, (same.space,))


def test_two_folders_of_equal_names_do_not_overwrite_each_other(
    options: RunOptions, settings: Settings, tmp_path: Path
) -> None:
    finish(options, settings, "a.jsonl")
    other = tmp_path / "other"
    other.mkdir()
    write(other, "a")
    with pytest.raises(ArxivEmbedError, match=r"Checkpoints of a shard 'a\.jsonl' from .* are kept here"):
        plan_run(replace(options, metadata_dir=other), settings)
    (options.metadata_dir / "a.jsonl").unlink()  # the first is gone: the second may take its place
    assert "a.jsonl" in steps(replace(options, metadata_dir=other), settings)


def test_a_folder_by_another_name_is_the_same_folder(options: RunOptions, settings: Settings, tmp_path: Path) -> None:
    finish(options, settings, "a.jsonl", "b.jsonl", "c.jsonl")
    (tmp_path / "link").symlink_to(options.metadata_dir)
    assert steps(replace(options, metadata_dir=tmp_path / "link"), settings) == {}
    assert steps(replace(options, metadata_dir=options.metadata_dir / ".." / "metadata"), settings) == {}


@pytest.mark.parametrize("content", [None, "a note", ""])
def test_a_folder_without_metadata_is_one_sentence(settings: Settings, tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if content is not None:
        (folder / "README.txt").write_text(content)
    options = RunOptions(folder, settings.store, settings.checkpoints)
    with pytest.raises(ArxivEmbedError, match=r"is empty|No file in .* README\.txt") as caught:
        plan_run(options, settings)
    assert "\n" not in str(caught.value)
    with pytest.raises(ArxivEmbedError, match="There is no metadata folder"):
        plan_run(replace(options, metadata_dir=folder / "none"), settings)


def test_an_unknown_shard_is_one_sentence(options: RunOptions, settings: Settings) -> None:
    with pytest.raises(ArxivEmbedError, match="There is no shard 'x' in the metadata folder"):
        plan_run(options, settings).of("x")


def test_the_identity_in_the_store_changes_with_either_checkpoint(options: RunOptions, settings: Settings) -> None:
    finish(options, settings, "a.jsonl", "b.jsonl", "c.jsonl")
    os.utime(options.metadata_dir / "a.jsonl", ns=(1, 1))
    finish(options, settings, "a.jsonl", steps=1)  # touched: the same content
    assert steps(options, settings) == {}
    write(options.metadata_dir, "b", 3)
    finish(options, settings, "b.jsonl", steps=2)
    assert steps(options, settings) == {"b.jsonl": (("store",), "not in the store")}


def test_shards_of_which_some_files_cannot_be_read_for_now_stay_as_they_are(
    options: RunOptions, settings: Settings
) -> None:
    folder = options.metadata_dir
    (folder / "sub").mkdir()
    write(folder / "sub", "d")
    for place in ("2402.00001", "sub/2402.00002", "2403.00001"):
        (folder / f"{place}.json").write_text('{"title": "A title", "abstract": "Some words"}')
    keys = ("a.jsonl", "b.jsonl", "c.jsonl", "sub/d.jsonl", "month:2402", "month:2403")
    finish(options, settings, *keys)
    (folder / "2402.00003.json").write_text('{"title": "A title", "abstract": "Some words"}')
    (folder / "2403.00001.json").unlink()
    (folder / "2403.00002.json").write_text('{"title": "A title", "abstract": "Some words"}')
    (folder / "sub").chmod(0o000)
    with permissions_bind():
        assert set(steps(options, settings)) == {"month:2403"}
        assert plan_run(options, settings).listed == set(keys)
        month = plan_run(replace(options, fresh=True), settings).of("month:2402").shard
        with ShardReader() as reader, pytest.raises(ArxivEmbedError, match=r"sub could not be read"):
            reader.load(month)
    (folder / "sub").chmod(0o700)
    assert set(steps(options, settings)) == {"month:2402", "month:2403"}
    (folder / "sub" / "d.jsonl").unlink()
    assert plan_run(options, settings).listed == set(keys) - {"sub/d.jsonl"}


def test_a_month_of_which_one_file_cannot_be_read_for_now_stays_as_it_is(
    options: RunOptions, settings: Settings
) -> None:
    folder = options.metadata_dir
    for name in ("2402.00001", "2402.00002", "2403.00001"):
        (folder / f"{name}.json").write_text('{"title": "A title", "abstract": "Some words"}')
    finish(options, settings, "a.jsonl", "b.jsonl", "c.jsonl", "month:2402", "month:2403")
    lost = folder / "2402.00002.json"
    lost.unlink()
    lost.symlink_to(lost)
    assert steps(options, settings) == {}
    lost.unlink()
    assert set(steps(options, settings)) == {"month:2402"}
