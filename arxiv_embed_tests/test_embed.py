"""Runs: what is done again and what is not, after changes, kills, damage and full disks.

The pool is a fake where only the decision to embed matters; the files, the store and the killed processes are real.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arxiv_embed.embed
import arxiv_embed.equipment
import arxiv_embed.plan
from arxiv_embed.checkpoint.atomic import NoSpace
from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.segments import Segments
from arxiv_embed.embed import embed_shard, papers_table
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu.faults import NoDeviceLeft
from arxiv_embed.metadata.paper import Paper
from arxiv_embed.plan import embeddings_key, papers_key, plan_run
from arxiv_embed.record import ProgressReader, progress_path
from arxiv_embed.reuse import OWN, Origin, Source
from arxiv_embed.run import Run
from arxiv_embed_tests.damage import DAMAGES, flip
from arxiv_embed_tests.desk import Desk, record
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.small_disk import grow, small_disk


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk = Desk(tmp_path)
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", desk.pool)
    monkeypatch.setattr(arxiv_embed.plan, "resolve_model", cache(resolve_model))  # it reads all the weights
    desk.put("a.jsonl", record("2401.00001"), record("2401.00002"), record("2401.00003"))
    return desk


ALL_A = ["2401.00001", "2401.00002", "2401.00003"]


def test_a_second_run_has_nothing_to_do(desk: Desk) -> None:
    assert desk.pending() == {"a.jsonl": ("read", "embed", "store")}
    assert desk.run() == ALL_A
    assert sorted(desk.stored()) == ALL_A
    before = desk.rows()
    assert desk.pending() == {}
    assert desk.run() == []
    assert desk.rows() == before
    assert desk.pool.open == 0


def test_a_step_done_twice_in_one_run_changes_nothing(desk: Desk) -> None:
    assert desk.run(steps=("read", "embed", "store", "read", "embed", "store")) == ALL_A
    assert len(desk.rows()) == 9


def test_a_touched_file_takes_no_time_of_a_device_and_claims_none(desk: Desk) -> None:
    desk.run()
    rows = desk.rows()
    os.utime(desk.folder / "a.jsonl", ns=(7 * 10**9, 7 * 10**9))
    assert desk.pending() == {"a.jsonl": ("read", "embed", "store")}
    assert desk.run() == []
    assert desk.pending() == {}
    assert desk.rows() == rows
    [event] = desk.events("shard_embedded")
    assert (event["papers"], event["resumed"]) == (3, 3)
    assert (event["embedded_tokens"], event["padded_tokens"], event["seconds"]) == (0, 0, 0)


def test_only_a_changed_abstract_is_embedded_again(desk: Desk) -> None:
    desk.run()
    desk.put("a.jsonl", record("2401.00001"), record("2401.00002", "Something new."), record("2401.00004"))
    assert desk.run() == ["2401.00002", "2401.00004"]
    assert desk.stored()["2401.00002"] == "Something new."
    assert sorted(desk.stored()) == ["2401.00001", "2401.00002", "2401.00004"]
    assert len(desk.rows()) == 9
    for row in desk.rows():
        text = f"On {row['paper_id']}\n\n{desk.stored()[row['paper_id']]}"
        assert row["text_sha256"] == Paper("x", 0, *text.split("\n\n"), "", (), "", "", False).text_sha256
        assert row["end_char"] <= len(text)


def test_a_change_of_what_is_not_embedded_reaches_the_store_without_a_device(desk: Desk) -> None:
    desk.run()
    desk.put("a.jsonl", *({**record(name), "categories": "math.CO"} for name in ALL_A))
    assert desk.run() == []
    assert {tuple(row["categories"]) for row in desk.rows()} == {("math.CO",)}


def test_another_space_is_embedded_apart_and_leaves_the_first_as_it_is(desk: Desk) -> None:
    desk.run()
    before = desk.rows()
    assert desk.run(chunker="whole") == ALL_A
    assert desk.rows() == before
    assert desk.pending() == {}
    assert desk.pending(chunker="whole") == {}


def test_a_fresh_start_does_everything_again_and_keeps_what_was_as_backup(desk: Desk) -> None:
    desk.run()
    old = {path.name: path.read_bytes() for path in desk.files("*", "g*")}
    assert desk.pending(fresh=True) == {"a.jsonl": ("read", "embed", "store")}
    assert desk.run(fresh=True) == ALL_A
    now = {path.name: path.read_bytes() for path in desk.files("*", "g*")}
    assert old.items() <= now.items()
    flip(desk.files("embeddings", "g000002.vectors.arrow")[0])
    checkpoint = desk.checkpoints.load(embeddings_key("a.jsonl", desk.space))
    assert checkpoint is not None
    assert checkpoint.manifest.generation == 1


def test_a_fresh_start_that_fails_leaves_the_old_checkpoint_in_use(desk: Desk) -> None:
    desk.run()
    desk.pool.fail_after = 1
    with pytest.raises(RuntimeError):
        desk.run(fresh=True)
    assert len(desk.files("embeddings", "g*.manifest.json")) == 1
    desk.pool.fail_after = None
    assert desk.run(fresh=True) == ALL_A  # nothing of the failed one counts


def test_a_fresh_start_that_was_ended_early_is_gone_on_with(desk: Desk) -> None:
    desk.put("b.jsonl", record("2402.00001"), record("2402.00002"))
    desk.run()
    desk.pool.fail_after, desk.pool.fault = 4, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_counted(desk, fresh=True)
    desk.pool.fail_after = None
    assert desk.pending() == {"b.jsonl": ("embed", "store")}
    assert desk.run() == ["2402.00002"]  # the first of the two had become a segment
    assert desk.pending() == {}
    for shard in ("a.jsonl", "b.jsonl"):
        manifest = desk.checkpoints.manifest(embeddings_key(shard, desk.space))
        assert manifest is not None
        assert manifest.generation == 2


def run_counted(desk: Desk, **options: Any) -> None:
    """A run whose pool counts papers over all its calls before it fails."""
    encode, done = desk.pool.encode, 0

    def counted(*arguments: Any, **named: Any) -> Iterator[Any]:
        nonlocal done
        limit, desk.pool.fail_after = desk.pool.fail_after, None
        for outcome in encode(*arguments, **named):
            if done == limit:
                raise desk.pool.fault
            done += 1
            yield outcome
        desk.pool.fail_after = limit

    desk.pool.encode = counted  # type: ignore[method-assign]
    try:
        desk.run(**options)
    finally:
        desk.pool.encode = encode  # type: ignore[method-assign]


def test_a_limit_is_kept_and_later_runs_only_add(desk: Desk) -> None:
    desk.put("b.jsonl", record("2402.00001"), record("2402.00002"))
    assert desk.run(limit=2) == ["2401.00001", "2401.00002"]
    assert desk.pending(limit=2) == {}
    assert desk.run(limit=1) == []
    assert desk.run(limit=4) == ["2401.00003", "2402.00001"]
    assert sorted(desk.stored()) == [*ALL_A, "2402.00001"]
    assert desk.run() == ["2402.00002"]
    assert desk.run(limit=1) == []
    assert desk.pending() == {}


def test_a_crash_between_checkpoint_and_store_is_repaired_without_a_device(desk: Desk) -> None:
    desk.run(steps=("read", "embed"))
    assert desk.pending() == {"a.jsonl": ("store",)}
    assert desk.run() == []
    assert sorted(desk.stored()) == ALL_A
    assert desk.pending() == {}


def test_a_lost_store_is_filled_again_from_checkpoints(desk: Desk) -> None:
    desk.run()
    rows = desk.rows()
    shutil.rmtree(desk.settings.store)
    assert desk.run() == []
    assert [{**row, "run_id": ""} for row in desk.rows()] == [{**row, "run_id": ""} for row in rows]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("asset", "name", "again"),
    [
        ("papers", "g000001.papers.arrow", []),
        ("papers", "g000001.manifest.json", []),
        ("embeddings", "g000001.vectors.arrow", ALL_A),
        ("embeddings", "g000001.manifest.json", ALL_A),
    ],
)
def test_a_damaged_checkpoint_is_made_again_in_the_same_run(
    desk: Desk, damage: Callable[[Path], None], asset: str, name: str, again: list[str]
) -> None:
    desk.run()
    rows = desk.rows()
    shutil.rmtree(desk.settings.store)  # so that the shard is needed again
    damage(desk.files(asset, name)[0])
    assert desk.run() == again
    assert desk.pending() == {}
    assert [{**row, "run_id": ""} for row in desk.rows()] == [{**row, "run_id": ""} for row in rows]
    if damage.__name__ != "delete":
        assert list((desk.settings.checkpoints / "quarantine").rglob(name))


def test_a_damaged_checkpoint_never_brings_an_older_source_back(desk: Desk) -> None:
    desk.run()
    desk.put("a.jsonl", record("2401.00001", "The new text."))
    desk.run(steps=("read", "embed"))
    flip(desk.files("papers", "g000002.papers.arrow")[0])
    flip(desk.files("embeddings", "g000002.vectors.arrow")[0])
    assert desk.run() == ["2401.00001"]
    assert desk.stored() == {"2401.00001": "The new text."}


def test_checkpoints_of_two_shards_exchanged_are_never_used(desk: Desk) -> None:
    desk.put("b.jsonl", record("2402.00001"))
    desk.run()
    rows = [{**row, "run_id": ""} for row in desk.rows()]
    shutil.rmtree(desk.settings.store)
    folders = [desk.files("embeddings", "", shard)[0] for shard in ("a.jsonl", "b.jsonl")]
    spare = folders[0].with_name("spare")
    folders[0].rename(spare)
    folders[1].rename(folders[0])
    spare.rename(folders[1])
    assert desk.run() == [*ALL_A, "2402.00001"]
    assert [{**row, "run_id": ""} for row in desk.rows()] == rows


def killed_in_the_middle(desk: Desk, papers: int = 60) -> int:
    """A real run killed by SIGKILL with segments saved; returns how many."""
    desk.put("a.jsonl", *(record(f"2401.{n:05d}") for n in range(papers)))
    command = [sys.executable, "-m", "arxiv_embed_tests.fake_pool", str(desk.folder), str(desk.home)]
    process = subprocess.Popen(command)
    while len(desk.files("embeddings", "segments/s*.arrow")) < 8:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not desk.files("embeddings", "g*.manifest.json")
    return len(desk.files("embeddings", "segments/s*.arrow"))


def test_a_run_killed_in_the_middle_of_a_shard_goes_on_from_its_segments(desk: Desk) -> None:
    saved = killed_in_the_middle(desk)
    assert ProgressReader(progress_path(desk.settings, "killed")).poll().papers_done >= saved
    segments = desk.files("embeddings", "segments/s*.arrow")
    for damage, path in zip(DAMAGES, segments[1:5], strict=True):
        damage(path)
    shutil.copy(segments[6], segments[5])  # exchanged
    embedded = desk.run()
    assert len(embedded) == 60 - (saved - 5)
    assert {f"2401.{n:05d}" for n in range(1, 6)} <= set(embedded)
    assert sorted(desk.stored()) == [f"2401.{n:05d}" for n in range(60)]
    assert len(desk.rows()) == 180
    assert not desk.files("embeddings", "segments")
    [event] = desk.events("shard_embedded")
    assert event["resumed"] == saved - 5
    rows = [{**row, "run_id": ""} for row in desk.rows()]
    desk.run(fresh=True)
    assert [{**row, "run_id": ""} for row in desk.rows()] == rows  # as if it had never been killed


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("a batch failed"), NoDeviceLeft("cpu:0 ended")])
def test_an_interrupted_shard_saves_what_is_finished(desk: Desk, fault: BaseException) -> None:
    desk.pool.fail_after, desk.pool.fault = 2, fault
    with pytest.raises(type(fault)):
        desk.run()
    assert desk.pool.open == 0
    [event] = desk.events("run_finished")
    assert event["state"] == ("interrupted" if isinstance(fault, KeyboardInterrupt) else "failed")
    desk.pool.fail_after = None
    assert desk.run() == ["2401.00003"]


def test_after_a_failed_shard_the_next_one_gets_a_pool_of_its_own(desk: Desk) -> None:
    """What the old workers still answer is of the failed shard."""
    desk.put("b.jsonl", record("2402.00001"))
    desk.pool.fail_after = 1
    with Run(desk.options, desk.settings, "run") as run:
        run.start(["a.jsonl", "b.jsonl"])
        run.read("a.jsonl")
        with pytest.raises(RuntimeError) as caught:
            run.embed("a.jsonl")
        run.journal.fail("a.jsonl", caught.value)
        assert run.journal.failed == {"a.jsonl": "RuntimeError: the device fell over"}
        assert desk.pool.open == 0
        desk.pool.fail_after = None
        run.read("b.jsonl")
        run.embed("b.jsonl")
        run.store("b.jsonl")
    progress = ProgressReader(progress_path(desk.settings, "run")).poll()
    assert (progress.state, list(progress.failed), progress.shards_done) == ("failed", ["a.jsonl"], 1)
    assert sorted(desk.stored()) == ["2402.00001"]


def test_a_paper_that_moves_between_shards_is_never_missing_at_the_end(desk: Desk) -> None:
    shared = record("2401.00003")
    desk.put("b.jsonl", record("2402.00001"))
    desk.run()
    desk.put("a.jsonl", record("2401.00001"))
    desk.put("b.jsonl", record("2402.00001"), shared)
    desk.run()
    assert sorted(desk.stored()) == ["2401.00001", "2401.00003", "2402.00001"]
    desk.put("a.jsonl", record("2401.00001"), shared)  # written first, while b's row still stands
    desk.put("b.jsonl", record("2402.00001"))
    desk.run()
    assert sorted(desk.stored()) == ["2401.00001", "2401.00003", "2402.00001"]
    assert desk.pending() == {}


def test_the_older_record_is_back_when_the_newer_shard_loses_the_paper(desk: Desk) -> None:
    desk.put("b.jsonl", record("2401.00002", "The newer text.", "2025-01-01"), record("2402.00001"))
    desk.run()
    assert desk.stored()["2401.00002"] == "The newer text."
    desk.put("b.jsonl", record("2402.00001"))
    desk.run()
    assert sorted(desk.stored()) == [*ALL_A, "2402.00001"]
    assert desk.stored()["2401.00002"].startswith("All there is")
    assert desk.pending() == {}
    assert desk.run() == []


def test_a_shard_without_a_single_paper_is_done_too(desk: Desk) -> None:
    (desk.folder / "a.jsonl").write_text('{"id": "2401.00001", "title": "no abstract"}\n{broken\n')
    assert desk.run() == []
    assert desk.pending() == {}
    with Run(desk.options, desk.settings, "look") as run:
        assert run.checkpoints.papers("a.jsonl").tables["rejects"].num_rows == 2
    desk.put("b.jsonl", record("2402.00001"))
    assert desk.run() == ["2402.00001"]


def test_a_full_disk_is_one_sentence_and_costs_nothing_that_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 3) as disk:
        desk = Desk(disk)
        monkeypatch.setattr(arxiv_embed.equipment, "Pool", desk.pool)
        desk.put("a.jsonl", record("2401.00001"))
        desk.run()
        rows = desk.rows()
        desk.put("b.jsonl", *(record(f"2402.{n:05d}") for n in range(700)))
        with pytest.raises(NoSpace, match=r"No space is left in .* run the same command again") as caught:
            desk.run()
        assert "\n" not in str(caught.value)
        assert desk.pool.open == 0
        assert desk.rows() == rows
        assert "b.jsonl" in desk.pending()
        grow(disk, 60)
        desk.run()
        assert len(desk.stored()) == 701
        assert desk.pending() == {}


# Fields of the records, and what is urgent


def test_a_changed_field_is_kept_and_takes_no_time_of_a_device(desk: Desk) -> None:
    desk.run()
    generations = desk.files("embeddings", "g*.manifest.json")
    desk.put("a.jsonl", *({**record(name), "doi": "10.1/2"} for name in ALL_A))
    assert desk.run() == []
    assert desk.pending() == {}
    assert desk.files("embeddings", "g*.manifest.json") == generations
    held = desk.checkpoints.load(papers_key("a.jsonl"))
    assert held is not None
    assert held.tables["papers"]["fields"].to_pylist() == ['{"doi":"10.1/2"}'] * 3


@pytest.mark.parametrize("priority", [(), ("field:doi",)])
def test_papers_read_before_fields_were_kept_are_read_again_and_not_embedded_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, priority: tuple[str, ...]
) -> None:
    with monkeypatch.context() as before:
        before.setattr(arxiv_embed.run, "papers_table", lambda papers: papers_table(papers).drop_columns("fields"))
        before.setattr(arxiv_embed.run, "covers", lambda papers, shard: False)
        desk.run()
    assert desk.pending() == {"a.jsonl": ("read", "embed", "store")}
    assert plan_run(desk.options, desk.settings).pending[0].reason == "read by an older version"
    assert desk.run(priority=priority) == []
    assert desk.pending() == {}
    held = desk.checkpoints.load(papers_key("a.jsonl"))
    assert held is not None
    assert held.tables["papers"]["fields"].to_pylist() == [""] * 3


def test_the_pool_is_told_which_of_the_papers_left_are_urgent(desk: Desk) -> None:
    desk.put("a.jsonl", *(record(f"2401.{n:05d}") for n in range(1, 7)))
    desk.run(limit=2)
    desk.run(priority=("ids:2401.00002,2401.00003", "ids:2401.00006"))
    assert desk.pool.urgent == [None, [True, False, False, True]]
    embedded = [text.split("\n")[0] for text in desk.pool.embedded[2:]]
    assert embedded == [f"On 2401.{n:05d}" for n in (3, 6, 4, 5)]
    [event] = desk.events("papers_read")
    assert event["urgent"] == 3
    assert ProgressReader(progress_path(desk.settings, f"run-{desk.runs}")).poll().urgent == 3
    assert list(desk.stored()) == [f"2401.{n:05d}" for n in range(1, 7)]


def test_shards_that_hold_urgent_papers_come_first_each_group_in_its_order(desk: Desk) -> None:
    for name in "bcde":
        desk.put(f"{name}.jsonl", record(f"240{ord(name) - ord('a') + 1}.00001", updated="2023-01-01"))
    keys = [f"{name}.jsonl" for name in "abcde"]
    with Run(replace(desk.options, priority=("ids:2403.00001,2405.00001",)), desk.settings, "run") as run:
        assert run.urgent_first(keys) == keys  # not read yet, and nothing is known
        for key in keys:
            run.read(key)
        assert run.urgent_first(keys) == ["c.jsonl", "e.jsonl", "a.jsonl", "b.jsonl", "d.jsonl"]
    with Run(replace(desk.options, priority=("ids:2402.00001",)), desk.settings, "next") as run:
        assert run.urgent_first(keys)[0] == "b.jsonl"  # from what another run has read
    with Run(desk.options, desk.settings, "last") as run:
        assert run.urgent_first(keys) == keys


def test_a_priority_that_makes_no_sense_stops_a_run_before_it_begins(desk: Desk) -> None:
    with pytest.raises(ArxivEmbedError, match="--priority 'cs' is not understood"):
        Run(replace(desk.options, priority=("cs",)), desk.settings, "run")


# embed_shard, the plain function in the middle

PAPERS = papers_table(
    [Paper(f"p{n}", 1, f"Title {n}", f"Abstract {n}.", "", ("cs.LG",), "", "", False) for n in range(6)]
)
KEY = CheckpointKey("embeddings", "shard", "space")


def embed(
    folder: Path, pool: FakePool, papers: pa.Table = PAPERS, known: Sequence[pa.Table] = ()
) -> arxiv_embed.embed.Embedded:
    segments = Segments(folder, KEY)
    return embed_shard(papers, 8, lambda: pool, sources=[holding(*known, *segments.tables())], segments=segments)


def holding(*tables: pa.Table) -> Source:
    """A source that has these vectors, whatever it is asked for."""
    return lambda texts: [(Origin(OWN), table) for table in tables]


@given(order=st.permutations(range(6)), known=st.sets(st.integers(0, 5)), saved=st.sets(st.integers(0, 5)))
@settings(max_examples=30, deadline=None)
def test_whatever_the_order_and_whatever_is_known_the_vectors_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], known: set[int], saved: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    expected = embed(folder, FakePool(8)).vectors
    if saved:
        Segments(folder, KEY).append(embed(folder / "x", FakePool(8), PAPERS.take(sorted(saved))).vectors)
    held = [embed(folder / "x", FakePool(8), PAPERS.take(sorted(known, reverse=True))).vectors] if known else []
    left = len(set(range(6)) - known - saved)
    pool = FakePool(8, order=[place for place in order if place < left])
    embedded = embed(folder, pool, known=held)
    assert embedded.vectors.equals(expected)
    assert embedded.resumed == 6 - left
    assert len(pool.embedded) == left


def test_the_pool_is_not_asked_for_where_there_is_nothing_to_embed(tmp_path: Path) -> None:
    vectors = embed(tmp_path, FakePool(8)).vectors

    def no_pool() -> FakePool:
        raise AssertionError

    again = embed_shard(PAPERS, 8, no_pool, sources=[holding(vectors)], segments=Segments(tmp_path, KEY))
    assert again.vectors.equals(vectors)
    empty = embed_shard(PAPERS.slice(0, 0), 8, no_pool, sources=[holding(vectors)], segments=Segments(tmp_path, KEY))
    assert (empty.vectors.num_rows, empty.resumed) == (0, 0)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 5], []], ids=["left out", "twice", "none"])
def test_a_pool_that_leaves_a_paper_out_or_gives_one_twice_is_noticed(tmp_path: Path, order: list[int]) -> None:
    pool = FakePool(8, order=order)
    if not order:
        pool.order = None
        pool.encode = lambda *_, **__: iter(())  # type: ignore[method-assign,assignment]
    with pytest.raises(ArxivEmbedError, match=r"The devices gave back \d of 6 papers"):
        embed(tmp_path, pool)


def test_work_is_saved_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arxiv_embed.embed, "SEGMENT_SECONDS", 0.0)
    seen: list[int] = []
    pool = FakePool(8)
    segments = Segments(tmp_path, KEY)
    embed_shard(
        PAPERS,
        8,
        lambda: pool,
        segments=segments,
        on_segment=lambda count: seen.append(len(list(tmp_path.glob("s*.arrow")))),
    )
    assert seen == [1, 2, 3, 4, 5, 6]


def test_the_papers_checkpoint_names_its_source(desk: Desk) -> None:
    desk.run()
    manifest = desk.checkpoints.manifest(papers_key("a.jsonl"))
    assert manifest is not None
    assert manifest.details["folder"] == str(desk.folder)
    assert dict(manifest.counts) == {"records": 3, "papers": 3, "rejects": 0, "duplicates": 0, "withdrawn": 0}
    embeddings = desk.checkpoints.manifest(embeddings_key("a.jsonl", desk.space))
    assert embeddings is not None
    assert embeddings.source == manifest.source
    assert embeddings.details["space"]["model"] == "all-MiniLM-L6-v2"


def test_a_paper_that_no_device_can_embed_is_kept_with_its_reason_and_the_others_are_stored(desk: Desk) -> None:
    desk.put("a.jsonl", record("2401.00001"), record("2401.00002", "No more than poison."), record("2401.00003"))
    assert desk.run() == ["2401.00001", "2401.00003"]
    assert sorted(desk.stored()) == ["2401.00001", "2401.00003"]
    [failed] = desk.events("paper_failed")
    assert (failed["paper_id"], failed["reason"]) == ("2401.00002", "it ends the worker that embeds it")
    [incident] = desk.events("device_incident")
    assert (incident["device"], incident["what"]) == ("cpu:0", "lost")
    [event] = desk.events("shard_embedded")
    assert (event["papers"], event["failed"]) == (2, 1)
    loaded = desk.checkpoints.load(embeddings_key("a.jsonl", desk.space))
    assert loaded is not None
    assert loaded.tables["failures"].to_pylist() == [
        {"paper_id": "2401.00002", "reason": "it ends the worker that embeds it"}
    ]
    assert desk.pending() == {}

    desk.put("a.jsonl", record("2401.00001"), record("2401.00002", "Mended by its author."), record("2401.00003"))
    assert desk.run() == ["2401.00002"]
    assert sorted(desk.stored()) == ALL_A


def test_a_shard_of_which_no_paper_can_be_embedded_fails(desk: Desk) -> None:
    desk.put("a.jsonl", record("2401.00001", "All poison."))
    with pytest.raises(ArxivEmbedError, match="None of 1 papers could be embedded: of the first, it ends the worker"):
        desk.run()
    assert desk.pending() == {"a.jsonl": ("embed", "store")}


def test_a_paper_that_failed_is_tried_again_only_when_it_is_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put("a.jsonl", record("2401.00001"), record("2401.00002", "No more than poison."), record("2401.00003"))
    desk.run()
    monkeypatch.setattr("arxiv_embed_tests.fake_pool.POISON", "nothing of the sort")
    assert desk.pending() == {}
    assert desk.pending(retry_failed=True) == {"a.jsonl": ("embed", "store")}
    assert desk.run(retry_failed=True) == ["2401.00002"]
    assert sorted(desk.stored()) == ALL_A
    assert desk.pending(retry_failed=True) == {}


@pytest.fixture
def half_done(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Two of three papers are embedded, each a segment, when the run is interrupted."""
    monkeypatch.setattr(arxiv_embed.embed, "SEGMENT_PAPERS", 1)
    desk.pool.fail_after, desk.pool.fault = 2, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        desk.run()
    desk.pool.fail_after = None
    assert len(desk.files("embeddings", "segments/s*.arrow")) == 2
    return desk


def told_by(desk: Desk, **options: Any) -> list[str]:
    """What a run says while it embeds the shard."""
    told: list[str] = []
    with Run(replace(desk.options, **options), desk.settings, "telling", told.append) as run:
        run.start(["a.jsonl"])
        run.read("a.jsonl")
        run.embed("a.jsonl")
    return told


def test_a_half_done_shard_is_gone_on_with_and_it_is_said(half_done: Desk) -> None:
    before = len(half_done.pool.embedded)
    assert "a.jsonl: goes on from 2 segments" in told_by(half_done)
    assert len(half_done.pool.embedded) - before == 1


def test_after_a_change_of_the_source_unchanged_papers_of_a_half_done_shard_are_kept(half_done: Desk) -> None:
    half_done.put("a.jsonl", record("2401.00001", "This has changed."), record("2401.00002"), record("2401.00003"))
    before = len(half_done.pool.embedded)
    told = told_by(half_done)
    reason = "2 of another content: papers whose text has changed start clean"
    assert f"a.jsonl: goes on from 2 segments, {reason}" in told
    assert len(half_done.pool.embedded) - before == 2
    assert not half_done.files("embeddings", "segments")


def test_in_another_space_a_half_done_shard_starts_clean_and_says_why(half_done: Desk) -> None:
    before = len(half_done.pool.embedded)
    told = told_by(half_done, chunker="whole")
    reason = f"starts clean, as its segments are of another space ({half_done.space.fingerprint})"
    assert f"a.jsonl: {reason}" in told
    assert len(half_done.pool.embedded) - before == 3
    assert len(half_done.files("embeddings", "segments/s*.arrow")) == 2  # they are gone on with in their own space


def test_a_fresh_start_that_is_tried_again_in_its_run_goes_on_from_its_own_segments(
    half_done: Desk,
) -> None:
    half_done.pool.fail_after, half_done.pool.fault = 1, RuntimeError("the device fell over")
    before = len(half_done.pool.embedded)
    with Run(replace(half_done.options, fresh=True), half_done.settings, "fresh") as run:
        run.start(["a.jsonl"])
        run.read("a.jsonl")
        with pytest.raises(RuntimeError):
            run.embed("a.jsonl")
        half_done.pool.fail_after = None
        run.embed("a.jsonl")
    assert len(half_done.pool.embedded) - before == 3


def test_many_finished_papers_become_a_segment_before_their_time_has_come(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arxiv_embed.embed, "SEGMENT_PAPERS", 2)
    desk.put("a.jsonl", *(record(f"2401.0000{n}") for n in range(1, 6)))
    desk.run()
    assert [event["papers"] for event in desk.events("segment")] == [2, 2]


def test_finished_papers_become_a_segment_in_time_though_no_more_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that takes long over its next batch keeps nothing at risk that is finished."""
    monkeypatch.setattr(arxiv_embed.embed, "SEGMENT_SECONDS", 0.05)
    saved: list[int] = []

    class Slow(FakePool):
        def encode(self, *arguments: Any, on_tick: Callable[[], None], **options: Any) -> Iterator[Any]:
            for outcome in super().encode(*arguments, **options):
                yield outcome
                time.sleep(0.1)
                on_tick()
                assert sum(saved) == len(self.embedded)

    segments = Segments(tmp_path, KEY)
    embed_shard(PAPERS, 8, lambda: Slow(8), segments=segments, on_segment=saved.append)
    assert sum(saved) == 6


def test_a_fresh_start_does_each_step_once_however_often_it_is_tried(desk: Desk) -> None:
    desk.run()
    before = len(desk.pool.embedded)
    with Run(replace(desk.options, fresh=True), desk.settings, "fresh") as run:
        run.start(["a.jsonl"])
        for step in (run.read, run.embed, run.read, run.embed):
            step("a.jsonl")
    assert len(desk.pool.embedded) - before == 3
    for key in (papers_key("a.jsonl"), embeddings_key("a.jsonl", desk.space)):
        manifest = desk.checkpoints.manifest(key)
        assert manifest is not None
        assert manifest.generation == 2


def test_a_paper_that_fails_again_is_tried_once_a_run(desk: Desk) -> None:
    desk.put("a.jsonl", record("2401.00001"), record("2401.00002", "No more than poison."))
    desk.run()
    with Run(replace(desk.options, retry_failed=True), desk.settings, "again") as run:
        run.start(["a.jsonl"])
        for step in (run.read, run.embed, run.embed):
            step("a.jsonl")
    manifest = desk.checkpoints.manifest(embeddings_key("a.jsonl", desk.space))
    assert manifest is not None
    assert manifest.generation == 2


def test_a_plan_counts_the_papers_of_shards_that_are_done_which_no_device_could_embed(desk: Desk) -> None:
    desk.put("a.jsonl", record("2401.00001"), record("2401.00002", "No more than poison."))
    desk.run()
    assert plan_run(desk.options, desk.settings).failed_papers == 1
    assert plan_run(replace(desk.options, retry_failed=True), desk.settings).failed_papers == 0
