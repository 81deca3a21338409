"""Authors: the lines of real records, taken apart as arXiv took them apart itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.metadata.authors import split_authors
from arxiv_embed.metadata.latex import ascii_letters, math_spans, unmatched_braces
from arxiv_embed.metadata.paper import fold


def letters(name: str) -> str:
    """arXiv's own parts are in Unicode, its lines in LaTeX."""
    return "".join(ascii_letters(name).split())


def test_lines_of_the_snapshot_are_split_as_arxiv_has_split_them(examples: Path) -> None:
    records = [json.loads(line) for line in (examples / "kaggle-2007.jsonl").read_text().splitlines()]
    assert len(records) > 90
    for record in records:
        truth = [" ".join((given, family, suffix)) for family, given, suffix, *_ in record["authors_parsed"]]
        line = split_authors(fold(record["authors"]))
        assert [letters(author.name) for author in line.authors] == [letters(name) for name in truth]
        assert line.and_others == ("et al" in record["authors"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A. Ant, B. Bee, and C. Cat and D. Dog", ["A. Ant", "B. Bee", "C. Cat", "D. Dog"]),
        ("A. Ant (1 and 2), B. Bee (1) ((1) X, Y; (2) Z and W)", ["A. Ant", "B. Bee"]),
        ("A. Ant (MIT, B. Bee", ["A. Ant"]),
        ("Stephan Gekle \\and José Manuel Gordillo", ["Stephan Gekle", "José Manuel Gordillo"]),
        ("{Matheus Bellini, Ana Boero", ["Matheus Bellini", "Ana Boero"]),
        ("{\\v{S}} Ant, \\{=}anis Bee", ["{\\v{S}} Ant", "\\=anis Bee"]),
        ("Keith Vander Linden, ; Barbara Di Eugenio", ["Keith Vander Linden", "Barbara Di Eugenio"]),
        ("Smith, J., Doe, A. B.", ["J. Smith", "A. B. Doe"]),
        ("Robert W. Heath, Jr., J.P.Hague", ["Robert W. Heath Jr.", "J. P. Hague"]),
        ("NEMO-3 Collaboration, :, R. Arnold", ["*NEMO-3 Collaboration", "R. Arnold"]),
        ("Fabio Pupilli, for the OPERA Collaboration", ["Fabio Pupilli", "*OPERA Collaboration"]),
        ("L. Fabbietti for the FOPI Collaboration", ["L. Fabbietti", "*FOPI Collaboration"]),
        ("K. Nishimura on behalf of the Belle II Group", ["K. Nishimura", "*Belle II Group"]),
        ("A. Ant (for the X Collaboration)", ["A. Ant", "*X Collaboration"]),
        ("A. Ant for the X Collaboration and the Y Collaboration", ["A. Ant", "*X Collaboration", "*Y Collaboration"]),
        ("{ATLAS and CMS Collaborations}", ["*{ATLAS and CMS Collaborations}"]),
        ("J. ~Barrette et. al", ["J. Barrette", "…"]),
        ("F. Aharonian, et al", ["F. Aharonian", "…"]),
        ("", []),
        (" , :, 1", []),
    ],
)
def test_every_shape_of_a_line_gives_its_people_and_groups(line: str, expected: list[str]) -> None:
    found = split_authors(line)
    told = [f"{'*' if author.is_group else ''}{author.name}" for author in found.authors]
    assert [*told, *(["…"] if found.and_others else [])] == expected


@given(st.lists(st.text("abcé", min_size=2, max_size=6), max_size=5), st.sampled_from([", ", "; ", " and ", " & "]))
def test_no_author_is_lost_whatever_separates_them(names: list[str], separator: str) -> None:
    authors = [f"A. {name.capitalize()}" for name in names]
    assert [author.name for author in split_authors(separator.join(authors)).authors] == authors


@given(st.text("ab \\{}$(),"))
def test_any_text_has_braces_formulas_and_authors(text: str) -> None:
    split_authors(text)
    for start, end in math_spans(text):
        assert text[start] in "$\\"
        assert text[end - 1] in "$)]"
    assert all(text[place] in "{}" for place in unmatched_braces(text))


@given(st.text("a{}"))
def test_braces_match_once_the_unmatched_are_gone(text: str) -> None:
    unmatched = unmatched_braces(text)
    kept = "".join(letter for place, letter in enumerate(text) if place not in unmatched)
    assert unmatched_braces(kept) == set()


@pytest.mark.parametrize("opens", [r"\(", r"\["])
def test_a_formula_that_is_not_closed_reaches_into_no_other(opens: str) -> None:
    closes = {r"\(": r"\)", r"\[": r"\]"}[opens]
    formula = f"{opens}a{closes}"
    assert math_spans(f"{opens} and {formula}") == [(7, 12)]
    assert math_spans(100_000 * opens) == []  # as fast as any other text
