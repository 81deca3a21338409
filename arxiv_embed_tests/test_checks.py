"""Checks: each one holds of sound work, and says what is wrong with any other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import arxiv_embed.equipment
from arxiv_embed.checkpoint.store import Checkpoint
from arxiv_embed.checks import (
    CHECKS,
    SAMPLE,
    CheckFailed,
    CheckResult,
    check_embeddings,
    check_papers,
    check_store,
)
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import Match, TooSlow, VectorStore
from arxiv_embed_tests.conftest import EXAMPLES
from arxiv_embed_tests.fake_pool import FakePool, vectors_of

SHARD = "papers.jsonl"


@pytest.fixture
def run(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """One that has done a shard of sixty papers."""
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", FakePool())
    lines = (EXAMPLES / "kaggle-2007.jsonl").read_bytes().splitlines(keepends=True)
    with run_over(b"".join(lines[:60]), tmp_path, settings) as run:
        yield run


@contextmanager
def run_over(text: bytes, place: Path, settings: Settings) -> Iterator[Run]:
    """One that has done a shard of this text."""
    folder = place / "metadata"
    folder.mkdir()
    (folder / SHARD).write_bytes(text)
    options = RunOptions(folder, settings.store, settings.checkpoints, devices="cpu:1")
    with Run(options, settings, "run") as run:
        run.start([SHARD])
        run.read(SHARD)
        run.embed(SHARD)
        run.store(SHARD)
        yield run


def failed(results: Sequence[CheckResult]) -> dict[str, str]:
    """The names of those that do not hold, and why."""
    return {result.check.name: result.why for result in results if not result.passed}


def with_rows(checkpoint: Checkpoint, table: str, rows: pa.Table) -> Checkpoint:
    return Checkpoint(checkpoint.manifest, {**checkpoint.tables, table: rows})


def with_vectors(checkpoint: Checkpoint, change: Mapping[int, float] | float, dimensions: int = 384) -> Checkpoint:
    """The vectors multiplied by a number, all of them or some rows."""
    rows = checkpoint.tables["vectors"]
    matrix = np.stack(rows["vector"].to_numpy())[:, :dimensions].copy()
    for row, factor in change.items() if isinstance(change, Mapping) else [(slice(None), change)]:  # type: ignore[attr-defined]
        matrix[row] *= factor
    flat = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), dimensions)
    return with_rows(checkpoint, "vectors", rows.set_column(rows.schema.get_field_index("vector"), "vector", flat))


def of_papers(run: Run, change: Any) -> dict[str, str]:
    papers, _ = run.checkpoints.both(SHARD)
    return failed(check_papers(change(papers)))


def of_embeddings(run: Run, change: Any, *, whole: bool = True) -> dict[str, str]:
    papers, embeddings = run.checkpoints.both(SHARD)
    return failed(check_embeddings(papers, change(embeddings), run.space, whole=whole))


def test_sound_work_passes_every_check(run: Run) -> None:
    results = [
        result
        for asset in ("papers", "embeddings", "vector_store")
        for result in run.check(asset, SHARD, thorough=False)
    ]
    results.append(found := run.finish_store())
    assert found is not None
    assert found.numbers["recall@10"] == 1.0
    assert {result.check for result in results} == set(CHECKS)
    assert failed([result for result in results if result.check.name != "found_by_title"]) == {}


def test_a_record_that_is_not_accounted_for_is_noticed(run: Run) -> None:
    def lose(papers: Checkpoint) -> Checkpoint:
        return with_rows(papers, "papers", papers.tables["papers"].slice(1))

    assert of_papers(run, lose) == {"records_add_up": "60 records were read and 59 are accounted for"}


def test_a_paper_that_is_there_twice_is_noticed(run: Run) -> None:
    def double(papers: Checkpoint) -> Checkpoint:
        rows = papers.tables["papers"]
        return with_rows(papers, "papers", pa.concat_tables([rows.slice(1), rows.slice(1, 1)]))

    assert of_papers(run, double) == {"ids_unique": "1 papers are there twice"}


def test_a_paper_without_vector_and_without_reason_is_noticed(run: Run) -> None:
    def lose(embeddings: Checkpoint) -> Checkpoint:
        rows = embeddings.tables["vectors"]
        return with_rows(embeddings, "vectors", rows.filter(pc.not_equal(rows["paper_id"], rows["paper_id"][0])))

    assert of_embeddings(run, lose) == {"papers_add_up": "of 60 papers 59 are accounted for"}


def test_a_paper_that_failed_is_accounted_for_by_its_reason(run: Run) -> None:
    def fail(embeddings: Checkpoint) -> Checkpoint:
        rows = embeddings.tables["vectors"]
        paper = rows["paper_id"][0].as_py()
        failures = pa.Table.from_pylist(
            [{"paper_id": paper, "reason": "broke"}], schema=embeddings.tables["failures"].schema
        )
        kept = with_rows(embeddings, "vectors", rows.filter(pc.not_equal(rows["paper_id"], paper)))
        return with_rows(kept, "failures", failures)

    assert of_embeddings(run, fail) == {}


def test_a_chunk_that_is_there_twice_is_noticed(run: Run) -> None:
    def double(embeddings: Checkpoint) -> Checkpoint:
        rows = embeddings.tables["vectors"]
        return with_rows(embeddings, "vectors", pa.concat_tables([rows, rows.slice(1, 1)]))

    assert of_embeddings(run, double) == {"ids_unique": "1 chunks are there twice"}


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 0.0, 1.01])
def test_a_vector_that_is_not_finite_or_not_of_unit_length_is_noticed(run: Run, factor: float) -> None:
    found = of_embeddings(run, lambda embeddings: with_vectors(embeddings, {1: factor, 5: factor}))
    assert found == {"vectors_sound": "2 vectors are not finite or not of unit length"}


def test_vectors_of_another_dimension_are_noticed(run: Run) -> None:
    found = of_embeddings(run, lambda embeddings: with_vectors(embeddings, 1.0, dimensions=100))
    assert found["vectors_sound"] == "vectors have 100 dimensions and not 384"


def test_a_model_that_tells_nothing_apart_is_noticed(run: Run) -> None:
    def collapse(embeddings: Checkpoint) -> Checkpoint:
        rows = embeddings.tables["vectors"]
        same = pa.array([rows["vector"][0].as_py()] * rows.num_rows, rows.schema.field("vector").type)
        return with_rows(embeddings, "vectors", rows.set_column(rows.schema.get_field_index("vector"), "vector", same))

    found = of_embeddings(run, collapse)
    assert found == {"not_collapsed": "the mean cosine between papers is 1.000: the model tells nothing apart"}


def test_the_mean_cosine_is_that_of_all_pairs(run: Run) -> None:
    papers, embeddings = run.checkpoints.both(SHARD)
    [result] = [
        r for r in check_embeddings(papers, embeddings, run.space, whole=True) if r.check.name == "not_collapsed"
    ]
    rows = embeddings.tables["vectors"]
    whole = np.stack(rows.filter(pc.equal(rows["chunk_index"], -1))["vector"].to_numpy())
    assert len(whole) <= SAMPLE
    pairs = (whole @ whole.T)[~np.eye(len(whole), dtype=bool)]
    assert result.numbers["mean cosine"] == pytest.approx(pairs.mean(), abs=1e-4)


def test_a_damaged_file_is_told_by_the_checksum(run: Run) -> None:
    assert list(of_embeddings(run, lambda embeddings: embeddings, whole=False)) == ["checksum"]


def stored(run: Run, store: VectorStore | None = None, identity: str | None = None) -> dict[str, str]:
    papers, embeddings = run.checkpoints.both(SHARD)
    store = store or run._equipment.store()
    held = store.shards(run.space.fingerprint)[SHARD]
    titles = dict(
        zip(papers.tables["papers"]["title"].to_pylist(), papers.tables["papers"]["abstract"].to_pylist(), strict=True)
    )

    def encode(texts: Sequence[str]) -> dict[int, Any]:
        """As a model does that finds each paper by its title."""
        return {n: vectors_of(f"{text}\n\n{titles[text]}", run.space.dimensions)[0] for n, text in enumerate(texts)}

    return failed(check_store(store, papers, embeddings, run.space, SHARD, identity or held, encode))


def test_the_store_holds_what_the_checkpoint_says_and_finds_it(run: Run) -> None:
    assert stored(run) == {}


def test_another_checkpoint_in_the_store_is_noticed(run: Run) -> None:
    assert stored(run, identity="f" * 64) == {"holds_checkpoint": "the store holds another checkpoint of it"}


def test_papers_and_rows_that_the_store_has_lost_are_noticed(run: Run) -> None:
    store = run._equipment.store()
    table = store._tables.get(f"rows_{run.space.fingerprint}")  # type: ignore[attr-defined]
    table.delete("paper_id = '0704.0002' AND chunk_index = 1")
    assert "rows of it that are not the checkpoint's" in stored(run)["holds_checkpoint"]
    table.delete("paper_id = '0704.0002'")
    assert stored(run) == {"holds_checkpoint": "1 of its papers are not in the store"}


def test_a_paper_held_in_a_newer_record_is_not_missed(run: Run) -> None:
    store = run._equipment.store()
    table = store._tables.get(f"rows_{run.space.fingerprint}")  # type: ignore[attr-defined]
    table.update(where="paper_id = '0704.0002'", values={"shard": "newer.jsonl"})
    assert stored(run) == {}


def test_a_paper_that_its_title_does_not_find_is_noticed(run: Run) -> None:
    papers, embeddings = run.checkpoints.both(SHARD)
    identity = run._equipment.store().shards(run.space.fingerprint)[SHARD]

    def encode(texts: Sequence[str]) -> dict[int, Any]:
        return {n: -vectors_of("nothing of the kind", run.space.dimensions)[0] for n in range(len(texts))}

    found = failed(check_store(run._equipment.store(), papers, embeddings, run.space, SHARD, identity, encode))
    assert "cannot be found" in found["found_by_title"]


def test_what_a_failed_check_says_is_one_sentence_with_what_to_do() -> None:
    result = CheckResult(CHECKS[0], "60 records were read and 59 are accounted for")
    assert str(CheckFailed(SHARD, [result, replace(result, why="x")])) == (
        "What was made of shard 'papers.jsonl' is not sound, and is kept out of the store (60 records were read and 59 "
        "are accounted for; x): look at its source and its model, then do it again with --fresh."
    )


def test_a_shard_without_a_paper_holds(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", FakePool())
    with run_over(b'{"id": "0704.0001", "title": "cut off\n', tmp_path, settings) as run:
        for asset in ("papers", "embeddings", "vector_store"):
            assert failed(run.check(asset, SHARD, thorough=True)) == {}


def test_an_index_that_misses_neighbours_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nearest = LanceStore.nearest

    def forgetful(*args: Any, exact: bool = False, **options: Any) -> list[Match]:
        found = nearest(*args, exact=exact, **options)
        return found if exact else found[: len(found) // 2]

    monkeypatch.setattr(LanceStore, "nearest", forgetful)
    found = run.finish_store()
    assert found is not None
    assert found.why == "the index finds 50.0% of the nearest papers"


def test_a_store_that_cannot_compare_all_papers_in_time_fails_no_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nearest = LanceStore.nearest

    def slow(store: LanceStore, *args: Any, exact: bool = False, **options: Any) -> list[Match]:
        if exact:
            raise TooSlow(store.url, "canceling statement due to statement timeout")
        return nearest(store, *args, **options)

    monkeypatch.setattr(LanceStore, "nearest", slow)
    found = run.finish_store()
    assert found is not None
    assert (found.passed, found.numbers) == (True, {"papers": 0})
