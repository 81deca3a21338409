"""Shards: what a listing makes of a folder, and that it stays what it was when files are added."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata import cuts
from arxiv_embed.metadata.paper import Reject
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
    shards_of,
)


def write_paper(folder: Path, name: str, **fields: object) -> None:
    paper = {"title": "A title", "abstract": "Some words", "authors": ["A"], "categories": ["cs.LG"], **fields}
    (folder / name).write_text(json.dumps(paper))


def records(count: int) -> list[dict[str, object]]:
    return [record(f"0704.{i:04d}") for i in range(1, count + 1)]


def test_a_file_of_few_papers_is_one_shard_and_a_larger_one_is_cut(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(records(10)))
    (folder / "b.jsonl").write_bytes(json_lines(records(25)))
    assert [(shard.key, shard.records) for shard in shards_of(folder, 10)] == [
        ("a.jsonl", 10),
        ("b.jsonl@0000", 10),
        ("b.jsonl@0001", 10),
        ("b.jsonl@0002", 5),
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_no_shard_holds_more_than_its_papers(folder: Path, shape: str, container: str) -> None:
    (folder / "a").write_bytes(CONTAINERS[container](SHAPES[shape](records(40))))
    with ShardReader() as reader:
        sizes = [len(papers_in(reader.read(shard))) for shard in shards_of(folder, 10)]
    assert sizes == [10, 10, 10, 10]


def test_files_of_one_paper_are_a_shard_a_month_wherever_they_lie(folder: Path) -> None:
    (folder / "more").mkdir()
    for name in ["2401.00001.json", "2401.00002v2.json", "hep-th_9901001.json", "more/2401.00003.json"]:
        write_paper(folder, name)
    (folder / "2402.00001.json.gz").write_bytes(CONTAINERS["gzip"](json.dumps(record("2402.00001"), indent=1).encode()))
    assert [(shard.key, shard.records) for shard in shards_of(folder)] == [
        ("month:2401", 3),
        ("month:2402", 1),
        ("month:9901", 1),
    ]
    ids = [paper.id for paper in papers_in(read_folder(folder))]
    assert ids == ["2401.00001", "2401.00002", "2401.00003", "2402.00001", "hep-th/9901001"]


def test_a_month_tells_by_content_what_its_files_hold(folder: Path) -> None:
    write_paper(folder, "2401.00001.json")
    (folder / "2401.00002.json").write_bytes(json_array([record("2401.00002"), record("2401.00003")]))
    (folder / "2401.00004.json").write_bytes(b"")
    (folder / "2401.00005.json").write_bytes(b'{\n  "title": "cut')
    (folder / "2401.00006.json").write_bytes(b"\xff\xd8\xff")
    items = read_folder(folder)
    assert [paper.id for paper in papers_in(items)] == ["2401.00001", "2401.00002", "2401.00003"]
    assert reasons_in(items) == [
        ("record 1", "file holds no metadata that is known here"),
        ("record 1", "truncated JSON"),
        ("record 1", "file holds no metadata that is known here"),
    ]


def test_a_large_file_is_cut_whatever_its_name(folder: Path) -> None:
    write_paper(folder, "2401.00001.json")
    (folder / "2401.00002.json").write_bytes(json_lines([*records(25), record("0705.0001", comments="x" * (1 << 20))]))
    keys = [shard.key for shard in shards_of(folder, 20)]
    assert keys == ["2401.00002.json@0000", "2401.00002.json@0001", "month:2401"]


@pytest.mark.parametrize("name", ["1234.5678.json", "0704.00001.json", "notes.json", "2401.00009.json", "a.jsonl"])
def test_a_new_file_of_any_name_and_content_moves_no_old_shard(folder: Path, name: str) -> None:
    for number in range(1, 4):
        write_paper(folder, f"2312.{number:05d}.json")
    (folder / "dump.jsonl").write_bytes(json_lines(records(25)))
    before = shards_of(folder, 10)
    for content in (b"", b"[1]", b"\x1f\x8b broken", json_array(records(3)), json_lines(records(30))):
        (folder / name).write_bytes(content)
        after = {shard.key: shard for shard in shards_of(folder, 10)}
        assert [after[shard.key] for shard in before] == before


def test_a_signature_changes_with_its_file_and_with_no_other(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(records(3)))
    write_paper(folder, "2401.00001.json")
    write_paper(folder, "2402.00001.json")

    def signatures() -> dict[str, str]:
        return {shard.key: shard.signature for shard in shards_of(folder)}

    before = signatures()
    assert signatures() == before
    write_paper(folder, "2401.00002.json")
    with (folder / "a.jsonl").open("ab") as file:
        file.write(json_lines([record("0704.0009")]))
    after = signatures()
    os.utime(folder / "2402.00001.json", ns=(0, 0))
    assert signatures()["month:2402"] != before["month:2402"]
    assert {key for key in before if before[key] != after[key]} == {"a.jsonl", "month:2401"}


def test_a_folder_of_single_papers_is_listed_without_opening_one(folder: Path) -> None:
    for number in range(1, 20):
        write_paper(folder, f"2401.{number:05d}.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", None)
        [shard] = shards_of(folder)
    assert shard.records == 19


def test_cuts_are_found_once_and_again_when_the_file_or_the_size_of_shards_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "a.jsonl"
    file.write_bytes(json_lines(records(25)))
    scans = []
    scan = cuts.scan_lines
    monkeypatch.setattr(cuts, "scan_lines", lambda stream, every: scans.append(every) or scan(stream, every))
    first = shards_of(folder, 10)
    assert shards_of(folder, 10) == first
    assert scans == [10]
    assert len(shards_of(folder, 5)) == 5
    file.write_bytes(json_lines(records(31)))
    assert len(shards_of(folder, 10)) == 4
    assert scans == [10, 5, 10]


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"signature": 1}'])
def test_a_damaged_note_of_cuts_is_written_anew(folder: Path, tmp_path: Path, note: bytes) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(records(25)))
    first = shards_of(folder, 10)
    [kept] = (tmp_path / "index").iterdir()
    kept.write_bytes(note)
    assert shards_of(folder, 10) == first


def test_file_names_of_every_kind_are_shards_with_keys_of_their_own(folder: Path) -> None:
    names = [b"a b.jsonl", b"a%20b.jsonl", b"x@0001", b"x", b"month:2401", b"a,b...c", b"\xff\xfe", "ü".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(json_lines([record("0704.0001"), b"null"]))
    write_paper(folder, "2401.00001.json")
    shards = shards_of(folder)
    assert len({shard.key for shard in shards}) == len(names) + 1
    items = read_folder(folder)
    assert len(papers_in(items)) == len(names) + 1
    for item in items:
        if isinstance(item, Reject):
            item.file.encode()  # what is said of a file can be written down, whatever bytes its name has


def test_shapes_are_mixed_and_nested_freely(folder: Path) -> None:
    for place, (shape, write) in zip((".", "x", "x/y"), SHAPES.items(), strict=True):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / f"{shape}.gz").write_bytes(CONTAINERS["gzip"](write(records(12))))
        write_paper(folder / place, "2401.00001.json")
    (folder / ".hidden").write_bytes(json_lines(records(1)))
    (folder / "notes.txt").write_text("nothing")
    keys = ["lines.gz@0000", "lines.gz@0001", "month:2401", "x/array.gz@0000", "x/array.gz@0001"]
    assert [shard.key for shard in shards_of(folder, 10)] == [*keys, "x/y/xml.gz@0000", "x/y/xml.gz@0001"]
    assert len(papers_in(read_folder(folder, 10))) == 39
    assert list_folder(folder, shard_papers=10, index=folder.with_name("index")).passed_over == ("notes.txt",)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArxivEmbedError, match=r"no metadata folder .*absent"):
        list_folder(tmp_path / "absent", shard_papers=10, index=tmp_path / "index")


def test_a_file_removed_after_the_listing_fails_its_own_shard_only(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(records(3)))
    write_paper(folder, "2401.00001.json")
    write_paper(folder, "2401.00002.json")
    lines, month = shards_of(folder)
    (folder / "a.jsonl").unlink()
    (folder / "2401.00001.json").unlink()
    with ShardReader() as reader:
        with pytest.raises(ArxivEmbedError, match=r"a\.jsonl could not be read"):
            reader.load(lines)
        content = reader.load(month)
    assert [paper.id for paper in content.papers] == ["2401.00002"]
    assert content.rejects[0].reason == "file was removed before it was read"


def test_a_folder_that_is_a_link_is_not_followed_and_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(records(3)))
    (folder / "linked").symlink_to(folder)
    listing = list_folder(folder, shard_papers=10, index=tmp_path / "index")
    assert [shard.key for shard in listing.shards] == ["a.jsonl"]
    assert listing.passed_over == ("linked/",)
