"""The history: derived, never doubled, never believed where a byte is wrong."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import arxiv_embed.equipment
import arxiv_embed.history
from arxiv_embed.checkpoint.atomic import NoSpace, NotWritable
from arxiv_embed.checkpoint.lock import FileLock, Locked
from arxiv_embed.checkpoint.manifest import CheckpointKey, Source
from arxiv_embed.checkpoint.quarantine import Damage, Quarantine
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.errors import Kind
from arxiv_embed.events import (
    BatchDone,
    DeviceIncident,
    DevicesFound,
    ErrorMet,
    Event,
    PaperFailed,
    RunFinished,
    RunStarted,
)
from arxiv_embed.history import (
    DamagedHistory,
    Embedded,
    FailedShard,
    History,
    ProcessedFile,
    history_path,
    load_history,
    refresh_history,
)
from arxiv_embed.record import ProgressWriter, progress_path
from arxiv_embed.settings import RunOptions, Settings, settings_from_environment
from arxiv_embed.tally import KEPT_BATCHES, KEPT_RUNS
from arxiv_embed_tests.damage import DAMAGES
from arxiv_embed_tests.fake_pool import POISON, FakePool, run_shards
from arxiv_embed_tests.small_disk import small_disk

STORE, OTHER = "/data/stores/papers", "/data/stores/others"
SPACE = "0123456789abcdef"
NOON = 1_700_000_000.0
FAILURE = FailedShard("cpu:0 fell over", "transient", 3, "2023-11-14T22:13:20+00:00", "r1", "s", True)


def started(run_id: str, store: str = STORE) -> RunStarted:
    return RunStarted(run_id, "/metadata", ["a"], 100, 0, "m", SPACE, ["cpu:0"], store, {})


def batch(papers: int = 10, device: str = "cpu:0", seconds: float = 0.1, memory: int = 1000) -> BatchDone:
    return BatchDone("a.jsonl", device, papers, papers * 100, papers * 110, seconds, memory, memory)


def line(event: Event, time: float = NOON) -> bytes:
    return json.dumps({"time": time, "event": event.name, **asdict(event)}).encode() + b"\n"


def append(settings: Settings, run_id: str, *lines: bytes) -> None:
    path = progress_path(settings, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(lines))


def a_run(run_id: str, begins: float = NOON, store: str = STORE) -> list[bytes]:
    return [
        line(started(run_id, store), begins),
        line(DevicesFound([{"name": "cpu:0", "product": "a CPU"}, {"name": "cuda:0", "product": "H100"}]), begins + 1),
        line(batch(), begins + 2),
        line(batch(20, "cuda:0", 0.2, 5000), begins + 3),
        line(batch(30, "cuda:0", 0.3, 3000), begins + 4),
        line(DeviceIncident("a.jsonl", "cuda:0", "out of memory", "16 papers of 4000 tokens"), begins + 5),
        line(DeviceIncident("a.jsonl", "cuda:0", "back", ""), begins + 6),
        line(PaperFailed("a.jsonl", "2401.01234", "it could not be encoded: 5 tokens"), begins + 7),
        line(
            ErrorMet("b.jsonl", "transient", "postgresql://me:hunter2@host/db is away (7)", "again in 4 s"), begins + 8
        ),
        line(RunFinished("done", "", 9.0), begins + 9),
    ]


def refresh(
    settings: Settings, store: str = STORE, failed: dict[str, FailedShard] | None = None, space: str | None = None
) -> History:
    checkpoints = CheckpointStore(settings.checkpoints)
    return refresh_history(settings, store_url=store, checkpoints=checkpoints, spaces=space and [space], failed=failed)


def document(settings: Settings, store: str = STORE) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(history_path(settings, store).read_bytes())
    return parts


def backup_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.backup.json")


def forget(settings: Settings) -> None:
    shutil.rmtree(settings.history)


def made_again(settings: Settings, **arguments: Any) -> History:
    forget(settings)
    return refresh(settings, **arguments)


def same(one: History, two: History) -> bool:
    """But for when they were written; in every byte."""
    return replace(one, last_update="").to_json() == replace(two, last_update="").to_json()


def commit(
    settings: Settings,
    shard: str,
    space: str = SPACE,
    sha256: str = "c",
    embedded: str | None = None,
    run_id: str = "r1",
    reused: int | None = 1,
) -> None:
    """Both checkpoints of a shard; its vectors are of the content `embedded`."""
    store = CheckpointStore(settings.checkpoints)
    table = pa.table({"paper_id": ["p", "q"]})
    store.commit(
        CheckpointKey("papers", shard),
        {"papers": table},
        source=Source("s", sha256),
        counts={"papers": 2},
        run_id=run_id,
    )
    store.commit(
        CheckpointKey("embeddings", shard, space),
        {"vectors": table, "failures": table.slice(0, 1)},
        source=Source("s", sha256 if embedded is None else embedded),
        counts={"papers": 1, "chunks": 5, "failed": 1, **({} if reused is None else {"resumed": reused})},
        run_id=run_id,
    )


def test_the_document_is_readable_and_has_the_parts_it_promises(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1"))
    commit(settings, "a.jsonl")
    history = refresh(settings, failed={"b.jsonl": FAILURE})
    path = history_path(settings, STORE)
    text = path.read_text()
    assert text.splitlines()[:3] == ["{", '  "metadata": {', '    "version": "2.0",']
    parts = json.loads(text)
    assert list(parts) == [
        "metadata",
        "processed_files",
        "failed_files",
        "gpu_stats",
        "performance_history",
        "error_patterns",
    ]
    assert parts["metadata"]["database"] == STORE
    assert re.fullmatch(r"[0-9a-f]{64}", parts["metadata"]["checksum"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", parts["metadata"]["last_update"])
    assert parts["metadata"]["records"]["r1"]["bytes"] == progress_path(settings, "r1").stat().st_size
    (done,) = parts["processed_files"].values()
    assert (done["source_sha256"], done["generation"], done["papers"]) == ("c", 1, 2)
    space = done["spaces"][SPACE]
    assert (space["generation"], space["papers"], space["chunks"], space["rows"], space["failed_papers"]) == (
        1,
        1,
        5,
        2,
        1,
    )
    assert (space["run_id"], space["reused_papers"]) == ("r1", 1)
    assert parts["failed_files"] == {"b.jsonl": asdict(FAILURE)}
    assert load_history(path) == history


def test_a_document_of_before_reused_papers_were_counted_is_whole_and_brought_up_to_date(settings: Settings) -> None:
    commit(settings, "a.jsonl", reused=None)
    content = refresh(settings).to_json()
    assert b"reused_papers" not in content
    assert History.from_json(content).to_json() == content
    commit(settings, "b.jsonl", reused=0)
    assert refresh(settings).processed_files["b.jsonl"].spaces[SPACE].reused_papers == 0


def test_what_the_devices_did_and_met_is_summed_up(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1"))
    refresh(settings)
    parts = document(settings)
    assert parts["gpu_stats"]["cuda:0"] == {
        "product": "H100",
        "last_found": "2023-11-14T22:13:21.000+00:00",
        "papers": 50,
        "tokens": 5000,
        "seconds": 0.5,
        "batches": 2,
        "peak_memory_bytes": 5000,
        "incidents": {"out of memory": 1, "back": 1},
    }
    performance = parts["performance_history"]["cuda:0"]
    assert performance["batches"] == [
        {
            "time": "2023-11-14T22:13:23.000+00:00",
            "papers": 20,
            "tokens": 2000,
            "seconds": 0.2,
            "peak_memory_bytes": 5000,
        },
        {
            "time": "2023-11-14T22:13:24.000+00:00",
            "papers": 30,
            "tokens": 3000,
            "seconds": 0.3,
            "peak_memory_bytes": 3000,
        },
    ]
    assert performance["runs"] == [
        {
            "run_id": "r1",
            "began": "2023-11-14T22:13:20.000+00:00",
            "papers": 50,
            "tokens": 5000,
            "seconds": 0.5,
            "papers_per_second": 100.0,
            "tokens_per_second": 10000.0,
        }
    ]
    found = {(pattern["signature"], pattern["kind"], *pattern["where"]) for pattern in parts["error_patterns"]}
    assert found == {
        ("out of memory: # papers of # tokens", "resource", "cuda:0"),
        ("it could not be encoded: # tokens", "data", "a.jsonl"),
        ("<url> is away (#)", "transient", "b.jsonl"),
    }
    assert "hunter2" not in history_path(settings, STORE).read_text()


def test_a_refresh_with_nothing_new_changes_nothing(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1"))
    assert same(refresh(settings), refresh(settings))


def test_only_what_was_done_for_the_database_counts(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1"))
    append(settings, "r2", *a_run("r2", store=OTHER))
    # A record before its first start, and one whose retry went to another store.
    append(
        settings,
        "r3",
        line(batch(1000)),
        line(started("r3")),
        line(batch(1)),
        line(started("r3", OTHER)),
        line(batch(7)),
    )
    assert refresh(settings).gpu_stats["cpu:0"].papers == 11
    assert refresh(settings, OTHER).gpu_stats["cpu:0"].papers == 17
    assert history_path(settings, STORE) != history_path(settings, OTHER)


def test_a_database_stays_the_same_when_its_password_changes(settings: Settings) -> None:
    old, new = "postgresql://me:hunter1@host/papers", "postgresql://me:hunter2@host/papers"
    append(settings, "r1", *a_run("r1", store=old))
    append(settings, "r2", *a_run("r2", store="postgresql://me:***@host/papers"))
    assert refresh(settings, new).gpu_stats["cpu:0"].batches == 2
    path = history_path(settings, old)
    assert path == history_path(settings, new)
    assert "hunter" not in path.name + path.read_text()


def test_a_record_that_grows_is_gone_on_with_and_its_run_is_not_doubled(settings: Settings) -> None:
    with ProgressWriter(progress_path(settings, "r1")) as writer:
        writer.write(started("r1"))
        for n in range(1, 5):
            writer.write(batch(n))
            (run,) = refresh(settings).performance_history["cpu:0"].runs
            assert run.papers == n * (n + 1) // 2
        writer.write(started("r1"))  # a retry
        writer.write(batch(100))
    history = refresh(settings)
    (run,) = history.performance_history["cpu:0"].runs
    assert (run.papers, run.papers_per_second) == (110, 220.0)
    assert history.gpu_stats["cpu:0"].batches == 5


LINES = st.one_of(
    st.builds(line, st.builds(started, st.just("r"), st.sampled_from([STORE, OTHER])), st.floats(NOON, NOON + 9)),
    st.builds(
        line,
        st.builds(batch, st.integers(0, 9), st.sampled_from(["cpu:0", "cuda:1"]), st.floats(0, 1), st.integers(0, 99)),
        st.floats(NOON, NOON + 9),
    ),
    st.builds(
        line,
        st.builds(ErrorMet, st.sampled_from("ab"), st.sampled_from(list(Kind)), st.text(max_size=9), st.just("")),
        st.floats(NOON, NOON + 9),
    ),
    st.sampled_from(a_run("r")),
    st.binary(max_size=9).map(lambda cut: cut.replace(b"\n", b"") + b"\n"),
)


@given(
    st.lists(st.lists(LINES, max_size=12).map(b"".join), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 300), st.booleans()), max_size=30),
)
def test_records_taken_in_piece_by_piece_add_up_to_what_they_say_as_a_whole(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], pieces: list[tuple[int, int, bool]]
) -> None:
    """Whatever the pieces, also in the middle of lines, in whatever order, the document written and read between."""
    settings = settings_from_environment({"ARXIV_EMBED_HOME": str(tmp_path_factory.mktemp("home"))})
    grown, left = History(STORE), list(records)
    grown.take_in(settings.runs)
    for n, size, read_again in [*pieces, *((n, sys.maxsize, True) for n in range(3))]:
        if n < len(left):
            append(settings, f"r{n}", left[n][:size])
            left[n] = left[n][size:]
        grown.take_in(settings.runs)
        if read_again:
            grown = History.from_json(grown.to_json())
    whole = History(STORE)
    whole.take_in(settings.runs)
    assert grown == whole
    assert grown.to_json() == whole.to_json()


def test_a_history_made_again_equals_the_one_that_grew_run_by_run(settings: Settings) -> None:
    failed = {"b.jsonl": FAILURE}
    for n in range(KEPT_RUNS + 5):
        append(settings, f"r{n:02d}", *a_run(f"r{n:02d}", NOON + 100 * n))
        if n % 8 == 0:
            commit(settings, f"{n}.jsonl")
            commit(settings, f"{n}.jsonl")
            grown = refresh(settings, failed=failed)
    append(settings, "r00", *a_run("r00", NOON + 10_000))  # a retry of a run that is no longer among the last
    grown = refresh(settings, failed=failed)
    assert grown.gpu_stats["cpu:0"].batches == KEPT_RUNS + 6
    assert [run.run_id for run in grown.performance_history["cpu:0"].runs] == [
        f"r{n:02d}" for n in range(5, KEPT_RUNS + 5)
    ]
    assert grown.processed_files["0.jsonl"].spaces[SPACE].generation == 2
    assert same(made_again(settings, failed=failed), grown)


def test_a_history_of_which_only_the_backup_is_left_is_brought_up_to_date(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1"))
    refresh(settings)
    append(settings, "r2", *a_run("r2", NOON + 60))
    grown = refresh(settings)
    path = history_path(settings, STORE)
    path.unlink()
    reported: list[Damage] = []
    assert load_history(path, reported.append) is not None
    assert [damage.file for damage in reported] == [path.name]
    assert same(refresh(settings), grown)


def test_the_last_hundred_batches_of_a_long_run_are_kept(settings: Settings) -> None:
    lines = [line(batch(1, seconds=0.001), NOON + n / 100) for n in range(20_000)]
    append(settings, "r1", line(started("r1")), *lines)
    history = refresh(settings)
    kept = history.performance_history["cpu:0"].batches
    assert len(kept) == KEPT_BATCHES
    assert (kept[0].time, kept[-1].time) == ("2023-11-14T22:16:39.000+00:00", "2023-11-14T22:16:39.990+00:00")
    assert (history.gpu_stats["cpu:0"].batches, history.gpu_stats["cpu:0"].seconds) == (20_000, 20.0)


def test_a_clock_that_is_set_back_an_hour_breaks_nothing(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1", NOON))
    refresh(settings)
    append(settings, "r2", *a_run("r2", NOON - 3600))
    append(settings, "r1", *a_run("r1", NOON - 3000))
    grown = refresh(settings)
    pattern = grown.error_patterns.patterns()[0]
    assert (pattern.count, pattern.first[11:19], pattern.last[11:19]) == (
        3,
        *sorted([pattern.first[11:19], pattern.last[11:19]]),
    )
    assert pattern.first < "2023-11-14T21:14" < "2023-11-14T22:13" < pattern.last
    assert [(run.run_id, run.papers) for run in grown.performance_history["cpu:0"].runs] == [("r2", 10), ("r1", 20)]
    times = [batch.time for batch in grown.performance_history["cuda:0"].batches]
    assert times == sorted(times)
    assert same(made_again(settings), grown)


def test_lines_that_a_kill_or_a_full_disk_has_cut_are_passed_over(settings: Settings) -> None:
    lines = a_run("r1")
    append(settings, "r1", *lines)
    expected = refresh(settings)
    halves = [half[:cut] + b"\n" for half in lines for cut in range(len(half) - 1)]
    progress_path(settings, "r1").write_bytes(b"".join([*halves[::2], *lines, *halves[1::2]]))
    found = made_again(settings)
    assert found.gpu_stats == expected.gpu_stats
    assert found.error_patterns == expected.error_patterns
    assert found.performance_history == expected.performance_history


NONSENSE: list[Any] = [
    *(None, [], 12, "batch", {}, {"event": "batch"}, {"event": []}, {"event": "run_started", "store": 5, "time": 1}),
    {"event": "devices_found", "devices": [{"name": "cuda:9", "product": "x"}, {"name": 7}], "time": 1},
    {"event": "device_incident", "device": "cpu:0", "what": None, "detail": "", "time": 1},
    {"event": "paper_failed", "reason": 5, "time": 1, "shard": "a"},
    {"event": "error", "kind": "unknown", "message": "x", "time": 1, "shard": "a"},
    {"event": "error", "kind": "data", "message": "x", "time": 1e300, "shard": "a"},
    {"event": "error", "kind": "data", "message": "x", "time": "now", "shard": "a"},
    *(
        {**json.loads(line(batch())), name: value}
        for name in ("papers", "tokens", "seconds", "peak_memory", "device", "time")
        for value in (None, [], "many", -1, 10**30, float("nan"))
        if not (name == "device" and value == "many") and not (name == "time" and value == -1)
    ),
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda value: json.dumps(value)[:60])
def test_a_line_that_makes_no_sense_changes_nothing(settings: Settings, nonsense: object) -> None:
    append(settings, "r1", line(started("r1")), json.dumps(nonsense).encode() + b"\n", line(batch(3)))
    history = refresh(settings)
    assert list(history.gpu_stats) == ["cpu:0"]
    assert (history.gpu_stats["cpu:0"].papers, history.gpu_stats["cpu:0"].batches) == (3, 1)
    assert history.error_patterns.patterns() == []
    assert load_history(history_path(settings, STORE)) == history


def test_names_that_are_no_utf_8_can_be_written_and_read(settings: Settings) -> None:
    stray = b"caf\xe9.jsonl".decode("utf-8", "surrogateescape")
    error = ErrorMet(stray, "permanent", f"[Errno 2] No such file: {stray}", "given up")
    append(settings, "r1", line(started("r1")), line(error), line(batch(device="名前")))
    history = refresh(settings, failed={stray: replace(FAILURE, error=f"{stray}: password=hunter2")})
    assert load_history(history_path(settings, STORE)) == history
    (pattern,) = history.error_patterns.patterns()
    assert pattern.where == {"caf\\udce9.jsonl": 1}
    assert history.failed_files["caf\\udce9.jsonl"].error == "caf\\udce9.jsonl: password=***"
    assert "名前" in history_path(settings, STORE).read_text()


def test_a_record_that_is_gone_is_forgotten_and_what_it_said_is_kept(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1"))
    append(settings, "r2", *a_run("r2"))
    before = refresh(settings)
    shutil.rmtree(progress_path(settings, "r1").parent)
    after = refresh(settings)
    assert list(after.records) == ["r2"]
    assert after.gpu_stats == before.gpu_stats


def test_a_record_that_lost_its_end_with_the_power_is_gone_on_with(settings: Settings) -> None:
    append(settings, "r1", *a_run("r1"))
    refresh(settings)
    path = progress_path(settings, "r1")
    path.write_bytes(path.read_bytes()[:-5])
    assert refresh(settings).gpu_stats["cpu:0"].papers == 10
    append(settings, "r1", b"\n", line(batch(7)))
    assert refresh(settings).gpu_stats["cpu:0"].papers == 17


def test_shards_are_processed_where_their_vectors_are_of_what_was_last_read(settings: Settings) -> None:
    commit(settings, "a.jsonl")
    commit(settings, "a.jsonl", space="fedcba9876543210")
    commit(settings, "b.jsonl", space="fedcba9876543210")
    commit(settings, "changed.jsonl", sha256="new", embedded="old")
    assert {shard: list(file.spaces) for shard, file in refresh(settings).processed_files.items()} == {
        "a.jsonl": [SPACE, "fedcba9876543210"],
        "b.jsonl": ["fedcba9876543210"],
    }
    assert list(refresh(settings, space=SPACE).processed_files) == ["a.jsonl"]


def test_failed_files_stay_as_they_are_where_nothing_is_said_of_them(settings: Settings) -> None:
    refresh(settings, failed={"b": FAILURE, "a": FAILURE})
    assert list(refresh(settings).failed_files) == ["a", "b"]
    assert refresh(settings, failed={}).failed_files == {}


def test_two_stores_never_share_a_document(settings: Settings) -> None:
    urls = [
        "/a/papers",
        "/b/papers",
        "/a/papers/",
        "postgresql://h/papers",
        "postgresql://h/papers?x=1",
        "/a/Papers",
        "/",
        "é",
    ]
    urls += ["/a/papers.backup", "/" + "x" * 300, "/" + "x" * 299, "postgresql://me:hunter2@h/papers"]
    paths = [history_path(settings, url) for url in urls]
    assert len({str(path).lower() for path in [*paths, *map(backup_of, paths)]}) == 2 * len(urls)
    assert {path.parent for path in paths} == {settings.history}
    assert paths[0].name.startswith("papers-")


TEXT = st.text(max_size=12)
COUNTS = st.integers(0, 2**40)
PROCESSED = st.builds(
    ProcessedFile,
    TEXT,
    COUNTS,
    COUNTS,
    st.dictionaries(TEXT, st.builds(Embedded, *[COUNTS] * 5, TEXT, TEXT, st.none() | COUNTS), max_size=2),
)
FAILED = st.builds(FailedShard, TEXT, TEXT, COUNTS, TEXT, TEXT, TEXT, st.booleans())


@given(TEXT, TEXT, st.dictionaries(TEXT, PROCESSED, max_size=3), st.dictionaries(TEXT, FAILED, max_size=3))
def test_a_history_comes_back_from_its_bytes(
    database: str, updated: str, processed: dict[str, ProcessedFile], failed: dict[str, FailedShard]
) -> None:
    history = History(database, last_update=updated, processed_files=processed, failed_files=failed)
    assert History.from_json(history.to_json()) == history


def resealed(content: bytes) -> bytes:
    """With the checksum that fits, as somebody would write it who knows how it is made."""
    zeros = re.sub(rb'("checksum": ")[0-9a-f]{64}', rb"\g<1>" + b"0" * 64, content, count=1)
    return zeros.replace(b"0" * 64, hashlib.sha256(zeros).hexdigest().encode(), 1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b'"version": "2.0"', b'"version": "3.0"', "its format is 3.0, not 2.0"),
        (b'"version": "2.0"', b'"version": 2.0', "its format is 2.0"),
        (b'"failed_files": {', b'"failed_files": {},\n  "failed_files": {', "checksum"),
        (b'    "database":', b'    "database": "x",\n    "database":', "checksum"),
        (b'"papers": 10', b'"papers": 11', ""),
        (b"  ", b"\t", "checksum"),
        (b"\n", b"\r\n", "checksum"),
        (b'"gpu_stats": {', b'"more": 1,\n  "gpu_stats": {', "checksum"),
        (b'"gpu_stats"', b'"gpu_statistics"', "gpu_stats"),
        (b'"batches": 1,', b'"batches": 1,\n      "more": 1,', "more"),
        (b'"kind": "data"', b'"kind": "odd"', "odd"),
    ],
)
def test_a_document_that_is_no_history_of_this_format_is_refused_whatever_its_checksum(
    settings: Settings, old: bytes, new: bytes, reason: str
) -> None:
    append(settings, "r1", *a_run("r1"))
    content = refresh(settings, failed={"b": FAILURE}).to_json()
    assert resealed(content) == content
    changed = content.replace(old, new, 1)
    assert changed != content
    with pytest.raises(DamagedHistory):
        History.from_json(changed)
    if reason:
        with pytest.raises(DamagedHistory, match=reason):
            History.from_json(resealed(changed))


def test_no_byte_can_change_and_no_end_be_lost_unnoticed(settings: Settings) -> None:
    append(settings, "r1", line(started("r1")), line(batch()))
    content = refresh(settings).to_json()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        for damaged in (bytes(changed), content[:place]):
            with pytest.raises(DamagedHistory):
                History.from_json(damaged)


@pytest.fixture
def grown(settings: Settings) -> Path:
    """The path of a document with a backup."""
    for n in range(2):
        append(settings, f"r{n}", *a_run(f"r{n}", NOON + 60 * n))
        refresh(settings, failed={"b.jsonl": FAILURE})
    return history_path(settings, STORE)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_document_is_set_aside_and_its_backup_used(
    settings: Settings, grown: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    older = History.from_json(backup_of(grown).read_bytes())
    newer = load_history(grown)
    assert newer is not None
    damage(grown)
    damaged = grown.read_bytes() if grown.exists() else None
    reported: list[Damage] = []
    assert load_history(grown, reported.append) == older
    (told,) = reported
    assert (told.file, told.remedy) == (grown.name, "its backup is used")
    assert grown.name in caplog.text
    if damaged is not None:
        assert (Path(told.place) / grown.name).read_bytes() == damaged
        assert Quarantine(settings.history / "quarantine").damages() == [told]
    assert not grown.exists()
    assert same(refresh(settings), newer)


@pytest.mark.parametrize("damage", DAMAGES[:-1])
def test_a_damaged_backup_is_set_aside_and_reported_though_the_document_is_whole(
    settings: Settings, grown: Path, damage: Callable[[Path], None]
) -> None:
    newer = load_history(grown)
    damage(backup_of(grown))
    reported: list[Damage] = []
    assert load_history(grown, reported.append) == newer
    assert [(told.file, told.remedy) for told in reported] == [
        (backup_of(grown).name, "the next refresh keeps another")
    ]
    refresh(settings)
    assert History.from_json(backup_of(grown).read_bytes()) == newer


def test_with_document_and_backup_damaged_the_history_is_made_again(settings: Settings, grown: Path) -> None:
    newer = load_history(grown)
    assert newer is not None
    for path in (grown, backup_of(grown)):
        DAMAGES[0](path)
    reported: list[Damage] = []
    assert load_history(grown, reported.append) is None
    assert {told.remedy for told in reported} == {"it is made again from the checkpoints and the runs' records"}
    assert {told.file for told in reported} == {grown.name, backup_of(grown).name}
    assert same(refresh(settings, failed={"b.jsonl": FAILURE}), newer)


def test_where_there_is_no_history_nothing_is_reported(settings: Settings) -> None:
    reported: list[Damage] = []
    assert load_history(history_path(settings, STORE), reported.append) is None
    refresh(settings)
    assert load_history(history_path(settings, STORE), reported.append) is not None
    assert reported == []


def test_an_older_document_in_the_place_of_the_new_is_made_right_by_the_next_refresh(
    settings: Settings, grown: Path
) -> None:
    """It is whole, so it cannot be told from the right one; it says itself how far it goes."""
    newer = load_history(grown)
    assert newer is not None
    older = backup_of(grown).read_bytes()
    backup_of(grown).write_bytes(grown.read_bytes())
    grown.write_bytes(older)
    reported: list[Damage] = []
    assert load_history(grown, reported.append) == History.from_json(older)
    assert reported == []
    assert same(refresh(settings), newer)


def damaged(chance: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """What disks, crashes and people make of a document; `others` are whole, but not this one."""
    spot, length = chance.randrange(len(content)), chance.randrange(1, 99)
    head, tail = content[:spot], content[spot:]
    flipped = bytes([tail[0] ^ chance.randrange(1, 256)])
    return chance.choice(
        [
            head + flipped + tail[1:],
            head + chance.randbytes(length) + tail[length:],
            head + chance.randbytes(length) + tail,
            head + tail[:length] + tail,
            head + tail[length:],
            head,
            chance.choice(others),
        ]
    )


def test_of_two_thousand_random_damages_none_is_believed_and_every_one_is_reported(
    settings: Settings, grown: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of them, and no crash here to outlive
    append(settings, "other", *a_run("other", store=OTHER))
    refresh(settings, OTHER)
    paths = (grown, backup_of(grown))
    whole = {path.name: path.read_bytes() for path in paths}
    right = {content: History.from_json(content) for content in whole.values()}
    others = [refresh(settings, OTHER).to_json(), b"", b"{}", b"null", b"[" * 10_000, *whole.values()]
    chance = random.Random(4)
    swapped = 0
    for _ in range(2_000):
        struck = chance.choice([{grown.name}, {backup_of(grown).name}, set(whole)])
        found = {name: damaged(chance, whole[name], others) if name in struck else whole[name] for name in whole}
        for path in paths:
            path.write_bytes(found[path.name])
        reported: list[Damage] = []
        history = load_history(grown, reported.append)
        assert history == next((right[content] for content in found.values() if content in right), None)
        assert {told.file for told in reported} == {name for name, content in found.items() if content not in right}
        for told in reported:
            place = Path(told.place)
            assert (place / told.file).read_bytes() == found[told.file]
            shutil.rmtree(place)
        swapped += found[grown.name] == whole[backup_of(grown).name]
    assert swapped > 0  # an older document, whole: the one thing that is believed
    grown_on = refresh(settings, failed={"b.jsonl": FAILURE})
    assert same(made_again(settings, failed={"b.jsonl": FAILURE}), grown_on)


def test_nothing_damaged_takes_the_place_of_a_good_backup(
    settings: Settings, grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where it could not be set aside."""

    def refuse(self: Quarantine, *_: object) -> None:
        raise NotWritable("no")

    monkeypatch.setattr(Quarantine, "set_aside", refuse)
    backup = backup_of(grown).read_bytes()
    DAMAGES[0](grown)
    history = refresh(settings)
    assert backup_of(grown).read_bytes() == backup
    assert load_history(grown) == history


def test_a_refresh_that_ends_between_any_two_writes_leaves_a_whole_history(
    settings: Settings, grown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = arxiv_embed.history.write_atomically
    before = grown.read_bytes()
    append(settings, "r9", *a_run("r9"))
    for last in range(2):
        writes: list[Path] = []

        def stop(path: Path, content: bytes) -> None:
            if len(writes) == last:  # noqa: B023
                raise KeyboardInterrupt
            writes.append(path)  # noqa: B023
            write(path, content)

        monkeypatch.setattr(arxiv_embed.history, "write_atomically", stop)
        with pytest.raises(KeyboardInterrupt):
            refresh(settings)
        assert grown.read_bytes() == before
        History.from_json(backup_of(grown).read_bytes())
    monkeypatch.undo()
    grown_on = refresh(settings)
    assert same(made_again(settings, failed=grown_on.failed_files), grown_on)


REFRESHER = """
import sys
from arxiv_embed_tests.test_history import STORE, a_run, append, refresh
from arxiv_embed.settings import settings_from_environment
settings = settings_from_environment({"ARXIV_EMBED_HOME": sys.argv[1]})
for n in range(8):
    append(settings, f"{sys.argv[2]}{n}", *a_run(f"{sys.argv[2]}{n}"))
    refresh(settings)
"""


def test_processes_that_refresh_at_once_count_every_run_once(settings: Settings) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", REFRESHER, str(settings.home), name]) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    history = load_history(history_path(settings, STORE))
    assert history is not None
    assert history.gpu_stats["cpu:0"].batches == 16
    assert same(made_again(settings), history)


def test_a_refresh_does_not_wait_for_ever_for_another(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arxiv_embed.history, "WAIT_SECONDS", 0.1)
    path = history_path(settings, STORE)
    with FileLock(path.with_suffix(".lock"), "It"), pytest.raises(Locked, match=f"The history of {STORE} is in use"):
        refresh(settings)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1) as folder:
        yield folder


def on(disk: Path) -> Settings:
    return settings_from_environment({"ARXIV_EMBED_HOME": str(disk / "home")})


def test_a_full_disk_is_said_and_leaves_the_document_as_it_was(disk: Path) -> None:
    settings = on(disk)
    append(settings, "r1", *a_run("r1"))
    before = refresh(settings)
    append(settings, "r2", *a_run("r2"))
    filler = disk / "filler"
    fill(filler)
    with pytest.raises(NoSpace):
        refresh(settings)
    assert load_history(history_path(settings, STORE)) == before
    filler.unlink()
    assert refresh(settings).gpu_stats["cpu:0"].batches == 2


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 512):
                pass
        except OSError:
            return


def test_a_read_only_home_is_said_and_its_history_can_still_be_read(disk: Path) -> None:
    settings = on(disk)
    append(settings, "r1", *a_run("r1"))
    refresh(settings)
    append(settings, "r2", *a_run("r2"))
    newer = refresh(settings)
    path = history_path(settings, STORE)
    DAMAGES[0](backup_of(path))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(NotWritable):
        refresh(settings)
    reported: list[Damage] = []
    assert load_history(path, reported.append) == newer
    assert [(told.file, told.place) for told in reported] == [(backup_of(path).name, "")]


def test_a_real_runs_record_and_checkpoints_make_its_history(
    small_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FakePool()
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", pool)
    lines = (small_folder / "first.jsonl").read_text().splitlines()
    poisoned = {**json.loads(lines[0]), "id": "0704.9998", "title": POISON}
    (small_folder / "first.jsonl").write_text("\n".join([*lines, json.dumps(poisoned)]))
    options = RunOptions(small_folder, settings.store, settings.checkpoints, devices="cpu:1")
    run = run_shards(options, settings.home, "real")
    history = refresh(settings, settings.store, space=run.space.fingerprint)
    assert history.gpu_stats["cpu:0"].papers == len(pool.embedded)
    assert history.gpu_stats["cpu:0"].product
    assert history.gpu_stats["cpu:0"].incidents == {"lost": 1}
    assert set(history.processed_files) == {"first.jsonl", "second.jsonl"}
    first = history.processed_files["first.jsonl"]
    assert (first.papers, first.spaces[run.space.fingerprint].failed_papers) == (len(lines) + 1, 1)
    assert {pattern.signature for pattern in history.error_patterns.patterns()} == {
        "lost: its worker ended with exit code -11",
        "it ends the worker that embeds it",
    }
    assert refresh(settings, OTHER).gpu_stats == {}
    assert same(made_again(settings, store=settings.store), history)
