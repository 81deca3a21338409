"""Formulas as MathML: what is drawn, what is shown as it was written, and nothing that does harm."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arxiv_embed.web.mathml import LONGEST_FORMULA, mathml
from arxiv_embed_tests.web.markup import Reading

PIECES = [
    *"abx012+-=<>&\"'{}[]()^_ ~$|,.", r"\frac", r"\alpha", r"\mathbb{R}", r"\left(", r"\right)", r"\sqrt",
    r"\text{a<b}", r"\hat", r"\sum_", r"\begin{matrix}", r"\end{matrix}", r"\\", r"&",
    r"\href{javascript:x}{y}", r"\class{x}{y}", r"\style{x}{y}", r"\unknown", r"\color{red}", r"\rm", r"\cal",
    r"\limits", r"^{", r"_{", "\u202e", "é", "数",
]  # fmt: skip
SAFE = {
    "alttext", "display", "accent", "columnalign", "displaystyle", "fence", "form", "linethickness",
    "mathvariant", "maxsize", "minsize", "movablelimits", "scriptlevel", "separator", "stretchy", "symmetric",
    "width",
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "drawn"),
    [
        ("x_1", "<msub><mi>x</mi><mn>1</mn></msub>"),
        (r"\mathbb{R}^n", "<msup><mi>ℝ</mi><mi>n</mi></msup>"),
        (r"{\cal L}", "<mrow><mi>ℒ</mi></mrow>"),
        (r"\mathfrak{g}", "<mi>𝔤</mi>"),
        (r"\mathbf{x}", "<mi>𝐱</mi>"),
        (r"\R", "<mi>ℝ</mi>"),
        (r"\mathrm{Tr} A", '<mi mathvariant="normal">Tr</mi></mrow><mspace width="0.167em"></mspace><mi>A</mi>'),
        (r"\mathit{Ex}(n)", "<mi>𝐸𝑥</mi>"),
        (r"5\,{\rm GeV}", '<mi mathvariant="normal">GeV</mi>'),
        ("a<b", "<mi>a</mi><mo>&lt;</mo><mi>b</mi>"),
        (r"\frac{1}{2}", "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>"),
        (r"10\pm2", '<mn>10</mn><mo stretchy="false">±</mo><mn>2</mn>'),
        (r"n\log n", "<mi>log</mi>" + '<mspace width="0.167em"></mspace>' + "<mi>n</mi>"),
    ],
)
def test_a_formula_is_drawn(source: str, drawn: str) -> None:
    assert drawn in (mathml(source) or "")


def test_a_formula_keeps_its_latex_for_those_who_cannot_see_it() -> None:
    assert (mathml(r"a<\alpha") or "").startswith(r'<math alttext="a&lt;\alpha">')
    assert (mathml("x", display=True) or "").startswith('<math display="block" alttext="x">')


@pytest.mark.parametrize(
    "source",
    [
        "",
        " ",
        r"\myMacro x",
        r"\frac",
        "x^",
        "a^b^c",
        r"\left( x",
        r"\def\a{\b\b}\a",
        r"\newcommand{\a}{x}\a",
        r"\href{javascript:alert(1)}{x}",
        r"\style{color:red}{x}",
        "x" * (LONGEST_FORMULA + 1),
        "{" * 400 + "}" * 400,
    ],
    ids=range(13),
)
def test_what_cannot_be_drawn_whole_is_not_drawn(source: str) -> None:
    assert mathml(source) is None


@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=60))
def test_any_formula_is_well_formed_and_harmless(source: str) -> None:
    drawn = mathml(source)
    if drawn is None:
        return
    reading = Reading(drawn)
    assert all(re.fullmatch("m[a-z]+", element) for element in reading.elements)
    assert reading.attributes <= SAFE
    assert reading.seen == source
