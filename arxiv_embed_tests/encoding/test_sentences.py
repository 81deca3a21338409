"""Sentence starts: abbreviations, initials and formulas."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.encoding.sentences import sentence_starts


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
    ],
)
def test_a_sentence_may_end_or_begin_with_a_formula_or_a_quotation(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


@given(st.text(alphabet=st.sampled_from("aB. \n!?$()[]\"'1é中"), max_size=60) | st.text(max_size=60))
def test_starts_ascend_from_0_within_any_text(text: str) -> None:
    starts = sentence_starts(text)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert all(start < len(text) for start in starts[1:])
