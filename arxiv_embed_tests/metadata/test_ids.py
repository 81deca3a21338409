"""Ids: every way of writing one comes to one canonical form, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.metadata.ids import canonical_id, id_in_name, month_of
from arxiv_embed.metadata.paper import NotAPaper


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("0704.0001", ("0704.0001", 0)),
        ("2401.01234v2", ("2401.01234", 2)),
        ("1412.9999v12", ("1412.9999", 12)),
        ("hep-th/9901001", ("hep-th/9901001", 0)),
        ("hep-th_9901001v3", ("hep-th/9901001", 3)),
        ("math.GT/0309136", ("math/0309136", 0)),
        ("cond-mat.mes-hall/0611918v1", ("cond-mat/0611918", 1)),
        ("physics.optics/0405001", ("physics/0405001", 0)),
        ("arXiv:0704.0001", ("0704.0001", 0)),
        ("arxiv: hep-th/9901001v2", ("hep-th/9901001", 2)),
        ("oai:arXiv.org:0704.0001", ("0704.0001", 0)),
        ("http://arxiv.org/abs/2104.12255v1", ("2104.12255", 1)),
        ("https://export.arxiv.org/abs/astro-ph/0601001", ("astro-ph/0601001", 0)),
        ("https://arxiv.org/pdf/2401.01234v2", ("2401.01234", 2)),
        (" 0704.0001\n", ("0704.0001", 0)),
    ],
)
def test_every_way_of_writing_an_id_has_one_canonical_form(raw: str, expected: tuple[str, int]) -> None:
    assert canonical_id(raw) == expected


@pytest.mark.parametrize(
    "raw", ["704.001", "704.0001", "704.0", "802.1", "2401.0123", "2401.1", "1001.001", "704.0001e0", "1e-05", "7.04"]
)
def test_an_id_that_went_through_a_float_is_never_a_paper(raw: str) -> None:
    with pytest.raises(NotAPaper):
        canonical_id(raw)


@pytest.mark.parametrize("raw", ["704.001", "704.0001", "2401.0123", "1001.001"])
def test_an_id_mangled_by_a_float_says_so(raw: str) -> None:
    with pytest.raises(NotAPaper, match="mangled by a floating point"):
        canonical_id(raw)


@pytest.mark.parametrize(
    "raw",
    [
        "0704.00001",  # five digits came with 2015
        "1500.00001",
        "0713.0001",
        "9901.0001",  # before the numbering of 2007
        "hep-th/0804001",  # after it
        "hep-th/990100",
        "hep-th/9913001",
        "0704.0001v0",
        "0704.0001v",
        "٠٧٠٤.٠٠٠١",
        "hep-th/99٠١٠٠١",
        "0704.0001\n0704.0002",
        "nonsense",
    ],
)
def test_what_is_not_an_arxiv_id_is_refused(raw: str) -> None:
    with pytest.raises(NotAPaper, match="not an arXiv id"):
        canonical_id(raw)


@pytest.mark.parametrize("raw", ["", "  \n"])
def test_an_empty_id_counts_as_missing(raw: str) -> None:
    with pytest.raises(NotAPaper, match="id missing"):
        canonical_id(raw)


def numbers(years: range, digits: int) -> st.SearchStrategy[str]:
    return st.builds(
        lambda year, month, number: f"{year % 100:02d}{month:02d}.{number:0{digits}d}",
        st.sampled_from(years),
        st.integers(1, 12),
        st.integers(1, 10**digits - 1),
    )


@given(st.one_of(numbers(range(2008, 2015), 4), numbers(range(2015, 2090), 5)), st.integers(0, 999))
def test_canonical_ids_are_their_own_canonical_form(paper_id: str, version: int) -> None:
    written = f"arXiv:{paper_id}v{version}" if version else paper_id
    assert canonical_id(written) == (paper_id, version)
    assert canonical_id(paper_id) == (paper_id, 0)
    assert month_of(paper_id) == paper_id[:4]


@given(st.text())
def test_any_text_is_an_id_or_refused(raw: str) -> None:
    try:
        paper_id, version = canonical_id(raw)
    except NotAPaper:
        return
    assert canonical_id(paper_id) == (paper_id, 0)
    assert version >= 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("2401.01234.json", "2401.01234"),
        ("a/b/2401.01234v2.json.gz", "2401.01234v2"),
        ("hep-th_9901001.json.zst", "hep-th_9901001"),
        ("0704.0001.xml", "0704.0001"),
        ("0704.0001", "0704.0001"),
        ("2401.01234.pdf", None),
        ("2401.jsonl", None),
        ("snapshot.json", None),
        ("0704.00001.json", None),
    ],
)
def test_a_file_of_one_paper_is_named_by_its_id(name: str, expected: str | None) -> None:
    assert id_in_name(name) == expected
