"""Sentence starts: where the sentences of a title and abstract begin, abbreviations and initials spared."""

from __future__ import annotations

import re

_BREAK = re.compile(r"""\n\n|[.!?]["'”’)\]}$]*\s+(?=["'“‘(\[]*[A-Z0-9$\\])""")
_ABBREVIATION = re.compile(
    r"""(?:^|[\s(\[~])(?:
        (?:[A-Z]\.[-\s]?)*[A-Z]|                          # initials: "J. Smith", "J.-P. Serre", "A.B. Jones"
        e\.g|i\.e|cf|vs|viz|al|etc|resp|approx|ca|w\.r\.t|
        [Ff]igs?|[Ee]qs?|[Ee]qns?|[Rr]efs?|[Ss]ects?|[Ss]ecs?|[Tt]abs?|[Tt]hms?|[Pp]rop|[Dd]ef|[Cc]hap|[Aa]pp|
        [Nn]os?|[Vv]ols?|[Pp]p|[Ee]d|[Ee]ds|
        Dr|Prof|Mr|Mrs|Ms|St|Jr|Sr|Univ|Dept|
        Phys|Lett|Rev|Math|Proc|Ann|Astron|Astrophys|Nucl|Commun|Appl|Theor|Mod
    )$""",
    re.VERBOSE,
)


def sentence_starts(text: str) -> list[int]:
    """Character offsets at which sentences begin, the first of them 0, in order; a blank line ends one too."""
    starts = [0]
    for match in _BREAK.finditer(text):
        stop = match.start()
        if text[stop] == "." and _ABBREVIATION.search(text, max(0, stop - 12), stop):
            continue
        starts.append(match.end())
    if len(starts) > 1 and starts[-1] >= len(text):
        starts.pop()
    return starts
