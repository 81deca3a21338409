"""Records: what of a record's fields becomes a paper, and what makes it none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.metadata.paper import NotAPaper, Paper, fold
from arxiv_embed.metadata.records import paper_of
from arxiv_embed_tests.metadata.folders import record


@given(st.text(st.characters() | st.sampled_from(" \n\t\0\x1c\x85\xa0\u2003")))
def test_folding_leaves_single_blanks_between_words(text: str) -> None:
    assert fold(text) == " ".join(text.replace("\0", " ").split())


def test_a_kaggle_record_becomes_a_paper() -> None:
    paper = paper_of(
        record(
            "0704.0001",
            title="Calculation of prompt\n  diphoton production",
            abstract="  A fully $\\alpha$ calculation\nis presented.\n",
            authors="C. Bal\\'azs, E. L. Berger",
            versions=[
                {"version": "v1", "created": "Mon, 2 Apr 2007 19:18:42 GMT"},
                {"version": "v2", "created": "Tue, 24 Jul 2007 20:10:27 GMT"},
            ],
            update_date="2008-11-26",
            doi="10.1103/PhysRevD.76.013009",
        )
    )
    assert paper == Paper(
        id="0704.0001",
        version=2,
        title="Calculation of prompt diphoton production",
        abstract="A fully $\\alpha$ calculation is presented.",
        authors="C. Bal\\'azs, E. L. Berger",
        categories=("cs.LG", "math.ST"),
        published="2007-04-02",
        updated="2008-11-26",
        withdrawn=False,
        fields='{"doi":"10.1103/PhysRevD.76.013009"}',
    )
    assert paper.text == f"{paper.title}\n\n{paper.abstract}"


def test_a_file_of_one_paper_takes_its_id_and_version_from_its_name() -> None:
    fields = {
        "title": "A title",
        "abstract": "Two words",
        "authors": ["Ada  Lovelace", "B. Babbage"],
        "categories": ["cs.LG", "stat.ML"],
        "published": "2024-01-02T18:00:00Z",
        "updated": "2024-03-04T00:00:00+00:00",
    }
    paper = paper_of(fields, "2401.01234v3")
    assert (paper.id, paper.version) == ("2401.01234", 3)
    assert paper.authors == "Ada Lovelace, B. Babbage"
    assert paper.categories == ("cs.LG", "stat.ML")
    assert (paper.published, paper.updated) == ("2024-01-02", "2024-03-04")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"abstract": None}, "abstract missing"),
        ({"abstract": ""}, "abstract empty"),
        ({"abstract": " \n\t"}, "abstract empty"),
        ({"abstract": "Yes."}, "abstract is one word"),
        ({"abstract": ["Two words"]}, "abstract is not a text"),
        ({"title": None}, "title missing"),
        ({"title": "  "}, "title empty"),
        ({"title": {"text": "T"}}, "title is not a text"),
        ({"id": None}, "id missing"),
        ({"id": ""}, "id missing"),
        ({"id": 704.0001}, "id was mangled by a floating point number"),
        ({"id": "704.001"}, "id was mangled by a floating point number"),
        ({"id": 7040001}, "id is not a text"),
        ({"id": {"value": "0704.0001"}}, "id is not a text"),
    ],
)
def test_what_cannot_be_a_paper_says_why(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotAPaper) as refused:
        paper_of(record("0704.0001") | change)
    assert str(refused.value) == reason


nested = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["authors", "categories", "versions", "published", "updated", "update_date", "created", "comments"]


@given(st.dictionaries(st.sampled_from([*FIELDS, "title", "abstract", "id"]), nested))
def test_no_nested_surprise_raises_anything_but_its_reason(surprise: dict[str, Any]) -> None:
    try:
        paper = paper_of(record("0704.0001") | surprise)
    except NotAPaper:
        assert {"id", "title", "abstract"} & set(surprise)
        return
    assert all(day == "" or (len(day) == 10 and day[4] == day[7] == "-") for day in (paper.published, paper.updated))


@pytest.mark.parametrize(
    "date", ["zzzz-99-99", "2020-13-01", "Mon, 99999999999999999999 Apr 2007 00:00:00 GMT", "soon", "x" * 1000]
)
def test_a_date_that_is_none_does_not_count_as_the_newest(date: str) -> None:
    assert paper_of(record("0704.0001", update_date=date)).updated == ""


@pytest.mark.parametrize(
    "said",
    [
        "This paper has been withdrawn by the author due to a crucial error in eq. 3.",
        "This paper is temporarily withdrawn in preparation for journal submission",
        "Paper withdrawn. (Lemma 2.1 is false.)",
        "LaTeX2e, 9 pages. Paper withdrawn.",
        "Withdrawn by arXiv administration.",
        "WITHDRAWN: see the new version",
        "7 pages. Withdrawn pending publication",
        "I withdraw this article because one of the references has changed.",
        "The article is already withdrawn",
        "arXiv admin note: this submission was withdrawn by arXiv administrators",
    ],
)
def test_a_withdrawn_paper_is_a_paper_marked_withdrawn(said: str) -> None:
    assert paper_of(record("0704.0001", comments=said)).withdrawn
    assert paper_of(record("0704.0001", abstract=said)).withdrawn


@pytest.mark.parametrize(
    "said",
    [
        "Approved drugs are withdrawn from the market when they prove toxic.",
        "A vertical solid plate is withdrawn from a bath of partially wetting liquid.",
        "Guaranteed Minimum Withdrawal Benefit under optimal withdrawing.",
        "26 pages, 1 figure. A part on SPA conjecture is withdrawn",
        "3 pages. Theorem 3 withdrawn of this version",
        "this paper is a partial replacement of the withdrawn paper 1301.0001",
    ],
)
def test_other_withdrawals_leave_a_paper_as_it_is(said: str) -> None:
    assert not paper_of(record("0704.0001", comments=said)).withdrawn
    assert not paper_of(record("0704.0001", abstract=said)).withdrawn
