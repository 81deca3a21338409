"""Priority: which papers a run takes first, as the option `--priority` says it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.fields import LONGEST_FIELD, WITH_COLUMNS, parse_fields
from arxiv_embed.metadata.ids import canonical_id
from arxiv_embed.metadata.paper import NotAPaper, fold

FORMS = "category:cs.LG (or cs), since:2024-01-31, ids:2401.00001,2401.00002, ids:@FILE, field:NAME or field:NAME=VALUE"

_CATEGORY = re.compile(r"[A-Za-z-]+(?:\.[A-Za-z-]+)?")
_NO = ("", "0", "false")

Rule = Callable[[pa.Table], Any]
"""A table of papers → an Arrow array of one bool a paper."""


@dataclass(frozen=True)
class Priority:
    """Rules; a paper is urgent where any of them marks it. `specs` are the texts they were made of, paths absolute."""

    specs: tuple[str, ...]
    rules: tuple[Rule, ...]

    def urgent(self, papers: pa.Table) -> NDArray[np.bool_]:
        """One bool a row of `papers` (schema `PAPERS`)."""
        marked = np.zeros(papers.num_rows, np.bool_)
        for rule in self.rules:
            marked |= np.asarray(rule(papers), np.bool_)
        return marked


def parse_priority(specs: Sequence[str]) -> Priority:
    """Raises `ArxivEmbedError` for a text that is none of `FORMS`, and for a file of ids that cannot be read."""
    parsed = [_parse(spec.strip()) for spec in specs]
    return Priority(tuple(spec for spec, _ in parsed), tuple(rule for _, rule in parsed))


def _parse(spec: str) -> tuple[str, Rule]:
    kind, _, value = spec.partition(":")
    if kind == "category" and _CATEGORY.fullmatch(value):
        return spec, _in_category(value)
    if kind == "since" and value:
        return spec, _changed_since(_day(value))
    if kind == "ids" and value.startswith("@") and value != "@":
        path = Path(value[1:]).expanduser().absolute()
        return f"ids:@{path}", _with_id(_ids_in(path))
    if kind == "ids" and value.strip(", @"):
        return spec, _with_id([_id(text, f"--priority '{spec}'") for text in value.split(",") if text.strip()])
    name, equals, wanted = value.partition("=")
    if kind == "field" and name and bool(equals) == bool(wanted):
        if name in WITH_COLUMNS:
            raise ArxivEmbedError(
                f"--priority '{spec}' asks for what every paper has: use category:, since: or ids:, or another field."
            )
        return spec, _with_field(name, wanted)
    raise ArxivEmbedError(f"--priority '{spec}' is not understood: write {FORMS}.")


def _in_category(name: str) -> Rule:
    """An archive (cs) has all its categories (cs.LG) in it."""

    def marks(papers: pa.Table) -> Any:
        listed = pc.utf8_lower(pc.binary_join(papers["categories"], " "))
        listed = pc.binary_join_element_wise("", listed, "", " ")
        exact, archive = (pc.match_substring(listed, f" {name.lower()}{end}") for end in (" ", "."))
        return pc.fill_null(pc.or_(exact, archive), False)

    return marks


def _changed_since(day: str) -> Rule:
    def marks(papers: pa.Table) -> Any:
        dated = pc.if_else(pc.equal(papers["updated"], ""), papers["published"], papers["updated"])
        return pc.greater_equal(dated, day)

    return marks


def _with_id(ids: Iterable[str]) -> Rule:
    wanted = pa.array(ids, pa.string())
    return lambda papers: pc.is_in(papers["paper_id"], wanted)


def _with_field(name: str, wanted: str) -> Rule:
    """Papers whose record has that field, with that text; without a `wanted` one, any but no, zero and nothing."""
    text_wanted = fold(wanted[:LONGEST_FIELD])

    def marks_one(fields: str) -> bool:
        value = parse_fields(fields).get(name)
        if value is None:
            return False
        text = fold(value if isinstance(value, str) else json.dumps(value))
        return text == text_wanted if wanted else bool(value) and text.lower() not in _NO

    def marks(papers: pa.Table) -> Any:
        if "fields" not in papers.column_names:
            raise ArxivEmbedError(
                f"These papers were read by an older version, without the field '{name}': materialize `papers` again."
            )
        return [marks_one(fields) for fields in papers["fields"].to_pylist()]

    return marks


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ArxivEmbedError(f"--priority 'since:{text}' names no day: write it as since:2024-01-31.") from None


def _ids_in(path: Path) -> list[str]:
    """The ids of a file, one a line; blank lines are passed over."""
    try:
        lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    except OSError as error:
        raise ArxivEmbedError(f"The file of ids {path} (--priority) cannot be read: {error.strerror}.") from None
    return [_id(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _id(text: str, place: str) -> str:
    try:
        return canonical_id(text)[0]
    except NotAPaper:
        raise ArxivEmbedError(
            f"{place}: '{text.strip()[:40]}' is no arXiv id: write it as 2401.01234 or hep-th/9901001."
        ) from None
