"""LaTeX in a record's text: where its braces match and its math stands, and which letters its accents are on."""

from __future__ import annotations

import re
import unicodedata

_BRACE = re.compile(r"\\[\\{}]|[{}]")
_MATH = re.compile(
    r"(?P<math>\\\((?:(?!\\\().)+?\\\)|\\\[(?:(?!\\\[).)+?\\\]|\$\$(?:\\.|[^$\\])+\$\$|\$(?:\\.|[^$\\])+\$)|\\.",
    re.DOTALL,
)
_LETTER = re.compile(r"\\(AE|OE|AA|ae|oe|aa|ss|O|o|L|l|i|j)(?![A-Za-z])")
_ACCENT = re.compile(r"\\(?:[A-Za-z](?=[\s{])|[`'^\"~=.])")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)", re.DOTALL)
_UNACCENTED = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
    | {"ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"}
)


def unmatched_braces(text: str) -> set[int]:
    r"""Where the braces stand that have no partner; `\{` is one of `\}`, though BibTeX counts it as any other."""
    open_plain: list[int] = []
    open_escaped: list[int] = []
    unmatched = set()
    for found in _BRACE.finditer(text):
        token, place = found[0], found.end() - 1
        if token == "\\\\":
            continue
        still_open = open_escaped if len(token) == 2 else open_plain
        if token[-1] == "{":
            still_open.append(place)
        elif still_open:
            still_open.pop()
        else:
            unmatched.add(place)
    return unmatched | {*open_plain, *open_escaped}


def math_spans(text: str) -> list[tuple[int, int]]:
    r"""The characters of each formula between `$`, `$$`, `\(` or `\[` and what closes it, these included."""
    return [found.span() for found in _MATH.finditer(text) if found["math"]]


def ascii_letters(text: str) -> str:
    r"""The text in ASCII, accents taken off (`Bal\'azs`, `{\O}bro`, `Weiß`), without other commands and braces."""
    text = _LETTER.sub(r"\1", text)
    text = _COMMAND.sub(" ", _ACCENT.sub("", text))
    letters = unicodedata.normalize("NFKD", text.translate(_UNACCENTED))
    return re.sub(r"[{}]", "", letters).encode("ascii", "ignore").decode()
