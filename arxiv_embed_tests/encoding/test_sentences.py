"""Sentence starts: abbreviations, initials, citations and formulas; and how many are right of those marked by hand."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.encoding.sentences import sentence_starts

MARKED = Path(__file__).with_name("marked_sentences.tsv")
"""Id, title and abstract of 150 papers drawn at even distances from arXiv's metadata (CC0), with a ¶ before every
sentence but the first, put there by hand."""


def sentences(text: str) -> list[str]:
    edges = [*sentence_starts(text), len(text)]
    return [text[a:b].strip() for a, b in itertools.pairwise(edges)]


def test_a_title_and_the_sentences_of_an_abstract_begin_where_they_begin() -> None:
    assert sentences("On stars\n\nWe look. We see! Do we? Yes.") == [
        "On stars",
        "We look.",
        "We see!",
        "Do we?",
        "Yes.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "As Smith et al. (2004) found",
        "As Smith et al. Found out",
        "See Fig. 3 and Figs. 4",
        "From Eq. (2) and Eqs. 3",
        "See Sect. 5 and Ref. [7]",
        "Stars, e.g. Vega",
        "(i.e. A and B)",
        "By J. Smith",
        "By J. R. R. Tolkien",
        "By J.-P. Serre",
        "By A.B. Jones",
        "By Prof. Weyl",
        "In Phys. Rev. Lett. 96",
        "In Commun. Math. Phys. 12",
        "Red vs. Blue",
        "A value of 3.14 and x.Y",
        "at $z=0.5$ and $f(x)$",
        "the end. and then",
        "of order approx. $x$",
        "a map, cf. $f$, resp. $g$",
        "w.r.t. Lebesgue measure, i. e. Haar's",
        "of i.i.d. Gaussian variables",
        "the U.S. Presidential election",
        "two strains of Halomonas sp. SK-1",
        "as in [Q. Zhou and K.-Q. Xia, J. Fluids. 104, 301 (2010)] and later",
        "as follows (see Smith, A new theory. Part one) again",
        "Stars of $G_1 ... $, in order",
    ],
)
def test_a_full_stop_within_a_sentence_does_not_end_it(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It is $E=mc^2$. Then", ["It is $E=mc^2$.", "Then"]),
        ("It is $O(n^2).$ Then", ["It is $O(n^2).$", "Then"]),
        (r"It is \emph{so.} Then", [r"It is \emph{so.}", "Then"]),
        ("It is so. $g$ acts", ["It is so.", "$g$ acts"]),
        (r"It is so. \emph{Then} all", ["It is so.", r"\emph{Then} all"]),
        ("He said “so.” Then", ["He said “so.”", "Then"]),
        ("It holds (see above.) Then", ["It holds (see above.)", "Then"]),
        ("In 2004. 5 stars", ["In 2004.", "5 stars"]),
        ("Let K act on R. The field", ["Let K act on R.", "The field"]),
        ("We follow Efron et al. Lastly we", ["We follow Efron et al.", "Lastly we"]),
        ("It melts at 273 K. Ice", ["It melts at 273 K.", "Ice"]),
        ("Cells, stars, etc. Galaxies", ["Cells, stars, etc.", "Galaxies"]),
        ("It is so (by [4, Thm. 2].) Then", ["It is so (by [4, Thm. 2].)", "Then"]),
        (r"It is so. {\it Then} all", ["It is so.", r"{\it Then} all"]),
        ("It is so. (ii) Then (iii) that", ["It is so.", "(ii) Then (iii) that"]),
        ("Two facts. 1. Stars shine. 2. Moons do", ["Two facts.", "1. Stars shine.", "2. Moons do"]),
        ("It is so. ----- Le stelle", ["It is so.", "----- Le stelle"]),
        ("Graph minors. XIII. Paths", ["Graph minors.", "XIII. Paths"]),
        ("A blank is forgotten.However, it", ["A blank is forgotten.", "However, it"]),
        ("Оно есть. Звезда", ["Оно есть.", "Звезда"]),
        ("我们看。它们是星！", ["我们看。", "它们是星！"]),
    ],
)
def test_a_sentence_may_end_or_begin_with_a_formula_or_a_quotation(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_sentences_marked_by_hand_in_real_abstracts_are_found() -> None:
    found = true = right = 0
    for line in MARKED.read_text(encoding="utf-8").splitlines():
        title, abstract = line.split("\t")[1:]
        marked = f"{title}\n\n{abstract}"
        text = marked.replace("¶", "")
        expected = {mark.start() - before for before, mark in enumerate(re.finditer("¶", marked))}
        starts = set(sentence_starts(text)) - {0, text.index("\n\n") + 2}
        found, true, right = found + len(starts), true + len(expected), right + len(starts & expected)
    assert true == 633
    assert 2 * right / (found + true) >= 0.995, f"F1 of {right} right among {found} found and {true} marked"


@given(st.text(alphabet=st.sampled_from("aB. \n!?$()[]\"'1é中"), max_size=60) | st.text(max_size=60))
def test_starts_ascend_from_0_within_any_text(text: str) -> None:
    starts = sentence_starts(text)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert all(start < len(text) for start in starts[1:])
