"""Reading: pieces give what the whole gives, the newest record of a paper wins, and real data is read whole."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lxml import etree

from arxiv_embed.metadata import cuts, json_files
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed_tests.metadata.folders import (
    CONTAINERS,
    SHAPES,
    json_array,
    json_lines,
    papers_in,
    read_folder,
    reasons_in,
    record,
    rejects_in,
    shards_of,
)

MIXED: list[Any] = [
    record(f"0704.{i:04d}", **({} if i % 7 else {"abstract": ""}), comments="é" * (i % 50)) for i in range(1, 61)
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("shard_papers", [1, 7, 20, 59])
def test_pieces_read_together_are_the_file_read_whole(
    folder: Path, shape: str, container: str, shard_papers: int
) -> None:
    (folder / "a").write_bytes(CONTAINERS[container](SHAPES[shape](MIXED)))
    whole = read_folder(folder)
    assert len(papers_in(whole)) == 52
    assert len(rejects_in(whole)) == 8
    assert read_folder(folder, shard_papers) == whole


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_pieces_are_right_in_any_order_and_after_readings_that_stopped_early(
    folder: Path, shape: str, container: str
) -> None:
    (folder / "a").write_bytes(CONTAINERS[container](SHAPES[shape](MIXED)))
    shards = shards_of(folder, 10)
    alone = []
    for shard in shards:
        with ShardReader() as reader:
            alone.append(list(reader.read(shard)))
    with ShardReader() as reader:
        for number in (3, 0, 1, 5, 5, 4, 2):
            assert list(reader.read(shards[number])) == alone[number]
            next(reader.read(shards[number]))
            assert list(reader.read(shards[number].limited(2)))[-1] in alone[number]
            if number + 1 < len(shards):
                assert list(reader.read(shards[number + 1])) == alone[number + 1]


line = st.one_of(
    st.integers(1, 9).map(lambda number: json.dumps(record(f"0704.000{number}", comments="é")).encode()),
    st.sampled_from([b"", b"  ", b"null", b"{", b"x" * 300, b"\xff"]),
)


@given(st.lists(line, min_size=1, max_size=30), st.booleans(), st.integers(1, 12), st.integers(1, 400))
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_the_whole_whatever_the_lines_and_blocks(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ended: bool, shard_papers: int, block: int
) -> None:
    folder = tmp_path_factory.mktemp("pieces") / "metadata"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join([json.dumps(record("0704.0001")).encode(), *lines]) + b"\n" * ended)
    whole = read_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "BLOCK", block)
        patch.setattr(cuts, "BLOCK", block)
        assert read_folder(folder, shard_papers) == whole


@given(st.integers(1, 300))
@hypothesis_settings(max_examples=40, deadline=None)
def test_an_array_is_the_same_whatever_the_blocks(tmp_path_factory: pytest.TempPathFactory, block: int) -> None:
    folder = tmp_path_factory.mktemp("array") / "metadata"
    folder.mkdir()
    elements = [record("0704.0001", comments='\\" ]} , \\\\'), 17, "a\\", [[]], record("0704.0002", title="é\n x")]
    (folder / "a.json").write_bytes(json_array(elements))
    whole = read_folder(folder)
    assert len(whole) == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_files, "BLOCK", block)
        assert read_folder(folder) == whole


def test_pieces_of_a_file_that_is_cut_off_are_its_whole(folder: Path) -> None:
    raw = gzip.compress(json_lines(MIXED), mtime=0)
    (folder / "a.gz").write_bytes(raw[: len(raw) * 2 // 3])
    whole = read_folder(folder)
    assert rejects_in(whole)[-1].reason.startswith("file is cut off")
    assert read_folder(folder, 10) == whole


def test_the_newest_record_of_a_paper_wins_and_the_others_are_counted(folder: Path) -> None:
    records = [
        record("0704.0001", title="old", update_date="2010-01-01"),
        record("0704.0002", title="only"),
        record("0704.0001v2", title="newest", update_date="2012-01-01"),
        record("arXiv:0704.0001", title="older", update_date="2011-01-01"),
        record("0704.0003v1", title="first version"),
        record("0704.0003v3", title="third version"),
        record("0704.0003v2", title="second version"),
        record("0704.0004", title="said first"),
        record("0704.0004", title="said last"),
        b"null",
    ]
    (folder / "a.jsonl").write_bytes(json_lines(records))
    with ShardReader() as reader:
        content = reader.load(shards_of(folder)[0])
    assert [paper.title for paper in content.papers] == ["newest", "only", "third version", "said last"]
    assert content.duplicates == 5
    assert reasons_in(content.rejects) == [("line 10", "record is not an object")]


def test_a_fingerprint_is_of_what_was_read(folder: Path) -> None:
    file = folder / "a"

    def fingerprint(raw: bytes, limit: int | None = None) -> str:
        file.write_bytes(raw)
        [shard] = shards_of(folder)
        with ShardReader() as reader:
            return reader.load(shard if limit is None else shard.limited(limit)).sha256

    records = [record("0704.0001"), record("0704.0002")]
    whole = fingerprint(json_lines(records))
    assert fingerprint(gzip.compress(json_lines(records))) == whole
    changes: list[list[Any]] = [
        [record("0704.0001"), record("0704.0002", title="Another")],
        [record("0704.0001"), record("0704.0002", update_date="2020-02-04")],
        [record("0704.0001"), record("0704.0002v2")],
        [*records, b"null"],
        records[:1],
    ]
    others = [fingerprint(json_lines(changed)) for changed in changes]
    assert len({whole, *others}) == 6
    assert fingerprint(json_lines(records), limit=1) == others[-1]


@pytest.mark.parametrize("limit", [0, 1, 4, 100])
def test_a_limit_is_of_papers(folder: Path, limit: int) -> None:
    (folder / "a.jsonl").write_bytes(json_lines([b"null", *MIXED]))
    [shard] = shards_of(folder)
    with ShardReader() as reader:
        assert len(reader.load(shard.limited(limit)).papers) == min(limit, 52)


def test_the_kaggle_records_are_read_whole(real_data: Path, folder: Path) -> None:
    file = real_data / "arxiv_kaggle_200.jsonl"
    (folder / file.name).symlink_to(file)
    papers = papers_in(read_folder(folder))
    raw = [json.loads(text) for text in file.read_text().splitlines()]
    assert len(read_folder(folder)) == len(papers) == len(raw) == 200
    for paper, fields in zip(papers, raw, strict=True):
        assert (paper.id, paper.version) == (fields["id"], len(fields["versions"]))
        assert paper.abstract == " ".join(fields["abstract"].split())
        assert paper.categories == tuple(fields["categories"].split())
        assert (paper.published[:2], paper.updated) == ("20", fields["update_date"])
    assert sum(paper.withdrawn for paper in papers) == 1


@pytest.mark.parametrize("shard_papers", [20_000, 1000])
def test_the_cs_records_are_read_whole(real_data: Path, folder: Path, shard_papers: int) -> None:
    file = real_data / "arxiv_cs_2016_5k.jsonl.gz"
    (folder / file.name).symlink_to(file)
    items = read_folder(folder, shard_papers)
    with gzip.open(file) as stream:
        raw = [json.loads(text) for text in stream]
    assert len(items) == len(papers_in(items)) == len(raw) == 5000
    assert [paper.id for paper in papers_in(items)] == [fields["id"] for fields in raw]
    assert [paper.title for paper in papers_in(items)] == [" ".join(fields["title"].split()) for fields in raw]


def test_the_xml_answers_are_read_whole(real_data: Path, tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    papers = rejects = 0
    folder = real_data / "xml"
    for file in folder.rglob("*.xml"):
        name = file.relative_to(folder).as_posix()
        expected[name] += sum(
            1 for element in etree.parse(file).iter("{*}record", "{*}entry", "{*}error") if element is not None
        )
    with ShardReader() as reader:
        for shard in list_folder(folder, shard_papers=20_000, index=tmp_path / "index").shards:
            items = list(reader.read(shard))
            found[shard.files[0]] += len(items)
            papers += len(papers_in(items))
            rejects += len(rejects_in(items))
            assert all(reject.reason.startswith("error answer") for reject in rejects_in(items))
    assert found == expected
    assert (papers, rejects) == (1773, 6)


def test_the_carried_examples_are_read_whole(examples: Path, tmp_path: Path) -> None:
    with ShardReader() as reader:
        items = [
            item
            for shard in list_folder(examples, shard_papers=20_000, index=tmp_path / "index").shards
            for item in reader.read(shard)
        ]
    assert rejects_in(items) == []
    assert len(items) > 200
