"""Markdown: text that shows in it as it is, LaTeX formulas left to whatever renders them."""

from __future__ import annotations

import re

from arxiv_embed.metadata.latex import math_spans

_TAKEN = re.compile(
    r"[`*\[\]<~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is a letter
    r"|\\(?=[!-/:-@\[-`{-~]|$)"
    r"|&(?=#?\w+;)",
)
_TAKEN_AT_THE_START = re.compile(r"(?P<before>\d*)(?P<mark>[#+>=|.)-])")


def escaped(text: str) -> str:
    """One line of text, with a backslash before each character that Markdown would take for its own; formulas between
    `$` stay as they are."""
    parts, done = [], 0
    for start, end in _formulas(text):
        parts.append(_TAKEN.sub(r"\\\g<0>", text[done:start]))
        parts.append(text[start:end])
        done = end
    parts.append(_TAKEN.sub(r"\\\g<0>", text[done:]))
    line = "".join(parts)
    begins = _TAKEN_AT_THE_START.match(line)
    return f"{begins['before']}\\{line[len(begins['before']) :]}" if begins else line


def with_bold(text: str, start: int, end: int) -> str:
    """The line escaped, with what stands from `start` to `end` in bold: whole words and formulas, as Markdown knows no
    other beginning or end of it that holds everywhere."""
    start, end = max(0, start), max(0, min(len(text), end))
    for opens, closes in _formulas(text):
        start = opens if opens < start < closes else start
        end = closes if opens < end < closes else end
    while 0 < start < len(text) and not text[start - 1].isspace():
        start -= 1
    while 0 < end < len(text) and not text[end].isspace():
        end += 1
    chunk = text[start:end].strip()
    if not chunk:
        return escaped(text)
    before, after = text[:start].strip(), text[end:].strip()
    return " ".join(part for part in (escaped(before), f"**{escaped(chunk)}**", escaped(after)) if part)


def _formulas(text: str) -> list[tuple[int, int]]:
    return [(start, end) for start, end in math_spans(text) if text[start] == "$"]
