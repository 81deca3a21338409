"""Answers: only what has come whole is a page, and what arXiv has sent is read as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arxiv_embed.harvest.answers import BadAnswer, ErrorAnswer, OtherAnswer, is_day, read_page, read_sets, records_in
from arxiv_embed_tests.harvest.harvests import canonical, served_records
from arxiv_embed_tests.harvest.repository import WEB_PAGE, Record, Repository, deleted


@pytest.mark.parametrize(
    ("name", "records", "token", "announced", "day"),
    [
        ("listrecords_cs_page001.xml", 1000, "1122234|1001", 102_538, "2016-03-09"),
        ("listrecords_cs_page103.xml", 538, None, 102_538, "2016-03-09"),
        ("arxivraw_ListRecordsResponse.xml", 6, "726959|1001", 58_011, "2015-01-06"),
        ("ads_arxiv_multi_20230125.xml", 3, "6460044|1001", 1_090, "2023-01-25"),
    ],
)
def test_what_arxiv_has_sent_is_a_page(
    real_data: Path, name: str, records: int, token: str | None, announced: int, day: str
) -> None:
    page = read_page((real_data / "xml" / "oai" / name).read_bytes())
    assert (len(page.datestamps), page.token, page.announced, page.day) == (records, token, announced, day)
    assert page.deleted == ()


@pytest.mark.parametrize("code", ["BadArgument", "BadResumptionToken", "BadVerb", "IdDoesNotExist", "NoRecordsMatch"])
def test_an_error_that_arxiv_has_sent_says_its_code(real_data: Path, code: str) -> None:
    content = (real_data / "xml" / "oai" / f"arxivraw_ErrorResponse{code}.xml").read_bytes()
    with pytest.raises(ErrorAnswer) as caught:
        read_page(content)
    assert caught.value.code.lower() == code.lower()
    assert caught.value.day.startswith("2015-0")


@settings(deadline=None, max_examples=200)
@given(end=st.floats(0, 1, exclude_max=True))
def test_an_answer_that_is_cut_off_anywhere_is_no_page(real_data: Path, end: float) -> None:
    whole = (real_data / "xml" / "oai" / "arxivraw_ListRecordsResponse.xml").read_bytes().rstrip()
    with pytest.raises(BadAnswer):
        read_page(whole[: int(len(whole) * end)])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "XML is broken"),
        (b"Service down", "XML is broken"),
        (b"<html><body>Rate exceeded.</body></html>", "no OAI-PMH but <html>"),
        (
            b'<!DOCTYPE x [<!ENTITY e "e">]><OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">&e;</OAI-PMH>',
            "document type declaration",
        ),
        (b'<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><Identify/></OAI-PMH>', "no ListRecords"),
        (b'<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><ListRecords/></OAI-PMH>', "no responseDate"),
    ],
)
def test_anything_else_is_no_answer(content: bytes, why: str) -> None:
    with pytest.raises(BadAnswer, match=why):
        read_page(content)


@pytest.mark.parametrize(
    ("content", "other"),
    [
        (WEB_PAGE, True),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml"/>', True),
        (b"\n<HTML><br></HTML>", True),
        (b'<rss version="2.0"/>', True),
        (b"####", False),
        (b'<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><!-- <html> -->', False),
        (b'<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"/>', False),
    ],
)
def test_what_is_of_another_kind_is_told_from_what_is_not_whole(content: bytes, other: bool) -> None:
    with pytest.raises(BadAnswer) as caught:
        read_page(content)
    assert isinstance(caught.value, OtherAnswer) is other


def test_a_page_without_records_or_with_one_without_a_header_is_no_answer(records: list[Record]) -> None:
    whole = Repository(records[:2]).answer({"verb": "ListRecords", "metadataPrefix": "arXivRaw"})
    with pytest.raises(BadAnswer, match="holds no records"):
        read_page(whole.replace("record>", "entry>").encode())
    with pytest.raises(BadAnswer, match="record 2 has no identifier or no datestamp"):
        read_page(whole.replace(records[1].id, " ").encode())


def test_deleted_records_are_told_with_their_day(records: list[Record]) -> None:
    served = [records[0], deleted(records[1]), records[2]]
    page = read_page(Repository(served).answer({"verb": "ListRecords", "metadataPrefix": "arXivRaw"}).encode())
    [gone] = page.deleted
    assert (f"oai:arXiv.org:{gone.id}", gone.datestamp) == (records[1].id, records[1].datestamp)
    assert len(page.datestamps) == 3


def test_records_are_taken_out_as_they_came(records: list[Record], raw_records: list[Record]) -> None:
    served = [*records[:50], *raw_records]
    content = Repository(served).answer({"verb": "ListRecords", "metadataPrefix": "arXivRaw"}).encode()
    expected = [xml for _, xml in served_records(served)]
    assert [canonical(record.decode()) for record in records_in(content)] == expected


def test_sets_are_read(records: list[Record], raw_records: list[Record]) -> None:
    names, token = read_sets(Repository([*records, *raw_records]).answer({"verb": "ListSets"}).encode())
    assert {"cs", "physics:nucl-th"} <= set(names)
    assert token is None


@given(st.dates().map(str))
def test_a_day_is_a_day(day: str) -> None:
    assert is_day(day)
    assert not is_day(f"{day}T00:00:00Z")


@pytest.mark.parametrize(
    "text", ["", "2026-13-01", "2026-02-30", "20260101", "2026-W01-1", "yesterday", "２０２６-01-01"]
)
def test_what_is_no_day_is_none(text: str) -> None:
    assert not is_day(text)
