"""Error patterns: errors folded to what they have in common, counted, each with the kind that decides what is done.

A signature is a message without what differs from one occurrence to the next: numbers with their units, ids, digests,
addresses, paths, URLs, quoted names. A code stays (exit code -11, errno 28, HTTP 503), as it is the error's name.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from arxiv_embed.errors import ArxivEmbedError, Kind, masked

LONGEST_READ, LONGEST_SIGNATURE, LONGEST_EXAMPLE = 10_000, 200, 500
"""Characters."""
MOST_PATTERNS, MOST_PLACES = 500, 100
ELSEWHERE = "elsewhere"

_STATEMENT = re.compile(r" (?:\[SQL: |\[parameters: |\(Background on this error at: ).*")
_VARYING = re.compile(
    r"""(?P<code> (?i:\b(?:exit\ ?code|error\ code|errno|os\ error|signal|status(?:\ code)?|HTTP(?:/\d(?:\.\d)?)?))
                  [ ]?[:=]?[ ]?-?\d{1,3}\b)
    | (?P<url>    \b[a-zA-Z][\w+.-]{1,19}://[^\s'"`<>()\[\]]+)
    | (?P<name>   (?<!\w)b?(?:'[^']{0,200}'|"[^"]{0,200}"|`[^`]{0,200}`|“[^”]{0,200}”)(?!\w))
    | (?P<path>   (?<![\w/>])(?:(?:~|\.{1,2})?/|[A-Za-z]:\\)(?:[^\s'"`<>()\[\]{},;:|]|[,;:](?=[\w/\\]))+
                | \b[\w@%+~.-]{1,80}(?:/[^\s'"`<>()\[\]{},;:|/]{1,200}){2,}
                | \b[\w@%+~./-]{1,200}\.(?:json|jsonl|xml|gz|zst|xz|bz2|arrow|parquet|lance|manifest|lock|txt|tmp
                                          |safetensors|bin|so|py)(?:@\d+)?\b)
    | (?P<number> \b[a-z]{2,10}(?:-[a-z]{2,10})?(?:\.[A-Z]{2})?/\d{7}(?:v\d+)?\b
                | (?i:\b0x[0-9a-f]+|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b
                  |\b(?=\d*[a-f])(?:(?=[a-f]*\d)[0-9a-f]{7,15}|[0-9a-f]{16,})\b)
                | (?:(?<!\w)[-+])?\d+(?:(?:[.,:/_'’T+-]|,\ |[ ](?=\d\d:)|e[-+]?)\d+)*(?:v\d+\b|Z\b)?
                  (?:\ ?(?:%|(?:(?:[kKMGTP]i?)?B|bytes?|[munµ]?s|seconds?|min|minutes?|h|hours?)\b))?)""",
    re.X,
)
_LIST = re.compile(r"(#|<\w+>)(?:(?:, ?(?:and )?| and | or |; )\1)+")
_OS_ERROR = re.compile(r"(?:\bos error |\[Errno )(\d+)")

_BY_ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE), Kind.RESOURCE),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        Kind.PERMANENT,
    ),
    # A network's disk comes back; one that is dying meets the end of a bounded number of attempts.
    errno.EIO: Kind.TRANSIENT,
}
_BY_CLASS = {
    "SQLITE_FULL": Kind.RESOURCE,
    "SQLITE_READONLY": Kind.PERMANENT,
    "SQLITE_NOTADB": Kind.PERMANENT,
    "SQLITE_CORRUPT": Kind.PERMANENT,
    "ArgumentError": Kind.PERMANENT,
    "DiskFull": Kind.RESOURCE,
    "OutOfMemory": Kind.RESOURCE,
    "InvalidPassword": Kind.PERMANENT,
    "ProgrammingError": Kind.PERMANENT,
    "OperationalError": Kind.TRANSIENT,
    "InterfaceError": Kind.TRANSIENT,
}
"""Classes of database drivers, and what SQLite calls its errors; the most special first."""
_DATABASES = ("sqlalchemy", "psycopg", "psycopg2", "sqlite3")

_BY_INCIDENT = {
    "out of memory": Kind.RESOURCE,
    "failed": Kind.DATA,
    "lost": Kind.TRANSIENT,
    "hung": Kind.TRANSIENT,
    "retired": Kind.RESOURCE,
    "paused": Kind.RESOURCE,
    "shrunk": Kind.RESOURCE,
    "restarted": Kind.TRANSIENT,
    "unwatched": Kind.TRANSIENT,
}


def signature(message: str) -> str:
    """What occurrences of one error have in common; at most `LONGEST_SIGNATURE` characters."""
    text, before = _STATEMENT.sub("", _plain(message)), None
    while text != before:
        before = text
        text = _LIST.sub(r"\1", _VARYING.sub(_placeholder, text))[:LONGEST_SIGNATURE].strip()
    return text or "(no message)"


def _plain(message: str) -> str:
    """On one line, and without secrets."""
    return " ".join(writable(masked(message[:LONGEST_READ])).split())


def writable(text: str) -> str:
    """The text as UTF-8 can hold it: a name on disk that is no UTF-8 comes with lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _placeholder(found: re.Match[str]) -> str:
    kind = found.lastgroup
    return found[0] if kind == "code" else "#" if kind == "number" else f"<{kind}>"


def kind_of(error: BaseException) -> Kind:
    """What an error asks for. One that says nothing of that, and was caused by none that does, is taken for transient,
    as it is tried a bounded number of times."""
    return next((kind for fault in _with_causes(error) if (kind := _kind_known(fault))), Kind.TRANSIENT)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """A database driver's own error before SQLAlchemy's around it, and any error before its cause."""
    met: set[int] = set()
    fault: BaseException | None = error
    while fault is not None and id(fault) not in met:
        met.add(id(fault))
        if isinstance(driver := getattr(fault, "orig", None), BaseException):
            yield driver
        yield fault
        fault = fault.__cause__


def _kind_known(error: BaseException) -> Kind | None:
    if isinstance(error, ArxivEmbedError):
        return error.kind
    classes = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in classes:  # torch's, without loading torch
        return Kind.RESOURCE
    if isinstance(error, ImportError):
        return Kind.PERMANENT
    if type(error).__module__.split(".")[0] in _DATABASES:
        classes.add(getattr(error, "sqlite_errorname", ""))
        return next((kind for name, kind in _BY_CLASS.items() if name in classes), None)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := _OS_ERROR.search(str(error)[:LONGEST_READ])):
        number = int(told[1])  # LanceDB tells the system's errors as text
    return _BY_ERRNO.get(number) if number is not None else None


def kind_of_incident(what: str) -> Kind | None:
    """The kind of a device's incident; None for one that is no error, as "back", "cool again" and "waiting" are."""
    return _BY_INCIDENT.get(what)


def as_iso(seconds: float) -> str:
    """Seconds since the epoch as UTC, ISO 8601; two such texts compare as their times do."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@dataclass
class ErrorPattern:
    """`first` and `last` are UTC, ISO 8601; `example` is a message of the time `first`; `where` counts by device or
    shard, what is beyond `MOST_PLACES` of them together."""

    signature: str
    kind: Kind
    count: int
    first: str
    last: str
    example: str
    where: Counter[str]

    @property
    def is_worth_telling(self) -> bool:
        """Whether it has just been met for the 3rd, 10th, 30th, 100th … time."""
        return self.count > 1 and str(self.count).rstrip("0") in ("1", "3")

    def add(self, other: ErrorPattern) -> None:
        """Takes in what was met of the same pattern elsewhere."""
        self.first, self.example = min((self.first, self.example), (other.first, other.example))
        self.last = max(self.last, other.last)
        self.count += other.count
        for place, count in other.where.items():
            self.where[place if place in self.where or len(self.where) < MOST_PLACES else ELSEWHERE] += count


@dataclass
class ErrorPatterns:
    """Patterns by signature and kind; in whatever order errors are met or merged, the sum is the same."""

    found: dict[tuple[str, Kind], ErrorPattern] = field(default_factory=dict)

    def meet(self, message: str, kind: Kind, time: float, where: str) -> ErrorPattern:
        """Counts an error met at `time`, seconds since the epoch, on a device or a shard; returns its pattern."""
        example = _plain(message)
        if len(example) > LONGEST_EXAMPLE:
            example = f"{example[: LONGEST_EXAMPLE - 1]}…"
        places = Counter([writable(where)] if where else [])
        return self._add(ErrorPattern(signature(message), kind, 1, as_iso(time), as_iso(time), example, places))

    def merge(self, other: ErrorPatterns) -> None:
        for pattern in other.found.values():
            self._add(pattern)

    def _add(self, pattern: ErrorPattern) -> ErrorPattern:
        key = (pattern.signature, pattern.kind)
        if key in self.found:
            self.found[key].add(pattern)
            return self.found[key]
        if len(self.found) >= MOST_PATTERNS:
            rarest = min(self.found.values(), key=lambda known: (known.count, known.last))
            del self.found[rarest.signature, rarest.kind]
        self.found[key] = ErrorPattern(**{**vars(pattern), "where": Counter(pattern.where)})
        return self.found[key]

    def patterns(self) -> list[ErrorPattern]:
        """The most frequent first."""
        return sorted(self.found.values(), key=lambda pattern: (-pattern.count, pattern.signature, pattern.kind))

    def to_json(self) -> list[dict[str, Any]]:
        return [{**asdict(pattern), "where": dict(pattern.where.most_common())} for pattern in self.patterns()]

    @classmethod
    def from_json(cls, patterns: Iterable[Mapping[str, Any]]) -> Self:
        found = [
            ErrorPattern(**{**pattern, "kind": Kind(pattern["kind"]), "where": Counter(pattern["where"])})
            for pattern in patterns
        ]
        return cls({(pattern.signature, pattern.kind): pattern for pattern in found})
