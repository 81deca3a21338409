"""Glyphs: what bars, lines and marks are drawn with, in Unicode or in ASCII; every mark stands beside a word."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass

from arxiv_embed.gpu.health import Verdict
from arxiv_embed.monitor.shards import Stage


@dataclass(frozen=True)
class Glyphs:
    """`levels` fill a cell from its bottom, the emptiest first; a bar is `full`, then perhaps a `half`, then `empty`;
    `others` fills what is not the run's own, `lines` mark target and critical in it."""

    levels: str
    full: str
    half: str
    others: str
    empty: str
    lines: tuple[str, str]
    dot: str
    ellipsis: str
    minus: str
    to: str
    here: str
    degrees: str
    verdicts: Mapping[str, str]
    stages: Mapping[str, str]


UNICODE = Glyphs(
    levels=" ▁▂▃▄▅▆▇█",
    full="━",
    half="╸",
    others="╍",
    empty="─",
    lines=("┊", "┃"),
    dot="·",
    ellipsis="…",
    minus="−",
    to="→",
    here="▸",
    degrees="°C",
    verdicts={
        Verdict.OK: "●",
        Verdict.HOT: "▲",
        Verdict.THROTTLED: "▼",
        Verdict.MEMORY_CRITICAL: "◆",
        Verdict.STALLED: "■",
        Verdict.FAILING: "✗",
        Verdict.RETIRED: "○",
    },
    stages={
        Stage.WAITING: "·",
        Stage.READING: "◔",
        Stage.EMBEDDING: "◑",
        Stage.STORING: "◕",
        Stage.DONE: "●",
        Stage.FAILED: "✗",
        Stage.GIVEN_UP: "✗",
        Stage.LEFT: "○",
    },
)

ASCII = Glyphs(
    levels=" .:-=+*#@",
    full="=",
    half="-",
    others="%",
    empty=".",
    lines=(":", "|"),
    dot="-",
    ellipsis="~",
    minus="-",
    to="->",
    here=">",
    degrees="C",
    verdicts={**dict.fromkeys(Verdict, "!"), Verdict.OK: "+", Verdict.RETIRED: "-"},
    stages={
        Stage.WAITING: ".",
        Stage.READING: "r",
        Stage.EMBEDDING: "e",
        Stage.STORING: "s",
        Stage.DONE: "#",
        Stage.FAILED: "X",
        Stage.GIVEN_UP: "X",
        Stage.LEFT: "o",
    },
)


def glyphs_for(encoding: str) -> Glyphs:
    """What a terminal of that encoding can show."""
    try:
        return UNICODE if codecs.lookup(encoding).name.startswith("utf") else ASCII
    except LookupError:
        return ASCII
