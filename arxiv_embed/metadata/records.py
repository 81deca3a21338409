"""Records → papers: the fields of each source's JSON brought to one shape."""

from __future__ import annotations

import re
from datetime import date
from email.utils import parsedate
from functools import lru_cache
from typing import Any

from arxiv_embed.metadata.fields import fields_text
from arxiv_embed.metadata.ids import canonical_id
from arxiv_embed.metadata.paper import NotAPaper, Paper, fold

_WORK = r"(?:paper|article|manuscript|preprint|submission|work|letter|note|thesis|version|draft)"
_WITHDRAWN = re.compile(
    rf"\b(?:{_WORK}|it)\s+(?:(?:has|have|had|is|was|will|being|been|be|already|now|temporarily)\s+)+withdrawn?\b"
    rf"|(?:^|[.;:,(]\s*|\b(?:the|this|our|whole|entire)\s+){_WORK}\s+withdrawn\b"
    rf"|\bwithdraw(?:s|ing)?\s+(?:this|the|our|my)\s+(?:\w+\s+)?{_WORK}\b"
    r"|(?:^|[.;:,(]\s*)withdraw(?:n|ing)\b"
    r"|\bwithdrawn\s+(?:by\s+(?:the\s+)?(?:author|arxiv|submitter)|due\s+to|because|pending|for\s+(?:further\s+)?revis)"
    r"|\barxiv\s+admin\w*\s*:?.{0,40}\bwithdrawn\b",
    re.IGNORECASE,
)
_ABSTRACT_HEAD = 300
_LONGEST_DATE = 40


def paper_of(record: dict[str, Any], file_id: str | None = None) -> Paper:
    """A paper from a JSON object in the Kaggle snapshot's or the per-paper files' fields.

    `file_id` is the id that a per-paper file's name gives. Raises `NotAPaper` with the reason.
    """
    get = record.get
    raw_id = get("id")
    if raw_id is None:
        raw_id = file_id
    if type(raw_id) is not str:
        if type(raw_id) is float:
            raise NotAPaper("id was mangled by a floating point number")
        raise NotAPaper("id missing" if raw_id is None else "id is not a text")
    paper_id, version = canonical_id(raw_id)
    versions = get("versions")
    published = get("published")
    if type(versions) is list and versions:
        version = max(version, len(versions))
        published = published or _version_date(versions[0])
    comments = get("comments")
    return make_paper(
        paper_id,
        version,
        get("title"),
        get("abstract"),
        _authors(get("authors")),
        get("categories"),
        published or get("created"),
        get("updated") or get("update_date"),
        comments if type(comments) is str else "",
        fields_text(record),
    )


def make_paper(
    paper_id: str,
    version: int,
    title: Any,
    abstract: Any,
    authors: str,
    categories: Any,
    published: Any,
    updated: Any,
    comments: str,
    fields: str,
) -> Paper:
    """A paper from its fields as a source gives them; raises `NotAPaper` where the text cannot be one."""
    title = _text(title, "title")
    abstract = _text(abstract, "abstract")
    if " " not in abstract:
        raise NotAPaper("abstract is one word")
    published = _day(published)
    return Paper(
        paper_id,
        version,
        title,
        abstract,
        authors,
        _categories(categories),
        published,
        _day(updated) or published,
        _is_withdrawn(abstract, comments),
        fields,
    )


def _text(value: Any, name: str) -> str:
    if type(value) is not str:
        raise NotAPaper(f"{name} missing" if value is None else f"{name} is not a text")
    folded = fold(value)
    if not folded:
        raise NotAPaper(f"{name} empty")
    return folded


def _is_withdrawn(abstract: str, comments: str) -> bool:
    return _says_withdrawn(comments) or _says_withdrawn(abstract[:_ABSTRACT_HEAD])


def _says_withdrawn(text: str) -> bool:
    return ("ithdr" in text or "ITHDR" in text) and _WITHDRAWN.search(text) is not None


def _authors(value: Any) -> str:
    if type(value) is str:
        return fold(value)
    if type(value) is list:
        return ", ".join(fold(name) for name in value if type(name) is str)
    return ""


def _categories(value: Any) -> tuple[str, ...]:
    if type(value) is str:
        return tuple(value.split())
    if type(value) is list:
        return tuple(part for name in value if type(name) is str for part in name.split())
    return ()


def _version_date(version: Any) -> Any:
    return version.get("created") if type(version) is dict else None


def _day(value: Any) -> str:
    """An ISO or RFC 2822 date as "YYYY-MM-DD", the day that it names itself; "" for what is neither."""
    return _day_of(value[:_LONGEST_DATE]) if type(value) is str else ""


@lru_cache(maxsize=1 << 14)
def _day_of(text: str) -> str:
    try:
        return date.fromisoformat(text[:10]).isoformat()
    except ValueError:
        pass
    try:
        parts = parsedate(text)
        return date(*parts[:3]).isoformat() if parts else ""
    except (ValueError, OverflowError):
        return ""
