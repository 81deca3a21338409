"""arXiv ids: every way in which one is written, brought to one canonical form without its version."""

from __future__ import annotations

import re

from arxiv_embed.metadata.paper import NotAPaper

_PREFIX = r"\s*(?:(?i:oai:arxiv\.org:|https?://(?:[a-z]+\.)?arxiv\.org/(?:abs|pdf)/|arxiv:)\s*)?"
_VERSION = r"(?:v([1-9]\d{0,2}))?\s*"
_NEW = re.compile(_PREFIX + r"(0[7-9]|[1-8]\d)(0[1-9]|1[0-2])\.(\d{4,5})" + _VERSION, re.ASCII)
_OLD = re.compile(
    _PREFIX + r"([a-z]+(?:-[a-z]+)?)(?:\.[A-Za-z-]+)?[/_]((?:9\d|0[0-7])(?:0[1-9]|1[0-2])\d{3})" + _VERSION, re.ASCII
)
_FLOAT = re.compile(r"\d{1,3}\.\d{1,5}|\d{4}\.\d{1,3}|(?:1[5-9]|[2-8]\d)\d\d\.\d{4}|\d(?:\.\d+)?e[+-]?\d+", re.ASCII)
_FILE_SUFFIX = re.compile(r"(?:\.(?:json|xml))?(?:\.(?:gz|zst))?$")
FIVE_DIGITS_SINCE = "1501"


def canonical_id(raw: str) -> tuple[str, int]:
    """`raw` as (id, version), the version 0 where it names none.

    Takes `0704.0001`, `2401.01234v2`, `hep-th/9901001`, `math.GT/0309136`, a file's `hep-th_9901001`, and all of them
    behind `arXiv:`, `oai:arXiv.org:` or an arxiv.org address. Raises `NotAPaper` for anything else, an id that went
    through a floating point number among them.
    """
    if match := _NEW.fullmatch(raw):
        year, month, number, version = match.groups()
        if len(number) == (5 if year + month >= FIVE_DIGITS_SINCE else 4):
            return f"{year}{month}.{number}", int(version or 0)
    elif match := _OLD.fullmatch(raw):
        archive, number, version = match.groups()
        return f"{archive}/{number}", int(version or 0)
    if _FLOAT.fullmatch(raw):
        raise NotAPaper("id was mangled by a floating point number")
    raise NotAPaper("id is not an arXiv id" if raw and not raw.isspace() else "id missing")


def id_in_name(file: str) -> str | None:
    """The id, as written, that the name of a file of one paper gives; None for any other file."""
    name = _FILE_SUFFIX.sub("", file.rsplit("/", 1)[-1], count=1)
    try:
        canonical_id(name)
    except NotAPaper:
        return None
    return name


def month_of(paper_id: str) -> str:
    """The four digits (year, month) of a canonical id: "2401" of 2401.01234, "9901" of hep-th/9901001."""
    return paper_id.rsplit("/", 1)[-1][:4]
