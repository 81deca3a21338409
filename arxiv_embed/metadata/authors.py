"""Authors: the people and groups that a record's line of authors names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from arxiv_embed.metadata.latex import unmatched_braces
from arxiv_embed.metadata.paper import fold

_GROUP = r"(?:collaborations?|consortium|team|group|project|network|experiment)"
_IS_GROUP = re.compile(rf"(?:.*\W)?{_GROUP}\W*", re.IGNORECASE)
_FOR_GROUP = re.compile(r"(?:^|\s)(?:for\s+the|on\s+behalf\s+of(?:\s+the)?)\s+", re.IGNORECASE)
_INNERMOST = re.compile(r"\(([^()]*)\)")
_SEPARATOR = re.compile(r"(?P<brace>\\?[{}])|[,;]|\\and\b|(?<!\S)(?:and|&)(?!\S)")
_ET_AL = re.compile(r"(?:^|\s)et\.?\s*al\.?$", re.IGNORECASE)
_SUFFIX = re.compile(r"(?:Jr|Sr|II|III|IV)\.?")
_INITIAL = re.compile(r"(?<![\w\\])([^\W\d_][a-z]?\.)(?=[^\W\d_])")
_INITIALS = re.compile(r"(?:[^\W\d_]\.[\s-]*)+")


@dataclass(frozen=True)
class Author:
    """A person, given names first, or a group such as a collaboration; LaTeX as the record has it."""

    name: str
    is_group: bool = False

    @property
    def parts(self) -> tuple[str, str, str]:
        """Given names, family name with what belongs before it ("van der Waals"), and suffix ("Jr")."""
        if self.is_group:
            return "", self.name, ""
        words = self.name.split(" ")
        suffix = words.pop() if len(words) > 1 and _SUFFIX.fullmatch(words[-1]) else ""
        first = next((place for place, word in enumerate(words[:-1]) if place and word[:1].islower()), len(words) - 1)
        return " ".join(words[:first]), " ".join(words[first:]), suffix


@dataclass(frozen=True)
class AuthorLine:
    """`and_others` where the line ends in "et al.\""""

    authors: tuple[Author, ...]
    and_others: bool = False


def split_authors(line: str) -> AuthorLine:
    """The authors of "A. Name, B. Name and C. Name (Affiliation) for the X Collaboration", in their order; affiliations
    are left out."""
    unmatched = unmatched_braces(line)
    line = "".join(letter for place, letter in enumerate(line) if place not in unmatched)
    authors: list[Author] = []
    and_others = False
    for part in _given_names_first(_parts(_without_affiliations(line))):
        named = _ET_AL.sub("", part)
        and_others |= named != part
        person, *groups = (fold(words).strip(" :") for words in _FOR_GROUP.split(named))
        if authors and _SUFFIX.fullmatch(person):
            authors[-1] = Author(f"{authors[-1].name} {person}")
        elif any(letter.isalpha() for letter in person):
            is_group = _IS_GROUP.fullmatch(person) is not None
            name = person.removeprefix("the ") if is_group else _INITIAL.sub(r"\1 ", person)
            authors.append(Author(name, is_group))
        authors.extend(Author(group, True) for group in groups if group)
    return AuthorLine(tuple(authors), and_others)


def _without_affiliations(line: str) -> str:
    """Without what stands in parentheses, unless it is a group; one that is not closed reaches to the end."""
    while (shorter := _INNERMOST.sub(_group_or_nothing, line)) != line:
        line = shorter
    return line.partition("(")[0].replace(")", " ")


def _group_or_nothing(parenthesis: re.Match[str]) -> str:
    inside = parenthesis[1].strip()
    return f", {inside}," if _IS_GROUP.fullmatch(inside) and not re.search("[,;]", inside) else " "


def _parts(line: str) -> list[str]:
    """Cut at commas and "and", where these are in no braces."""
    line = re.sub(r"(?<!\\)~", " ", line)
    parts, start, depth = [], 0, 0
    for found in _SEPARATOR.finditer(line):
        if brace := found["brace"]:
            depth += {"{": 1, "}": -1}.get(brace, 0)
        elif depth == 0:
            parts.append(line[start : found.start()])
            start = found.end()
    parts.append(line[start:])
    return [folded for part in parts if (folded := fold(part))]


def _given_names_first(parts: list[str]) -> Sequence[str]:
    """Turns a line of "Name, A. B., Name, C." around."""
    family, initials = parts[::2], parts[1::2]
    turned = len(parts) > 1 and len(family) == len(initials) and all(map(_INITIALS.fullmatch, initials))
    return [f"{given} {name}" for name, given in zip(family, initials, strict=True)] if turned else parts
