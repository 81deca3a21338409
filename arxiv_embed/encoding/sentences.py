"""Sentence starts: where the sentences of a title and abstract begin, abbreviations, initials and citations spared."""

from __future__ import annotations

import re

VERSION = 2
"""Other rules cut other chunks: their spaces must not be taken for one."""

_OPENER = (
    r"(?:"
    r"The|This|These|That|Those|Then|There|Therefore|Thus|They|Their|We|Our|It|Its|In|If|For|From|To|By|With|"
    r"Without|On|At|As|And|But|Since|Such|Some|Several|Each|Every|Both|All|Any|Many|Most|More|Here|Hence|However|"
    r"Moreover|Furthermore|Finally|Also|Although|Though|While|When|Where|Whether|Under|Using|Unlike|Because|Given|"
    r"Let|Define|Consider|Assume|Suppose|One|Two|Three|First|Second|Next|Now|No|Not|Other|Another|Only|Recently|"
    r"Specifically|Through|Additionally|Consequently|Conversely|Nevertheless|Instead|Indeed|Lastly|Similarly|"
    r"Subsequently|Within|Among|Besides|Despite|During|Once|After|Before|Between|Beyond|"
    r"An?(?=\s+[a-z]))\b"
)
"""Words that begin sentences and are neither surnames nor parts of a journal's name."""

_BREAK = re.compile(
    rf"""\n\n
    |[.!?]["'”’)\]}}$]*\s+(?=(?:-+\s)?["'“‘`(\[{{]*\s?(?:[^\W_a-zß-ÿ]|\\|\$(?![\s,.;:)$]))|\(?(?:[ivx]+|[a-z])\)\s)
    |\.(?<=[a-z]{{2}}\.)(?={_OPENER}[\s,])  # a forgotten blank
    |[。！？｡]["'”’」』）)]*\s*""",
    re.VERBOSE,
)
_NEVER_LAST = re.compile(
    r"""(?:^|[\s(\[~])(?:
        e\.\s?g|i\.\s?e|w\.\s?r\.\s?t|cf|vs|viz|resp|approx|ca|
        [Ff]igs?|[Ee]qs?|[Ee]qns?|[Rr]efs?|[Ss]ects?|[Ss]ecs?|[Tt]abs?|[Tt]hms?|[Pp]rop|[Dd]ef|[Cc]hap|[Aa]pp|
        [Nn]os?|[Vv]ols?|[Pp]p|[Ee]ds?|spp?|Dr|Prof|Mr|Mrs|Ms|St
    )$""",
    re.VERBOSE,
)
_SELDOM_LAST = re.compile(
    r"""(?:^|[\s(\[~])(?:
        (?:[A-Z]\.[-\s]?)+[A-Z]|(?<!\d\s)[A-Z]|           # "J.-P. Serre", "A.B. Jones", "J. Smith", not "273 K. Ice"
        (?:[a-z]\.\s?)+[a-z]|                             # "i.i.d.", "a.s."
        al|Jr|Sr|Univ|Dept|Inst|Acad|Soc|Natl|Int|Eur|Amer|
        Phys|Lett|Rev|Math|Proc|Ann|Astron|Astrophys|Nucl|Commun|Comm|Comput|Appl|Theor|Mod|Mon|Not|Roy|Trans|Bull|
        Adv|Anal|Alg|Algebr|Geom|Topol|Combin|Stat|Statist|Econ|Eng|Mech|Mater|Chem|Biol|Opt|Sci|Res|Nat|Ser|Suppl
    )$""",
    re.VERBOSE,
)
_ENUMERATOR = re.compile(r"(?:^|[;:]\s+)(?:[0-9]{1,2}|[IVX]+)$")
_OPENING = re.compile(rf"[^\w]*{_OPENER}")

_LONGEST = 12
"""Characters before a full stop in which its abbreviation is looked for."""

_CITATION = 200
"""Characters on either side of a full stop in which the bracket around it opens and closes if it is a citation's."""


def sentence_starts(text: str) -> list[int]:
    """Character offsets at which sentences begin, the first of them 0, in order; a blank line ends one too."""
    starts = [0]
    for match in _BREAK.finditer(text):
        stop, following = match.span()
        if text[stop] != "." or _ends(text, starts[-1], stop, following):
            starts.append(following)
    if len(starts) > 1 and starts[-1] >= len(text):
        starts.pop()
    return starts


def _ends(text: str, start: int, stop: int, following: int) -> bool:
    """Whether the full stop at `stop` ends the sentence that began at `start`; `following` is where the next would."""
    last = text[max(start, stop - _LONGEST) : stop]
    if _NEVER_LAST.search(last) or _ENUMERATOR.search(last):
        return False
    if _SELDOM_LAST.search(last) and not _OPENING.match(text, following):
        return False
    return not (_within(text, start, following, "(", ")") or _within(text, start, following, "[", "]"))


def _within(text: str, start: int, stop: int, opening: str, closing: str) -> bool:
    """Whether a bracket that opened in this sentence, shortly before `stop`, closes shortly behind it."""
    start = max(start, stop - _CITATION)
    if text.count(opening, start, stop) <= text.count(closing, start, stop):
        return False
    depth = 1
    for character in text[stop : stop + _CITATION]:
        depth += (character == opening) - (character == closing)
        if depth == 0:
            return True
    return False
