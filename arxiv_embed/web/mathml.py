"""Formulas: LaTeX in math mode as MathML that browsers draw without a script, by latex2mathml.

Its output is taken apart and written anew, so that nothing but known elements and attributes reaches a page, and
letters of other alphabets (script, fraktur, double-struck) are characters of their own, as browsers now ignore
`mathvariant`.
"""

from __future__ import annotations

import html
import re
from functools import lru_cache
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element

LONGEST_FORMULA = 1_000
DEEPEST_NESTING = 40
FORMULAS_KEPT = 16_384

_ELEMENTS = frozenset(
    {
        "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msub", "msup", "msubsup", "munder", "mover",
        "munderover", "mfrac", "msqrt", "mroot", "mstyle", "mpadded", "mphantom", "mtable", "mtr", "mtd",
    }
)  # fmt: skip
_ATTRIBUTES = {
    "accent": "true|false",
    "columnalign": "left|center|right",
    "displaystyle": "true|false",
    "fence": "true|false",
    "form": "prefix|infix|postfix",
    "linethickness": r"\d+(\.\d+)?(em|px|pt)?",
    "mathvariant": "normal",
    "maxsize": r"\d+(\.\d+)?em",
    "minsize": r"\d+(\.\d+)?em",
    "movablelimits": "true|false",
    "scriptlevel": r"[+-]?[0-3]",
    "separator": "true|false",
    "stretchy": "true|false",
    "symmetric": "true|false",
    "width": r"-?[0-4](\.\d+)?(em|ex)",
}
_FORBIDDEN = re.compile(r"\\(?:newcommand|renewcommand|providecommand|def|let|require|href|style|class)(?![A-Za-z])")
"""What expands to more than is written, or says more than a formula."""

_SHORTHAND = re.compile(r"\\(?:([RCZNQ])\1?)(?![A-Za-z])")
"""The macros that most authors have for the sets of numbers."""

_OPERATORS = {"~": "∼", **{sign: sign for sign in "±∓∼⧵:⟨⟩"}}
"""Signs that the library takes for names, as they are to be written."""
_NAMES = frozenset("∞∂")
"""Signs that it takes for operators: they would stand with space around them."""

_ROWS = frozenset({"mrow", "mtd", "mstyle"})
_THIN_SPACE = '<mspace width="0.167em"></mspace>'

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALPHABETS = {  # first capital, first small letter, first digit
    "bold": (0x1D400, 0x1D41A, 0x1D7CE),
    "italic": (0x1D434, 0x1D44E, 0),
    "bold-italic": (0x1D468, 0x1D482, 0x1D7CE),
    "script": (0x1D49C, 0x1D4B6, 0),
    "bold-script": (0x1D4D0, 0x1D4EA, 0),
    "fraktur": (0x1D504, 0x1D51E, 0),
    "double-struck": (0x1D538, 0x1D552, 0x1D7D8),
    "sans-serif": (0x1D5A0, 0x1D5BA, 0x1D7E2),
    "monospace": (0x1D670, 0x1D68A, 0x1D7F6),
}
_ELSEWHERE = {  # letters that Unicode had before the others
    "italic": {"h": "ℎ"},
    "script": dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ", strict=True)),
    "fraktur": dict(zip("CHIRZ", "ℭℌℑℜℨ", strict=True)),
    "double-struck": dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ", strict=True)),
}


def _alphabet(variant: str) -> dict[int, str]:
    capital, small, digit = _ALPHABETS[variant]
    table = {ord(letter): chr(capital + place) for place, letter in enumerate(_LETTERS)}
    table |= {ord(letter.lower()): chr(small + place) for place, letter in enumerate(_LETTERS)}
    if digit:
        table |= {ord("0") + place: chr(digit + place) for place in range(10)}
    return table | {ord(letter): there for letter, there in _ELSEWHERE.get(variant, {}).items()}


_VARIANTS = {variant: _alphabet(variant) for variant in _ALPHABETS}


class NotAFormula(ValueError):
    """It has no MathML here: show it as it is written."""


@lru_cache(FORMULAS_KEPT)
def mathml(source: str, *, display: bool = False) -> str | None:
    """The formula (what stands between its dollars) as a `<math>` element, its LaTeX as `alttext`; None where it cannot
    be converted whole."""
    if len(source) > LONGEST_FORMULA or not source.strip() or _FORBIDDEN.search(source):
        return None
    try:
        tree = convert_to_element(_SHORTHAND.sub(r"\\mathbb{\1}", source))
        inner = "".join(_written(child, 0) for child in tree)
    except Exception:  # noqa: BLE001 - the library raises nothing narrower, and any text can be between two dollars
        return None
    block = ' display="block"' if display else ""
    return f'<math{block} alttext="{html.escape(source)}">{inner}</math>'


def _written(element: Element, depth: int) -> str:
    tag = element.tag
    if tag not in _ELEMENTS or depth > DEEPEST_NESTING:
        raise NotAFormula(tag)
    text = html.unescape(element.text or "").translate(_VARIANTS.get(element.get("mathvariant", ""), {}))
    if "\\" in text and text != "\\":
        raise NotAFormula(text)  # a command that the library does not know
    attributes = "".join(
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and re.fullmatch(_ATTRIBUTES[name], value)
    )
    if tag == "mi" and text in _OPERATORS:
        tag, text, attributes = "mo", _OPERATORS[text], ' stretchy="false"'
    elif tag == "mo" and text in _NAMES:
        tag = "mi"
    inner = html.escape(text)
    children = _words(element) if tag in _ROWS else list(element)
    for place, child in enumerate(children):
        if tag in _ROWS and place and _are_apart(children[place - 1], child):
            inner += _THIN_SPACE
        inner += _written(child, depth + 1)
    return f"<{tag}{attributes}>{inner}</{tag}>"


def _words(row: Element) -> list[Element]:
    r"""The children of a row, the letters of `\mathit{word}` as the one name that they are."""
    found: list[Element] = []
    for child in row:
        last = found[-1] if found else None
        if last is not None and _is_letter(last) and _is_letter(child) and last.attrib == child.attrib:
            found[-1] = Element("mi", last.attrib)
            found[-1].text = (last.text or "") + (child.text or "")
        else:
            found.append(child)
    return found


def _is_letter(element: Element) -> bool:
    return element.tag == "mi" and element.get("mathvariant") is not None and (element.text or "").isalpha()


def _are_apart(one: Element, other: Element) -> bool:
    """Whether a function's name (`log`) is one of two neighbours, and the other no operator."""
    apart = {"mo", "mspace", "mtext"}
    return (_is_name(one) or _is_name(other)) and one.tag not in apart and other.tag not in apart


def _is_name(element: Element) -> bool:
    if element.tag in {"msub", "msup", "msubsup", "munder"} and len(element):
        return _is_name(element[0])
    if element.tag == "mrow" and len(words := _words(element)) == 1:
        return _is_name(words[0])
    return element.tag == "mi" and len(element.text or "") > 1 and (element.text or "").isalpha()
