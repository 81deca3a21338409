"""arXiv ids: every way in which one is written, brought to one canonical form without its version."""

from __future__ import annotations

import re

from arxiv_embed.metadata.paper import NotAPaper

_NEW = re.compile(r"(\d{2})(0[1-9]|1[0-2])\.(\d{4,5})(?:v([1-9]\d{0,2}))?")
_OLD = re.compile(
    r"([a-z]+(?:-[a-z]+)?)(?:\.[A-Za-z]{2}(?:-[a-z]+)?|\.[a-z]+-[a-z]+)?[/_](\d{2})(0[1-9]|1[0-2])(\d{3})(?:v([1-9]\d{0,2}))?"
)
_PREFIX = re.compile(r"\s*(?:oai:arxiv\.org:|https?://(?:[a-z]+\.)?arxiv\.org/(?:abs|pdf)/|arxiv:\s*)?", re.IGNORECASE)
FIVE_DIGITS_SINCE = "1501"


def canonical_id(raw: str) -> tuple[str, int]:
    """`raw` as (id, version), the version 0 where it names none.

    Takes `0704.0001`, `2401.01234v2`, `hep-th/9901001`, `math.GT/0309136`, a file's `hep-th_9901001`, and all of them
    behind `arXiv:`, `oai:arXiv.org:` or an arxiv.org address. Raises `NotAPaper` for anything else, an id that went
    through a floating point number among them.
    """
    text = raw[_PREFIX.match(raw).end() :].strip()  # type: ignore[union-attr]
    if match := _NEW.fullmatch(text):
        year, month, number, version = match.groups()
        if len(number) != (5 if year + month >= FIVE_DIGITS_SINCE else 4):
            raise NotAPaper("id is not an arXiv id")
        return f"{year}{month}.{number}", int(version or 0)
    if match := _OLD.fullmatch(text):
        archive, year, month, number, version = match.groups()
        return f"{archive}/{year}{month}{number}", int(version or 0)
    if re.fullmatch(r"\d{3,4}\.\d{1,5}(?:e[+-]?\d+)?", text):
        raise NotAPaper("id was mangled by a floating point number")
    raise NotAPaper("id is not an arXiv id")


def month_of(paper_id: str) -> str:
    """The four digits (year, month) of a canonical id: "2401" of 2401.01234, "9901" of hep-th/9901001."""
    return paper_id.rsplit("/", 1)[-1][:4]
