"""Records → papers: the fields of each source's JSON brought to one shape."""

from __future__ import annotations

import re
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any

from arxiv_embed.metadata.ids import canonical_id
from arxiv_embed.metadata.paper import NotAPaper, Paper, fold

_WITHDRAWN = re.compile(
    r"\b(?:paper|article|manuscript|preprint|submission|work|letter|it|version|note|thesis)\s+"
    r"(?:has\s+been|have\s+been|is|was|being|is\s+being|will\s+be)\s+(?:temporarily\s+)?withdrawn\b"
    r"|\bwithdrawn\s+by\s+(?:the\s+)?(?:author|arxiv|submitter)"
    r"|^\W*withdrawn\b|\barxiv\s+admin\w*\s*:?.{0,40}\bwithdrawn\b"
    r"|\bwithdrawn\s+(?:due\s+to|because|for\s+(?:further\s+)?revision)",
    re.IGNORECASE,
)
_ISO_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})")


def paper_of(record: dict[str, Any], file_id: str | None = None) -> Paper:
    """A paper from a JSON object in the Kaggle snapshot's or the per-paper files' fields.

    `file_id` is the id that a per-paper file's name gives. Raises `NotAPaper` with the reason.
    """
    raw_id = record.get("id", file_id)
    if type(raw_id) is not str:
        if isinstance(raw_id, float):
            raise NotAPaper("id was mangled by a floating point number")
        raise NotAPaper("id missing" if raw_id is None else "id is not a text")
    paper_id, version = canonical_id(raw_id)
    versions = record.get("versions")
    published = record.get("published")
    if isinstance(versions, list) and versions:
        version = max(version, len(versions))
        published = published or _version_date(versions[0])
    published = published or record.get("created")
    comments = record.get("comments")
    return make_paper(
        paper_id,
        version,
        record.get("title"),
        record.get("abstract"),
        _authors(record.get("authors")),
        record.get("categories"),
        published or "",
        record.get("updated") or record.get("update_date") or "",
        comments if type(comments) is str else "",
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
) -> Paper:
    """A paper from its fields as a source gives them; raises `NotAPaper` where the text cannot be one."""
    title = _text(title, "title")
    abstract = _text(abstract, "abstract")
    if " " not in abstract:
        raise NotAPaper("abstract is one word")
    return Paper(
        id=paper_id,
        version=version,
        title=title,
        abstract=abstract,
        authors=authors,
        categories=_categories(categories),
        published=_day(published),
        updated=_day(updated) or _day(published),
        withdrawn=_is_withdrawn(abstract, comments),
    )


def _text(value: Any, name: str) -> str:
    if type(value) is not str:
        raise NotAPaper(f"{name} missing" if value is None else f"{name} is not a text")
    folded = fold(value)
    if not folded:
        raise NotAPaper(f"{name} empty")
    return folded


def _is_withdrawn(abstract: str, comments: str) -> bool:
    for text in (comments, abstract[:300]):
        if ("ithdrawn" in text or "WITHDRAWN" in text) and _WITHDRAWN.search(text):
            return True
    return False


def _authors(value: Any) -> str:
    if type(value) is str:
        return fold(value)
    if isinstance(value, list):
        return ", ".join(fold(name) for name in value if isinstance(name, str))
    return ""


def _categories(value: Any) -> tuple[str, ...]:
    if type(value) is str:
        return tuple(value.split())
    if isinstance(value, list):
        return tuple(part for name in value if isinstance(name, str) for part in name.split())
    return ()


def _version_date(version: Any) -> str:
    created = version.get("created") if isinstance(version, dict) else None
    return created if isinstance(created, str) else ""


def _day(value: Any) -> str:
    """An ISO or RFC 2822 date as "YYYY-MM-DD"; "" for what is neither."""
    if type(value) is not str or not value:
        return ""
    if len(value) == 10 and value[4] == "-" and value[7] == "-":
        return value
    if match := _ISO_DAY.match(value):
        return match[0]
    try:
        day: date = parsedate_to_datetime(value).date()
    except (ValueError, TypeError):
        return ""
    return day.isoformat()
