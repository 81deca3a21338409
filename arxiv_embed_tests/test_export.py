"""Export: files that other programs read, of every row, whole or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import datasets
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arxiv_embed import export_files
from arxiv_embed.checkpoint.atomic import NoSpace
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.export import Form, export_store
from arxiv_embed.stores.lance.store import LanceStore
from arxiv_embed.stores.protocol import VectorStore
from arxiv_embed.stores.rows import row_schema
from arxiv_embed_tests.cli.commands import arxiv_embed, environment
from arxiv_embed_tests.small_disk import grow, small_disk
from arxiv_embed_tests.stores.shard_rows import OTHER_SPACE, SPACE, Record, held, shard_rows

F = SPACE.fingerprint
NAME = f"{F}.parquet"


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    """Two spaces; of the first two shards, of which one is not in the indexes."""
    store = LanceStore(tmp_path / "store")
    store.write_shard(SPACE, "a", shard_rows("a", [Record("1", title="Größe $x_1$"), Record("2", chunks=3)]), "i")
    store.write_shard(OTHER_SPACE, "a", shard_rows("a", [Record("1", chunks=1)], OTHER_SPACE), "i")
    store.finish(SPACE)
    store.write_shard(SPACE, "b", shard_rows("b", [Record("3", categories=())]), "i")
    return store


def rows_of(store: LanceStore) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "key"} for row in held(store)]


def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["paper_id"], row["chunk_index"]))


# What is written


def test_parquet_has_every_row_as_the_store_has_it(store: LanceStore, tmp_path: Path) -> None:
    [exported] = export_store(store, [SPACE], tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / NAME)
    assert by_key(table.to_pylist()) == by_key(rows_of(store))
    assert table.schema.field("vector").type == pa.list_(pa.float32(), SPACE.dimensions)
    assert (exported.papers, exported.rows) == store.count(F) == (3, 10)
    assert exported.bytes == (tmp_path / "out" / NAME).stat().st_size


def test_what_each_space_is_stands_beside_the_files_and_in_their_schemas(store: LanceStore, tmp_path: Path) -> None:
    export_store(store, store.spaces(), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        NAME, f"{OTHER_SPACE.fingerprint}.parquet", "spaces.json"
    }  # fmt: skip
    described = {one["space"]: one for one in json.loads((tmp_path / "out" / "spaces.json").read_text())}
    for space, papers, rows in ((SPACE, 3, 10), (OTHER_SPACE, 1, 2)):
        name = f"{space.fingerprint}.parquet"
        about = {"space": space.fingerprint, **asdict(space)}
        assert described[space.fingerprint] == {**about, "files": [name], "papers": papers, "rows": rows}
        table = pq.read_table(tmp_path / "out" / name)
        assert json.loads(table.schema.metadata[b"arxiv_embed.space"]) == about
        assert set(table["space"].to_pylist()) == {space.fingerprint}
        assert table.num_rows == rows


def test_whole_papers_alone_can_be_had(store: LanceStore, tmp_path: Path) -> None:
    [exported] = export_store(store, [SPACE], tmp_path / "papers.parquet", papers_only=True)
    table = pq.read_table(tmp_path / "papers.parquet")
    assert sorted(table["paper_id"].to_pylist()) == ["1", "2", "3"]
    assert set(table["chunk_index"].to_pylist()) == {-1}
    assert (exported.papers, exported.rows) == (3, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"store", "papers.parquet"}


def test_numpy_has_a_matrix_whose_row_i_is_row_i_of_the_table(store: LanceStore, tmp_path: Path) -> None:
    export_store(store, [SPACE], tmp_path / "out", Form.NUMPY)
    matrix = np.load(tmp_path / "out" / F / "vectors.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(matrix, np.memmap)
    assert (matrix.dtype, matrix.shape) == (np.dtype("float32"), (10, SPACE.dimensions))
    table = pq.read_table(tmp_path / "out" / F / "rows.parquet")
    assert "vector" not in table.column_names
    together = [{**row, "vector": vector.tolist()} for row, vector in zip(table.to_pylist(), matrix, strict=True)]
    assert by_key(together) == by_key(rows_of(store))


def test_a_space_without_rows_is_files_without_rows(store: LanceStore, tmp_path: Path) -> None:
    store.write_shard(SPACE, "a", shard_rows("a", []), "i")
    store.write_shard(SPACE, "b", shard_rows("b", []), "i")
    export_store(store, [SPACE], tmp_path / "empty.parquet")
    assert pq.read_table(tmp_path / "empty.parquet").num_rows == 0
    export_store(store, [SPACE], tmp_path / "out", Form.NUMPY)
    assert np.load(tmp_path / "out" / F / "vectors.npy", allow_pickle=False).shape == (0, SPACE.dimensions)


def test_columns_that_an_older_store_lacks_are_null(store: LanceStore, tmp_path: Path) -> None:
    older = SimpleNamespace(
        count=store.count,
        scan=lambda space: (batch.drop_columns(["tokens", "cut_tokens"]) for batch in store.scan(space)),
    )
    export_store(cast(VectorStore, older), [SPACE], tmp_path / "old.parquet")
    table = pq.read_table(tmp_path / "old.parquet")
    assert table["tokens"].null_count == table["cut_tokens"].null_count == table.num_rows == 10
    assert table["vector"].null_count == 0


# Who reads it


def test_pandas_reads_it(store: LanceStore, tmp_path: Path) -> None:
    export_store(store, [SPACE], tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / NAME)
    matrix = np.stack(frame["vector"].to_list())
    assert (matrix.dtype, matrix.shape) == (np.dtype("float32"), (10, SPACE.dimensions))
    assert frame.set_index(["paper_id", "chunk_index"]).loc[("1", -1), "title"] == "Größe $x_1$"


def test_duckdb_reads_it_and_finds_neighbours(store: LanceStore, tmp_path: Path) -> None:
    export_store(store, [SPACE], tmp_path / "out")
    vector = store.vector_of(F, "1")
    assert vector is not None
    found = duckdb.execute(
        f"SELECT paper_id, array_cosine_similarity(vector::FLOAT[{SPACE.dimensions}], "  # noqa: S608
        f"?::FLOAT[{SPACE.dimensions}]) AS similarity FROM read_parquet(?) WHERE chunk_index = -1 ORDER BY 2 DESC",
        [vector.tolist(), str(tmp_path / "out" / NAME)],
    ).fetchall()
    assert len(found) == 3
    assert found[0][0] == "1"
    assert found[0][1] == pytest.approx(1.0, abs=1e-5)


def test_datasets_reads_it(store: LanceStore, tmp_path: Path) -> None:
    export_store(store, [SPACE], tmp_path / "out")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / NAME), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.num_rows == 10
    assert loaded.features["vector"] == datasets.List(datasets.Value("float32"), length=SPACE.dimensions)
    matrix = loaded.with_format("numpy")["vector"][:]
    assert (np.asarray(matrix).dtype, np.asarray(matrix).shape) == (np.dtype("float32"), (10, SPACE.dimensions))


# Memory


def batches(count: int, most: list[int]) -> Iterator[pa.RecordBatch]:
    """Notes in `most`, before each, how many of those that came before are still held."""
    given: list[weakref.ref[pa.RecordBatch]] = []
    for number in range(count):
        most.append(sum(one() is not None for one in given))
        rows = shard_rows("a", [Record(f"{number}.{at}") for at in range(10)]).combine_chunks().to_batches()[0]
        given.append(weakref.ref(rows))
        yield rows
        del rows


@pytest.mark.parametrize("form", Form)
def test_rows_are_written_as_they_come_and_let_go(tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group has two batches here: never are more held than those, and the one that is being written."""
    monkeypatch.setattr(export_files, "ROW_GROUP_BYTES", 60 * 4 * SPACE.dimensions)
    monkeypatch.setattr(export_files, "ROWS_WITHOUT_VECTORS", 60)
    most: list[int] = []
    told: list[int] = []
    source = SimpleNamespace(count=lambda space: (1000, 3000), scan=lambda space: batches(100, most))
    [exported] = export_store(cast(VectorStore, source), [SPACE], tmp_path / "out", form, on_rows=told.append)
    assert exported.rows == 3000
    assert told == [30] * 100
    assert max(most) <= 3
    [rows] = (tmp_path / "out").rglob("*.parquet")
    assert pq.ParquetFile(rows).num_row_groups == 50


# What goes wrong


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("the disk fell out")])
def test_an_export_that_is_interrupted_leaves_nothing(tmp_path: Path, form: Form, fault: BaseException) -> None:
    def broken(space: str) -> Iterator[pa.RecordBatch]:
        yield shard_rows("a", [Record("1")]).combine_chunks().to_batches()[0]
        raise fault

    source = cast(VectorStore, SimpleNamespace(count=lambda space: (2, 6), scan=broken))
    (tmp_path / "empty").mkdir()
    places = [tmp_path / "new" / "out", tmp_path / "empty"]
    for place in [*places, tmp_path / "out.parquet"][: 3 if form is Form.PARQUET else 2]:
        with pytest.raises(type(fault)):
            export_store(source, [SPACE], place, form)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []
    assert not (tmp_path / "new" / "out").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_export_that_is_interrupted_when_its_files_get_their_names_leaves_nothing(
    store: LanceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed, faults = os.rename, [KeyboardInterrupt()]

    def interrupted(one: Path, other: Path) -> None:
        if other == tmp_path / "out" / "spaces.json" and faults:
            raise faults.pop()
        renamed(one, other)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_store(store, store.spaces(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_is_killed_leaves_no_file_that_looks_whole_and_is_said_to_be(
    store: LanceStore, tmp_path: Path
) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from arxiv_embed.export import export_store\n"
        "from arxiv_embed.stores.lance.store import LanceStore\n"
        "store = LanceStore(Path(sys.argv[1]))\n"
        "export_store(store, store.spaces(), Path(sys.argv[2]), on_rows=lambda rows: os.kill(os.getpid(), 9))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, store.url, tmp_path / "out"], check=False)
    assert killed.returncode == -signal.SIGKILL
    [draft] = (tmp_path / "out").iterdir()
    assert draft.name == ".draft-out"
    with pytest.raises(ArxivEmbedError, match=r"was killed, or still goes on: remove .*\.draft-out"):
        export_store(store, [SPACE], tmp_path / "out")


def make_file(place: Path) -> None:
    place.write_text("mine")


def make_full_folder(place: Path) -> None:
    place.mkdir()
    (place / "mine").touch()


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("out", make_full_folder, "out is not empty: name a new folder"),
        ("out", make_file, "out is there already"),
        ("out.parquet", make_file, r"out\.parquet is there already"),
        ("out.parquet", Path.mkdir, r"out\.parquet is there already"),
    ],
)
def test_what_is_there_already_is_refused_and_left_alone(
    store: LanceStore, tmp_path: Path, name: str, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArxivEmbedError, match=said):
        export_store(store, [SPACE], tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_and_an_empty_file_are_taken(store: LanceStore, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out.parquet").touch()
    for name in ("out", "out.parquet"):
        export_store(store, [SPACE], tmp_path / name)
    assert pq.read_table(tmp_path / "out.parquet").equals(pq.read_table(tmp_path / "out" / NAME))


@pytest.mark.parametrize(("form", "count"), [(Form.PARQUET, 2), (Form.NUMPY, 1)])
def test_one_file_cannot_hold_two_spaces_or_numpys_two_files(
    store: LanceStore, tmp_path: Path, form: Form, count: int
) -> None:
    with pytest.raises(ArxivEmbedError, match="one file, which cannot hold"):
        export_store(store, store.spaces()[:count], tmp_path / "out.parquet", form)


@pytest.mark.parametrize("form", Form)
def test_a_full_disk_is_one_sentence_and_what_was_begun_is_gone(tmp_path: Path, form: Form) -> None:
    wide = replace(SPACE, dimensions=2048)
    vectors = np.random.default_rng(1).standard_normal((256, 2048)).tolist()
    rows = pa.RecordBatch.from_pylist(
        [{"paper_id": "1", "chunk_index": -1, "vector": vector, "key": "1"} for vector in vectors], row_schema(2048)
    )
    source = SimpleNamespace(count=lambda space: (4096, 4096), scan=lambda space: iter([rows] * 16))
    with small_disk(tmp_path / "disk", 4) as disk:
        with pytest.raises(NoSpace, match=r"No space is left for .*out: it takes about 34 MB; free some"):
            export_store(cast(VectorStore, source), [wide], disk / "out", form)
        assert list(disk.iterdir()) == []
        grow(disk, 64)
        [exported] = export_store(cast(VectorStore, source), [wide], disk / "out", form)
        assert exported.rows == 4096


# The command


def test_the_command_exports_and_says_what(sample_home: Path, tmp_path: Path) -> None:
    done = arxiv_embed(sample_home, "export", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    [space] = json.loads((tmp_path / "out" / "spaces.json").read_text())
    assert space["model"] == "all-MiniLM-L6-v2"
    table = pq.read_table(tmp_path / "out" / space["files"][0])
    assert len(set(table["paper_id"].to_pylist())) == space["papers"] == 300
    assert table.num_rows == space["rows"]
    assert f"300 papers, {space['rows']} rows of all-MiniLM-L6-v2, 384 dimensions" in done.stdout
    assert f"{space['rows']} rows, 1.3 MB → out in " in done.stdout

    again = arxiv_embed(sample_home, "export", "out", folder=tmp_path)
    assert again.returncode == 2
    assert "out is not empty: name a new folder, or empty that one." in again.stderr


def test_the_command_takes_a_space_and_whole_papers_alone(sample_home: Path, tmp_path: Path) -> None:
    options = ("--space", "all-MiniLM-L6-v2", "--papers-only")
    done = arxiv_embed(sample_home, "export", "papers.parquet", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pq.read_metadata(tmp_path / "papers.parquet").num_rows == 300
    refused = arxiv_embed(sample_home, "export", "other.parquet", "--space", "jina", folder=tmp_path)
    assert refused.returncode == 2
    assert "'jina' names no space of" in refused.stderr
    assert arxiv_embed(tmp_path / "no home", "export", "out", folder=tmp_path).returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["papers.parquet"]


def test_an_interrupted_command_says_so(sample_home: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "import arxiv_embed.cli.export as command\n"
        "from arxiv_embed.cli.main import main\n"
        "def interrupted(*_, **__):\n"
        "    raise KeyboardInterrupt\n"
        "command.export_store = interrupted\n"
        "sys.argv = ['arxiv-embed', 'export', 'out']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(sample_home), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stdout == "Interrupted: nothing was exported.\n"
    assert done.stderr == ""
