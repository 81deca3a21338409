"""LaTeX in text mode, as titles and abstracts have it: leaves of text, characters, formulas, each knowing its source.

What is not known here stays as it is written, so no text is ever lost.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from html import escape
from typing import NamedTuple

from latex2mathml.symbols_parser import convert_symbol

from arxiv_embed.web.mathml import LONGEST_FORMULA, mathml

TEXTS_KEPT = 2_048


class Leaf(NamedTuple):
    """The characters `start` to `end` of a text. `markup` is their HTML, "" for what only governs its surroundings;
    None for plain text, which is shown as it is and may be split anywhere."""

    start: int
    end: int
    markup: str | None
    styles: tuple[str, ...]


_TOKEN = re.compile(
    r"""
      (?P<display> \$\$ (?:\\.|[^\\$]){1,LONGEST}? \$\$ | \\\[ .{1,LONGEST}? \\\] )
    | (?P<formula> \$ (?:\\.|[^\\$]){1,LONGEST}? \$ | \\\( .{1,LONGEST}? \\\) )
    | \\(?P<accent>['`"^~=.]|[vHucdbkr](?![A-Za-z]))\s*
        (?: \{\s*\\?(?P<braced>[A-Za-z])\s*\} | \\(?P<dotless>[ij])(?![A-Za-z])\s? | (?P<bare>[A-Za-z]) )
    | \\(?P<styled>emph|text(?:it|sl|bf|tt|sc|rm|sf|up)?|mbox|underline)\s*(?=\{)
    | \\(?P<word>[A-Za-z]+)(?P<after>\{\}|\s?)
    | \\(?P<escaped>[%&_#${} ,;:!/@-])
    | (?P<brace>\{)
    | (?P<dash>(?<![-<!])-{2,3}(?![->]))
    | (?P<quote>``|'')
    | (?P<tie>~)
    """.replace("LONGEST", str(LONGEST_FORMULA)),
    re.X | re.S,
)
_PLAIN = re.compile(r"[^\\${}~`'-]*")
_BRACE = re.compile(r"\\.|[{}]", re.S)
_GROUP = re.compile(r"\{\s*\\(em|it|sl|bf|tt|sc|rm|sf)(?![A-Za-z])\s*")
_MONEY = re.compile(r"\d(?=[^\\^_{]*$)(?:.*\s[A-Za-z]{2,}|.*\s$)", re.S)

_STYLES = {
    **dict.fromkeys(("emph", "textit", "textsl", "em", "it", "sl"), "em"),
    **dict.fromkeys(("textbf", "bf"), "strong"),
    **dict.fromkeys(("texttt", "tt"), "code"),
    **dict.fromkeys(("textsc", "sc"), "small-caps"),
    "underline": "u",
}
_COMBINING = {
    "'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307",
    "v": "\u030c", "H": "\u030b", "u": "\u0306", "c": "\u0327", "d": "\u0323", "b": "\u0331", "k": "\u0328",
    "r": "\u030a",
}  # fmt: skip
_WITH_DIAERESIS = frozenset("aeiouyAEIOUY")
_LETTERS = {
    "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å", "ss": "ß",
    "i": "ı", "j": "ȷ", "dh": "ð", "DH": "Ð", "th": "þ", "TH": "Þ", "dj": "đ", "DJ": "Đ",
}  # fmt: skip
"""Letters: as in TeX, a blank that ends such a command is not seen."""
_SIGNS = {
    "S": "§", "P": "¶", "dag": "†", "ddag": "‡", "copyright": "©", "pounds": "£", "ldots": "…", "dots": "…",
    "textendash": "–", "textemdash": "—", "textquotedblleft": "“", "textquotedblright": "”", "textquoteright": "’",
    "textquoteleft": "‘", "textdegree": "°", "textregistered": "®", "texttrademark": "™", "texttimes": "×",
    "textmu": "µ", "textasciitilde": "~", "textbackslash": "\\", "textunderscore": "_", "textasciicircum": "^",
    "quad": "\u2003", "qquad": "\u2003\u2003", "TeX": "TeX", "LaTeX": "LaTeX", "sim": "∼",
}  # fmt: skip
_SPACES = {",": "\u2009", ";": "\u2009", ":": "\u2009", " ": " ", "!": "", "/": "", "@": "", "-": ""}


@lru_cache(TEXTS_KEPT)
def leaves(text: str) -> tuple[Leaf, ...]:
    """The text in pieces: in order, without a gap, none empty."""
    return tuple(_leaves(text))


def _leaves(text: str) -> list[Leaf]:
    found: list[Leaf] = []
    closing = _closing_braces(text)
    open_groups: list[tuple[int, tuple[str, ...]]] = []  # where each ends, and the styles before it
    styles: tuple[str, ...] = ()

    def take(end: int, markup: str | None) -> None:
        """The leaf from where the last one ended; plain ones that follow each other are one."""
        start = found[-1].end if found else 0
        if markup is None and found and found[-1].markup is None and found[-1].styles == styles:
            found[-1] = found[-1]._replace(end=end)
        elif start < end:
            found.append(Leaf(start, end, markup, styles))

    place = 0
    while place < len(text):
        while open_groups and open_groups[-1][0] <= place:
            end, before = open_groups.pop()
            if end == place:
                take(place + 1, "")
                place += 1
            styles = before
        if place >= len(text):
            break
        token = _TOKEN.match(text, place)
        if token is None:
            plain = _PLAIN.match(text, place + 1)
            place = plain.end() if plain else place + 1
            take(place, None)
            continue
        group = _group_begun(text, place, token, closing)
        if group is not None:
            begin, end, style = group
            take(begin, "")
            open_groups.append((end, styles))
            styles = styles if style is None or style in styles else (*styles, style)
            place = begin
            continue
        place = token.end()
        take(place, _markup(text, token))
    return found


def _closing_braces(text: str) -> dict[int, int]:
    """The place of each opening brace that is closed → that of its closing one."""
    pairs: dict[int, int] = {}
    waiting: list[int] = []
    for found in _BRACE.finditer(text):
        if found[0] == "{":
            waiting.append(found.start())
        elif found[0] == "}" and waiting:
            pairs[waiting.pop()] = found.start()
    return pairs


def _group_begun(
    text: str, place: int, token: re.Match[str], closing: dict[int, int]
) -> tuple[int, int, str | None] | None:
    """Where the inside of a group begins and ends whose braces are not shown, and its style; None for no such group."""
    if token["styled"] is not None:
        end = closing.get(token.end())
        return None if end is None else (token.end() + 1, end, _STYLES.get(token["styled"]))
    if token["brace"] is None or place not in closing:
        return None
    if style := _GROUP.match(text, place):
        return (style.end(), closing[place], _STYLES.get(style[1])) if style.end() <= closing[place] else None
    inside = _TOKEN.match(text, place + 1)
    if inside is not None and inside.end() <= closing[place] and (inside["accent"] or inside["word"]):
        return (place + 1, closing[place], None) if _markup(text, inside) is not None else None
    return None


def _markup(text: str, token: re.Match[str]) -> str | None:
    """The HTML of what a token stands for; None where it is shown as it is written."""
    kind = token.lastgroup
    if token["display"] is not None:
        return mathml(token["display"][2:-2], display=True)
    if token["formula"] is not None:
        return _formula(text, token)
    if token["accent"] is not None:
        letter = token["braced"] or token["dotless"] or token["bare"]
        if token["bare"] and token["accent"] == '"' and (letter not in _WITH_DIAERESIS or len(token[0]) > len(r"\"a")):
            return None  # a quotation mark, and the next word
        if token[0] == r"\'s" and text[token.start() - 1 : token.start()].isalpha() and _ends_word(text, token.end()):
            return "'s"
        composed = unicodedata.normalize("NFC", letter + _COMBINING[token["accent"]])
        return composed if len(composed) == 1 else None
    if token["word"] is not None:
        return _word(token["word"], token["after"])
    if kind == "escaped":
        return escape(_SPACES.get(token["escaped"], token["escaped"]))
    if kind == "dash":
        option = token.start() == 0 or text[token.start() - 1].isspace()
        if option and text[token.end() : token.end() + 1].isalpha():
            return None  # a command's --option
        return "–" if len(token["dash"]) == 2 else "—"
    if kind == "quote":
        return "“" if token["quote"] == "``" else "”"
    if kind == "tie":
        return "\u00a0" if _is_tie(text, token.start()) else None
    return None


def _ends_word(text: str, place: int) -> bool:
    return not text[place : place + 1].isalpha()


def _formula(text: str, token: re.Match[str]) -> str | None:
    written: str = token["formula"]
    if written.startswith("\\"):
        return mathml(written[2:-2])
    return None if _MONEY.match(written, 1, len(written) - 1) else mathml(written[1:-1])


def _word(word: str, after: str) -> str | None:
    if word in _LETTERS:
        return _LETTERS[word]
    shown = _SIGNS.get(word)
    if shown is None:
        symbol = convert_symbol(f"\\{word}") if len(word) > 1 else None
        shown = chr(int(symbol, 16)) if symbol and "-" not in symbol else None
        if shown and unicodedata.category(shown).startswith("M"):
            return None  # it stands above what follows
    return None if shown is None else escape(shown) + ("" if after == "{}" else after)


def _is_tie(text: str, place: int) -> bool:
    """Whether a tilde keeps two words together; it is no part of an address, nor does it say "about"."""
    before, after = text[max(0, place - 2) : place], text[place + 1 : place + 2]
    if len(before) < 2 or not after or before[-1].isspace() or after.isspace() or before[-1] in "/(~":
        return False
    return before[-1] in ".,;:)]" or (before.isalpha() and before.isascii()) or not after.isdigit()
