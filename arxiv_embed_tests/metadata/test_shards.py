"""Shards: what a listing makes of a folder, and that it stays what it was when files are added."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata import cuts
from arxiv_embed.metadata.paper import Reject
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Listing, lies_in, list_folder, list_sources
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
from arxiv_embed_tests.metadata.permissions import permissions_bind


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
    assert listing.passed_over == ("linked/ (a link)",)
    assert listing.unread == {}


def listed(folder: Path) -> Listing:
    return list_folder(folder, shard_papers=10, index=folder.with_name("index"))


def folder_with_parts(folder: Path) -> Path:
    """A file at the top and, in each of two folders, a file and a paper of one month."""
    (folder / "a.jsonl").write_bytes(json_lines(records(3)))
    for number, part in enumerate(["one", "two"], 1):
        (folder / part).mkdir()
        (folder / part / "b.jsonl").write_bytes(json_lines(records(3)))
        write_paper(folder / part, f"2401.{number:05d}.json")
    return folder


def test_a_link_that_leads_nowhere_is_passed_over_with_the_reason_and_all_else_is_taken(folder: Path) -> None:
    folder_with_parts(folder)
    for loop in (folder / "loop.jsonl", folder / "one" / "loop.jsonl"):
        loop.symlink_to(loop.name)
    (folder / "long").symlink_to("x" * 300)
    listing = listed(folder)
    assert [shard.key for shard in listing.shards] == ["a.jsonl", "month:2401", "one/b.jsonl", "two/b.jsonl"]
    assert listing.passed_over == (
        "long (File name too long)",
        "loop.jsonl (Too many levels of symbolic links)",
        "one/loop.jsonl (Too many levels of symbolic links)",
    )
    assert set(listing.unread) == {"long", "loop.jsonl", "one/loop.jsonl"}


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_a_subfolder_that_may_not_be_read_or_entered_is_passed_over_with_the_reason_and_all_else_is_taken(
    folder: Path, mode: int
) -> None:
    folder_with_parts(folder)
    (folder / "one").chmod(mode)
    with permissions_bind():
        listing = listed(folder)
    (folder / "one").chmod(0o700)
    assert [(shard.key, shard.files) for shard in listing.shards] == [
        ("a.jsonl", ("a.jsonl",)),
        ("month:2401", ("two/2401.00002.json",)),
        ("two/b.jsonl", ("two/b.jsonl",)),
    ]
    assert listing.passed_over == ("one (Permission denied)",)
    assert listing.unread == {"one": "Permission denied"}


def test_a_link_into_a_folder_that_may_not_be_entered_is_passed_over_with_the_reason(
    folder: Path, tmp_path: Path
) -> None:
    folder_with_parts(folder)
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "c.jsonl").write_bytes(json_lines(records(3)))
    (folder / "c.jsonl").symlink_to(closed / "c.jsonl")
    closed.chmod(0o000)
    with permissions_bind():
        listing = listed(folder)
    closed.chmod(0o700)
    assert [shard.key for shard in listing.shards] == ["a.jsonl", "month:2401", "one/b.jsonl", "two/b.jsonl"]
    assert listing.passed_over == ("c.jsonl (Permission denied)",)
    assert [shard.key for shard in listed(folder).shards][1] == "c.jsonl"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("after", [0, 1])
def test_a_subfolder_on_an_ill_disk_is_passed_over_with_the_reason_and_all_else_is_taken(
    folder: Path, number: int, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ill:
        """The entries of a folder, of which no more than the first few can be read."""

        def __init__(self, path: Path) -> None:
            if not after:
                raise OSError(number, os.strerror(number))
            self.left = after
            self.entries = scandir(path)

        def __enter__(self) -> Ill:
            return self

        def __exit__(self, *error: object) -> None:
            self.entries.close()

        def __iter__(self) -> Ill:
            return self

        def __next__(self) -> os.DirEntry[str]:
            if not self.left:
                raise OSError(number, os.strerror(number))
            self.left -= 1
            return next(self.entries)

    folder_with_parts(folder)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Ill(path) if Path(path).name == "one" else scandir(path))
    listing = listed(folder)
    assert {"a.jsonl", "month:2401", "two/b.jsonl"} <= {shard.key for shard in listing.shards}
    assert listing.unread == {"one": os.strerror(number)}


def test_a_subfolder_that_is_removed_while_the_others_are_listed_is_not_named(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(json_lines(records(3)))
    (folder / "sub").mkdir()
    (folder / "sub" / "b.jsonl").write_bytes(json_lines(records(3)))
    unread: dict[str, str] = {}
    sources = list_sources(folder, unread=unread)
    assert next(sources).key == "a.jsonl"
    shutil.rmtree(folder / "sub")
    assert list(sources) == []
    assert unread == {}


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o400])
def test_a_metadata_folder_that_may_not_be_read_or_entered_is_refused(folder: Path, mode: int) -> None:
    folder_with_parts(folder)
    folder.chmod(mode)
    with permissions_bind(), pytest.raises(ArxivEmbedError, match=rf"{folder} cannot be read \(Permission denied\)"):
        listed(folder)
    folder.chmod(0o700)


def test_a_metadata_folder_within_one_that_may_not_be_entered_is_refused(folder: Path) -> None:
    folder.parent.chmod(0o000)
    with permissions_bind(), pytest.raises(ArxivEmbedError, match=rf"{folder} cannot be read \(Permission denied\)"):
        listed(folder)
    folder.parent.chmod(0o700)


def test_a_file_that_cannot_be_opened_keeps_its_shards_and_reading_them_says_why(folder: Path) -> None:
    (folder / "large.jsonl").write_bytes(json_lines([record(f"0704.{i:04d}") for i in range(1, 26)]))
    (folder / "small.jsonl").write_bytes(b"{}\n")
    before = shards_of(folder, 10)
    (folder / "new.jsonl").write_bytes(json_lines(records(25)))
    for name in ("large.jsonl", "small.jsonl", "new.jsonl"):
        (folder / name).chmod(0o000)
    with permissions_bind(), ShardReader() as reader:
        after = {shard.key: shard for shard in shards_of(folder, 10)}
        assert set(after) == {*(shard.key for shard in before), "new.jsonl"}
        assert [after[shard.key] for shard in before] == before
        for shard in after.values():
            with pytest.raises(ArxivEmbedError, match=r"could not be read \(Permission denied\)"):
                reader.load(shard)


def test_a_path_lies_in_a_place_or_below_it_and_in_none_that_only_begins_alike() -> None:
    places = {"a/b", "c.jsonl"}
    assert [path for path in ("a/b", "a/b/c", "a/b/c/d", "c.jsonl") if not lies_in(path, places)] == []
    assert [path for path in ("a", "a/bc", "a/c", "b", "c.jsonl2", "d/a/b") if lies_in(path, places)] == []
