"""Fields: what else a record says of its paper survives reading, whatever its source, and counts for no vector."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.metadata.fields import LONGEST_FIELD, WITH_COLUMNS, fields_text, parse_fields
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed_tests.metadata.folders import json_lines, papers_in, read_folder, record, shards_of

scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.none() | scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(), scalars, max_size=2)
names = st.text(max_size=8) | st.sampled_from([*WITH_COLUMNS, "doi", "priority"])


@given(st.dictionaries(names, values, max_size=8), st.integers(0, 3 * LONGEST_FIELD))
def test_the_scalars_without_a_column_come_back_as_they_were_and_long_ones_cut(
    fields: dict[str, Any], length: int
) -> None:
    fields["comments"] = "é" * length
    kept = {
        name: value
        for name, value in fields.items()
        if isinstance(value, (str, bool, int, float)) and name not in WITH_COLUMNS
    }
    back = parse_fields(fields_text(fields))
    assert back == {**kept, "comments": "é" * min(length, LONGEST_FIELD)}
    assert all(type(back[name]) is type(value) for name, value in kept.items())


@pytest.mark.parametrize("fields", [{}, {"id": "x", "versions": []}, {"doi": None}, {"doi": [1]}, {"title": "x"}])
def test_a_record_without_other_scalars_has_no_text(fields: dict[str, Any]) -> None:
    assert fields_text(fields) == ""
    assert parse_fields("") == {}


def test_what_json_has_no_word_for_does_not_stop_a_record() -> None:
    back = parse_fields(fields_text({"large": 10**30, "none": math.nan, "doi": "10.1/2"}))
    assert (back["large"], back["doi"]) == (10**30, "10.1/2")


def fields_in(folder: Path) -> dict[str, dict[str, Any]]:
    return {paper.id: dict(parse_fields(paper.fields)) for paper in papers_in(read_folder(folder))}


def test_the_kaggle_records_keep_every_other_scalar(real_data: Path, folder: Path) -> None:
    file = real_data / "arxiv_kaggle_200.jsonl"
    (folder / file.name).symlink_to(file)
    raw = {fields["id"]: fields for fields in map(json.loads, file.read_text().splitlines())}
    others = ("submitter", "comments", "journal-ref", "doi", "report-no", "license")
    assert fields_in(folder) == {
        name: {other: fields[other] for other in others if fields[other] is not None} for name, fields in raw.items()
    }


def test_a_file_of_one_paper_keeps_what_its_user_has_put_in(folder: Path) -> None:
    fields = record("", authors=["A. B."], categories=["cs.LG"], published="2024-01-02", updated="2024-01-03")
    del fields["id"]
    (folder / "2401.01234.json").write_text(json.dumps({**fields, "priority": 2, "tags": ["a"], "summary": "mine"}))
    assert fields_in(folder) == {"2401.01234": {"priority": 2, "summary": "mine"}}


def test_oai_records_keep_theirs(real_data: Path, folder: Path) -> None:
    for name in ("listrecords_cs_page103.xml", "arxivraw_ListRecordsResponse.xml", "ads_arxiv_math_0306266.xml"):
        (folder / name).symlink_to(real_data / "xml" / "oai" / name)
    found = fields_in(folder)
    assert found["math/0611918"]["license"] == "http://arxiv.org/licenses/nonexclusive-distrib/1.0/"
    raw = found["0704.0471"]
    assert raw["submitter"] == "Dinesh Shetty"
    assert raw["journal-ref"].startswith("Phys.Rev.C76:024606,2007")
    assert set(raw) == {"submitter", "comments", "journal-ref", "doi"}
    core = found["math/0306266"]
    assert core["doi"].startswith("10.1017/S09")
    assert core["journal-ref"].startswith("Combinatorics, ")


def test_atom_entries_keep_theirs_by_the_other_sources_names(real_data: Path, folder: Path) -> None:
    name = "q_testing_s0_m10_bc5a6c384fe9.http200.xml"
    (folder / name).symlink_to(real_data / "xml" / "atom" / name)
    first = next(iter(fields_in(folder).values()))
    assert set(first) == {"comments", "journal-ref", "doi"}
    assert first["doi"].startswith("10.1109/ICSTW55")


def test_a_changed_field_leaves_the_fingerprint_alone_as_no_vector_comes_of_it(folder: Path) -> None:
    contents = []
    for fields in ({}, {"doi": "10.1/2"}, {"doi": "10.1/3"}):
        (folder / "a.jsonl").write_bytes(json_lines([record("0704.0001", **fields)]))
        with ShardReader() as reader:
            contents.append(reader.load(shards_of(folder)[0]))
    assert len({content.sha256 for content in contents}) == 1
    assert [parse_fields(content.papers[0].fields) for content in contents] == [
        {},
        {"doi": "10.1/2"},
        {"doi": "10.1/3"},
    ]
