"""Titles and abstracts as HTML: LaTeX as the character that is meant, one passage marked, every text kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.web.latex import leaves
from arxiv_embed.web.marking import CONTEXT, LONG_TEXT, excerpt, rendered
from arxiv_embed_tests.web.markup import Reading

STYLES = {"mark", "em", "strong", "code", "u", "span"}
PLAIN = st.text(st.characters(exclude_characters="\\${}~`'-\r\0", exclude_categories=["Cs"]))
PIECES = [
    *"abc .,$\\{}~`'\"-<>&^_", r"$x_1$", r"$$y$$", r"\(z\)", r"\[w\]", r"$\bad$", r"\'e", r"\c{c}", r"{\o}",
    r"\emph{", r"{\em", r"\textbf{", r"{\bf", r"}", r"--", r"---", r"``", r"''", r"\%", r"\$", r'\"o',
    r"\alpha ", r"\c c", "<script>", "&amp;", "é",
]  # fmt: skip
LATEX = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
ANY = LATEX | st.text(max_size=80)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (r"Schr{\"o}dinger, Schr\"odinger, Schr\"{o}dinger", "Schrödinger, Schrödinger, Schrödinger"),
        (r"P. Erd\H{o}s, Erd{\H o}s, P\'olya, Ho\v{r}ava", "P. Erdős, Erdős, Pólya, Hořava"),
        (r"{\O}rsted, S\o ren, \L ojasiewicz, Gau{\ss}", "Ørsted, Søren, Łojasiewicz, Gauß"),
        (r"na\"{\i}ve, na{\"\i}ve", "naïve, naïve"),
        (r"{\'Etale} and {A}", "Étale and {A}"),
        ("pages 1--2, a -- b --- c", "pages 1–2, a – b — c"),
        ("--force and x --> y", "--force and x --> y"),
        ("``quoted'' and it's", "“quoted” and it's"),
        ("Fig.~2 of Smith~et~al", "Fig.\u00a02 of Smith\u00a0et\u00a0al"),
        ("~10 at http://x.edu/~me, z~2", "~10 at http://x.edu/~me, z~2"),
        (r"50\% \& \$5 \_ \# \{x\}", "50% & $5 _ # {x}"),
        (r"\emph{the} {\bf best} \texttt{code} \textsc{Caps}", "the best code Caps"),
        (r"the \alpha particle", "the α particle"),
        ("costs $5 million and then $10 million", "costs $5 million and then $10 million"),
        (r"see \cite{x} and \unknown{y}", r"see \cite{x} and \unknown{y}"),
        (r"\emph{never closed and {\em so", r"\emph{never closed and {\em so"),
        (r"say \"word\" then", r"say \"word\" then"),
        (r"Petojevi\' c's and Euler\'s", "Petojević's and Euler's"),
        (r"$\myMacro_1$ is shown", r"$\myMacro_1$ is shown"),
        (r"$x$, $$y$$, \(z\), \[w\]", "x, y, z, w"),
    ],
)
def test_latex_is_shown_as_what_it_means(source: str, shown: str) -> None:
    assert Reading(rendered(source)).seen == shown


def test_a_style_is_an_element() -> None:
    assert rendered(r"a \emph{b $x$} {\bf c}").startswith("a <em>b <math")
    assert rendered(r"a {\bf c}") == "a <strong>c</strong>"
    assert rendered(r"\textsc{Caps}") == '<span class="small-caps">Caps</span>'


def test_what_is_html_in_a_text_is_shown_as_text() -> None:
    assert rendered('<script>alert("x")</script> & more') == (
        "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; more"
    )


@pytest.mark.parametrize("end", range(len("We have $"), len(r"We have $x^2$ and")))
def test_a_border_within_a_formula_takes_the_formula_whole(end: int) -> None:
    shown = rendered(r"We have $x^2$ and more", 0, end)
    assert Reading(shown).marked.startswith("We have x^2")
    assert shown.count("<math") == 1


def test_a_mark_within_a_style_and_across_it_is_well_formed() -> None:
    text = r"one \emph{two three} four"
    start, end = text.index("three"), text.index("four") + 2
    assert rendered(text, start, end) == "one <em>two </em><mark><em>three</em> fo</mark>ur"


def test_a_mark_does_not_begin_or_end_with_a_blank() -> None:
    assert rendered("one two three", 3, 8) == "one <mark>two</mark> three"


@given(ANY)
def test_leaves_are_the_text_without_a_gap(text: str) -> None:
    found = leaves(text)
    assert [leaf.start for leaf in found] == [0, *(leaf.end for leaf in found)][:-1] if found else not text
    assert "".join(text[leaf.start : leaf.end] for leaf in found) == text
    assert all(leaf.start < leaf.end for leaf in found)


@given(ANY, st.data())
def test_any_text_with_any_mark_is_well_formed_and_shows_what_it_shows_unmarked(text: str, data: st.DataObject) -> None:
    start, end = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))
    marked, plain = Reading(rendered(text, start, end)), Reading(rendered(text))
    assert marked.seen == plain.seen
    elements = {element for element in marked.elements if not element.startswith("m") or element == "mark"}
    assert elements <= STYLES


@given(PLAIN, st.data())
def test_text_without_latex_is_shown_and_marked_to_the_character(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    reading = Reading(rendered(text, start, end))
    assert reading.seen == text
    assert reading.marked == text[start:end].strip()


@given(st.integers(0, 4000), st.integers(0, 2000))
def test_an_excerpt_has_its_passage_or_the_beginning_of_a_long_one(start: int, length: int) -> None:
    text = "words of five letters, " * 200
    start = min(start, len(text))
    end = min(start + length, len(text))
    low, high = excerpt(text, start, end)
    assert 0 <= low <= start
    assert high >= end or high - low > LONG_TEXT - 2 * len(" letters, ")
    assert high <= len(text)
    assert high - low <= LONG_TEXT
    assert low == 0 or text[low - 1] == " " or start - low == CONTEXT


def test_a_text_that_is_not_long_is_its_own_excerpt() -> None:
    assert excerpt("x" * LONG_TEXT, 3, 5) == (0, LONG_TEXT)
