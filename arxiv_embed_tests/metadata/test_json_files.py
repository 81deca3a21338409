"""JSON metadata: what is whole becomes a paper, what is not a reject with its place, its reason and an excerpt."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from arxiv_embed.metadata.json_files import LONGEST_RECORD
from arxiv_embed.metadata.paper import Reject
from arxiv_embed_tests.metadata.folders import (
    CONTAINERS,
    json_array,
    json_lines,
    papers_in,
    read_folder,
    reasons_in,
    record,
    rejects_in,
)

GOOD = json.dumps(record("0704.0001")).encode()


def ids(folder: Path) -> list[str]:
    return [paper.id for paper in papers_in(read_folder(folder))]


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_broken_line_is_a_reject_with_its_number(folder: Path, container: str) -> None:
    lines: list[bytes | dict[str, object]] = [
        record("0704.0001"),
        GOOD[:40],
        b"",
        b'{"id": "0704.0003", "title": "caf\xe9"}',
        b"null",
        b"[1, 2]",
        record("0704.0007", abstract=None),
        record("0704.0008", abstract="Word"),
        b'{"id": 704.0009, "title": "T", "abstract": "a b"}',
        b'{"title": "T", "abstract": "a b"}',
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b"\r",
        b'{"id": "0704.0013", "title": "lone \\ud800", "abstract": "a b"}',
        record("0704.0014"),
    ]
    (folder / "some.data").write_bytes(CONTAINERS[container](json_lines(lines)))
    items = read_folder(folder)
    assert [paper.id for paper in papers_in(items)] == ["0704.0001", "0704.0014"]
    assert reasons_in(items) == [
        ("line 2", "truncated JSON"),
        ("line 4", "invalid UTF-8"),
        ("line 5", "record is not an object"),
        ("line 6", "record is not an object"),
        ("line 7", "abstract missing"),
        ("line 8", "abstract is one word"),
        ("line 9", "id was mangled by a floating point number"),
        ("line 10", "id missing"),
        ("line 11", "invalid JSON"),
        ("line 13", "invalid JSON"),
    ]
    first = rejects_in(items)[0]
    assert first == Reject("some.data", "line 2", "truncated JSON", GOOD[:40].decode())


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_line_beyond_a_sane_length_is_one_reject_and_costs_no_neighbour(folder: Path, container: str) -> None:
    longest = record("0704.0003", comments="x" * (LONGEST_RECORD - 400))
    lines = [GOOD, b"y" * (3 * LONGEST_RECORD), longest, record("0704.0004", comments="x" * LONGEST_RECORD), GOOD]
    (folder / "a.jsonl").write_bytes(CONTAINERS[container](json_lines(lines)))
    items = read_folder(folder)
    assert [paper.id for paper in papers_in(items)] == ["0704.0001", "0704.0003", "0704.0001"]
    assert reasons_in(items) == [("line 2", "line too long"), ("line 4", "line too long")]
    assert rejects_in(items)[0].excerpt == "y" * 120


@pytest.mark.parametrize(
    "first", [b"garbage", b'{"id": "0704.0009",', b"[1, 2]", b"null", b"\xff\xfe", b"{", b"", b"\xef\xbb\xbf" + GOOD]
)
def test_a_broken_first_line_does_not_change_what_a_file_is(folder: Path, first: bytes) -> None:
    (folder / "a.jsonl").write_bytes(json_lines([first, record("0704.0002"), record("0704.0003")]))
    assert ids(folder)[-2:] == ["0704.0002", "0704.0003"]


def test_windows_line_ends_and_a_missing_last_line_end_are_read(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(GOOD + b"\r\n\r\n" + json.dumps(record("0704.0002")).encode())
    assert ids(folder) == ["0704.0001", "0704.0002"]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("container", CONTAINERS)
def test_one_object_a_file_is_read_however_it_is_laid_out(folder: Path, indent: int | None, container: str) -> None:
    versions = [{"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"}] * 2
    text = json.dumps(record("0704.0001", versions=versions), indent=indent)
    (folder / "paper").write_bytes(CONTAINERS[container](text.encode()))
    [paper] = papers_in(read_folder(folder))
    assert (paper.id, paper.version) == ("0704.0001", 2)


def test_a_truncated_object_is_a_reject(folder: Path) -> None:
    (folder / "paper.json").write_bytes(json.dumps(record("0704.0001"), indent=2).encode()[:60])
    assert reasons_in(read_folder(folder)) == [("record 1", "truncated JSON")]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_s_elements_are_papers_or_rejects_each_on_its_own(folder: Path, indent: int | None) -> None:
    elements = [
        record("0704.0001", comments='"]}[{,\\ \\" é'),
        5,
        None,
        "a, ] string",
        [record("0704.0009")],
        record("0704.0002", versions=[{"created": "x"}, {"created": ["]", {}]}]),
        {},
    ]
    (folder / "a.json").write_bytes(json.dumps(elements, indent=indent, ensure_ascii=False).encode())
    items = read_folder(folder)
    assert [paper.id for paper in papers_in(items)] == ["0704.0001", "0704.0002"]
    assert reasons_in(items) == [
        ("record 2", "record is not an object"),
        ("record 3", "record is not an object"),
        ("record 4", "record is not an object"),
        ("record 5", "record is not an object"),
        ("record 7", "id missing"),
    ]


def test_one_invalid_element_costs_an_array_no_other(folder: Path) -> None:
    raw = b"[" + GOOD + b',{"id": "\xff"},{"id" "x"},,' + json.dumps(record("0704.0002")).encode() + b"]"
    (folder / "a.json").write_bytes(raw)
    items = read_folder(folder)
    assert [paper.id for paper in papers_in(items)] == ["0704.0001", "0704.0002"]
    assert reasons_in(items) == [
        ("record 2", "invalid UTF-8"),
        ("record 3", "invalid JSON"),
        ("record 4", "invalid JSON"),
    ]


@pytest.mark.parametrize("raw", [b"[]", b" [ \n ]\n"])
def test_an_empty_array_holds_nothing(folder: Path, raw: bytes) -> None:
    (folder / "a.json").write_bytes(raw)
    assert read_folder(folder) == []


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (b"," + GOOD[:50], "JSON array is cut off"),
        (b"", "JSON array is cut off"),
        (b"] junk", "there is more behind the JSON array"),
        (b"," + b'"' + b"x" * 3 * LONGEST_RECORD, "record too long; the array is not read beyond it"),
    ],
)
def test_an_array_that_cannot_be_followed_ends_with_one_reject(folder: Path, behind: bytes, reason: str) -> None:
    (folder / "a.json").write_bytes(json_array([record("0704.0001"), record("0704.0002")])[:-1] + behind)
    items = read_folder(folder)
    assert papers_in(items)[0].id == "0704.0001"
    assert [reject.reason for reject in rejects_in(items)] == [reason]


def test_deeply_nested_elements_are_rejects_at_no_cost(folder: Path) -> None:
    """A decoder that keeps the path of each level needs memory for its square: 100 GB for these 400 KB."""
    deep = b"[" * 200_000 + b"]" * 200_000
    (folder / "a.json").write_bytes(b"[" + deep + b"," + GOOD + b"]")
    items = read_folder(folder)
    assert reasons_in(items) == [("record 1", "invalid JSON")]
    assert len(papers_in(items)) == 1


@pytest.mark.parametrize("container", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [5, 3000])
def test_a_compressed_file_that_is_cut_off_gives_what_it_holds_and_says_so(
    folder: Path, container: str, size: int
) -> None:
    noise = random.Random(5)
    records = [record(f"0704.{i:04d}", comments=noise.randbytes(3000).hex()) for i in range(1, 100)]
    whole = CONTAINERS[container](json_lines(records))
    (folder / "a.jsonl.z").write_bytes(whole[: len(whole) // 2] if size > 5 else whole[:size])
    items = read_folder(folder)
    held = len(papers_in(items))
    assert (30 < held < 60) if size > 5 else held == 0
    [reject] = rejects_in(items)
    assert reject.position == f"line {held + 1}"
    assert reject.reason.startswith("file is cut off or damaged here")


@pytest.mark.parametrize("name", ["README.md", "index.html", "data.csv", "photo.png", "empty.jsonl"])
def test_what_is_no_metadata_is_no_shard(folder: Path, name: str) -> None:
    contents = {
        "README.md": b'# Metadata\n\nFor example\n{"id": 1}\n',
        "index.html": b"<!DOCTYPE html><html><body/></html>",
        "data.csv": b"id,title\n1,2\n",
        "photo.png": b"\x89PNG\r\n\x1a\n\0\0",
        "empty.jsonl": b"",
    }
    (folder / name).write_bytes(contents[name])
    assert read_folder(folder) == []


def test_several_gzip_members_and_zstd_frames_are_one_file(folder: Path) -> None:
    one, two = json_lines([record("0704.0001")]), json_lines([record("0704.0002")])
    skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc"
    (folder / "a").write_bytes(CONTAINERS["gzip"](one) + CONTAINERS["gzip"](two) + b"\0" * 20)
    (folder / "b").write_bytes(CONTAINERS["zstd"](one) + skippable + CONTAINERS["zstd"](two))
    assert ids(folder) == ["0704.0001", "0704.0002"] * 2
