"""Priority: which papers `--priority` marks, by what their own records say, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arxiv_embed.embed import PAPERS, papers_table
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.fields import LONGEST_FIELD, fields_text
from arxiv_embed.metadata.paper import Paper
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed.priority import parse_priority


def paper(name: str, categories: str = "cs.LG", published: str = "", updated: str = "", **fields: Any) -> Paper:
    return Paper(
        name, 0, "Title", "An abstract.", "", tuple(categories.split()), published, updated, False, fields_text(fields)
    )


def marked(papers: Sequence[Paper], *specs: str) -> list[str]:
    mask = parse_priority(specs).urgent(papers_table(papers))
    return [paper.id for paper, urgent in zip(papers, mask, strict=True) if urgent]


@pytest.fixture(scope="module")
def kaggle(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, list[dict[str, Any]]]:
    """200 real papers, as a table and as their records."""
    folder = tmp_path_factory.mktemp("metadata")
    file = folder / "kaggle.jsonl"
    file.symlink_to(real_data / "arxiv_kaggle_200.jsonl")
    [shard] = list_folder(folder, shard_papers=20_000, index=folder / "index").shards
    with ShardReader() as reader:
        table = papers_table(reader.load(shard).papers)
    return table, [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("category:hep-ph", lambda record: "hep-ph" in record["categories"].split()),
        ("category:math", lambda record: any(c.split(".")[0] == "math" for c in record["categories"].split())),
        ("category:cond-mat", lambda record: "cond-mat" in record["categories"]),
        ("since:2008-11-26", lambda record: record["update_date"] >= "2008-11-26"),
        ("ids:arXiv:0704.0003v2, 0704.0007", lambda record: record["id"] in ("0704.0003", "0704.0007")),
        ("field:journal-ref", lambda record: bool(record["journal-ref"])),
        ("field:license", lambda record: bool(record["license"])),
        ("field:submitter=Pavel Nadolsky", lambda record: record["submitter"] == "Pavel Nadolsky"),
    ],
)
def test_real_papers_are_marked_by_what_their_records_say(
    kaggle: tuple[pa.Table, list[dict[str, Any]]], spec: str, said: Any
) -> None:
    table, records = kaggle
    mask = parse_priority([spec]).urgent(table).tolist()
    assert mask == [said(record) for record in records]
    assert 0 < sum(mask) < len(mask)


def test_an_archive_marks_its_categories_and_no_name_that_only_begins_alike() -> None:
    papers = [
        paper("2401.00001", "cs.LG"),
        paper("2401.00002", "math.CO cs.CL"),
        paper("2401.00003", "stat.ML"),
        paper("2401.00004", "physics.acc-ph hep-th"),
        paper("2401.00005", ""),
    ]
    assert marked(papers, "category:cs") == ["2401.00001", "2401.00002"]
    assert marked(papers, "category:cs.L") == []
    assert marked(papers, "category:hep") == []
    assert marked(papers, "category:CS.lg") == ["2401.00001"]
    assert marked(papers, "category:acc-ph") == []


def test_since_is_of_the_update_or_of_the_publication_where_there_is_none() -> None:
    papers = [
        paper("2401.00001", published="2024-01-30", updated="2024-01-31"),
        paper("2401.00002", published="2024-01-31"),
        paper("2401.00003", published="2024-01-30"),
        paper("2401.00004"),
        paper("2401.00005", published="2024-02-01", updated="2024-01-30"),
    ]
    assert marked(papers, "since:2024-01-31") == ["2401.00001", "2401.00002"]


def test_ids_come_from_a_file_however_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(
        b"\xef\xbb\xbfarXiv:2401.00001v3\r\n\r\n  hep-th/9901001  \nhttps://arxiv.org/abs/2401.00004"
    )
    papers = [paper(name) for name in ("2401.00001", "2401.00002", "hep-th/9901001", "2401.00004")]
    assert marked(papers, f"ids:@{tmp_path / 'list'}") == ["2401.00001", "hep-th/9901001", "2401.00004"]
    (tmp_path / "list").write_text("")
    assert marked(papers, f"ids:@{tmp_path / 'list'}") == []


def test_a_file_s_path_is_made_absolute_and_the_text_can_be_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text("2401.00001\n")
    monkeypatch.chdir(tmp_path)
    specs = parse_priority([" ids:@list", "category:cs"]).specs
    assert specs == (f"ids:@{tmp_path / 'list'}", "category:cs")
    monkeypatch.chdir("/")
    assert parse_priority(specs).specs == specs


@pytest.mark.parametrize("value", [True, 1, 0.5, "yes", "high", "1"])
def test_a_field_that_is_there_marks_its_paper(value: Any) -> None:
    assert marked([paper("2401.00001", priority=value)], "field:priority") == ["2401.00001"]


@pytest.mark.parametrize("value", [None, False, 0, 0.0, "", " \n", "0", "false", "False", ["yes"], {"is": "yes"}])
def test_a_field_that_is_empty_or_no_or_no_scalar_marks_none(value: Any) -> None:
    assert marked([paper("2401.00001", priority=value, other="yes")], "field:priority") == []


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("high", "high"),
        (True, "true"),
        (3, "3"),
        (0, "0"),
        (0.5, "0.5"),
        ("Phys. Rev.\n  D 76", "Phys. Rev. D 76"),
        ("a=b", "a=b"),
        ("x" * 3 * LONGEST_FIELD, "x" * 2 * LONGEST_FIELD),
    ],
)
def test_a_field_is_compared_as_text(value: Any, wanted: str) -> None:
    papers = [paper("2401.00001", **{"journal-ref": value}), paper("2401.00002", **{"journal-ref": f"not {value}"})]
    assert marked([*papers, paper("2401.00003")], f"field:journal-ref={wanted}") == ["2401.00001"]


def test_a_field_that_is_not_there_has_no_text() -> None:
    assert marked([paper("2401.00001"), paper("2401.00002", other=1)], "field:priority=null") == []


def test_papers_that_were_read_without_their_fields_are_told_from_papers_that_have_none() -> None:
    old = papers_table([paper("2401.00001", priority=1)]).drop_columns("fields")
    with pytest.raises(ArxivEmbedError, match=r"without the field 'priority': materialize `papers` again\.$"):
        parse_priority(["field:priority"]).urgent(old)
    assert parse_priority(["category:cs"]).urgent(old).tolist() == [True]


SPECS = ["category:cs.LG", "category:math", "since:2024-01-15", "ids:2401.00003,2401.00005", "field:priority"]


@given(
    st.lists(st.sampled_from(SPECS), unique=True),
    st.lists(st.tuples(st.sampled_from(["cs.LG", "math.CO", "cs.CL math.ST", ""]), st.booleans()), max_size=30),
    st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_a_paper_is_urgent_exactly_where_any_option_marks_it_wherever_it_stands(
    specs: list[str], chosen: list[tuple[str, bool]], start: int
) -> None:
    table = papers_table(
        [
            paper(f"2401.{n:05d}", categories, updated=f"2024-01-{n + 1:02d}", priority=priority)
            for n, (categories, priority) in enumerate(chosen)
        ]
    )
    mask = parse_priority(specs).urgent(table)
    alone = [parse_priority([spec]).urgent(table).tolist() for spec in specs]
    assert mask.tolist() == [any(marks) for marks in zip(*alone, strict=True)] if specs else not mask.any()
    assert parse_priority(specs).urgent(table.slice(start)).tolist() == mask[start:].tolist()
    twice = pa.concat_tables([table, table])
    assert parse_priority(specs).urgent(twice).tolist() == [*mask, *mask]


def test_a_shard_without_papers_has_no_urgent_ones() -> None:
    assert parse_priority(SPECS).urgent(PAPERS.empty_table()).tolist() == []


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "urgent",
        "cs.LG",
        "category:",
        "category:cs.",
        "category:cs.LG,math",
        "since:",
        "ids:",
        "ids: , ",
        "ids:@",
        "field:",
        "field:=x",
        "field:x=",
        "title:x",
    ],
)
def test_what_is_no_form_is_refused_with_the_forms(spec: str) -> None:
    with pytest.raises(ArxivEmbedError, match=r"^--priority '.*' is not understood: write category:cs\.LG") as refused:
        parse_priority([spec])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("since:yesterday", "--priority 'since:yesterday' names no day: write it as since:2024-01-31."),
        ("since:2024-02-30", "names no day"),
        ("ids:2401.00001,24", "--priority 'ids:2401.00001,24': '24' is no arXiv id: write it as 2401.01234"),
        ("ids:@{}/nowhere", "The file of ids {}/nowhere (--priority) cannot be read: No such file or directory."),
        ("ids:@{}", "The file of ids {} (--priority) cannot be read: Is a directory."),
        ("ids:@{}/bad", "{}/bad, line 3: 'PK\ufffd' is no arXiv id"),
        ("field:title", "--priority 'field:title' asks for what every paper has"),
        ("field:update_date=2024-01-01", "asks for what every paper has: use category:, since: or ids:"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "bad").write_bytes(b"2401.00001\n\nPK\xff\n")
    with pytest.raises(ArxivEmbedError) as refused:
        parse_priority(["category:cs", spec.format(tmp_path)])
    assert said.format(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
