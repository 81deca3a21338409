"""Error patterns: one signature for one error, whatever numbers and names it comes with; counts that add up."""

from __future__ import annotations

import errno
import json
import sqlite3
import uuid
from collections import Counter
from pathlib import Path

import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from arxiv_embed.checkpoint.atomic import NoSpace
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.error_patterns import (
    ELSEWHERE,
    LONGEST_EXAMPLE,
    LONGEST_READ,
    LONGEST_SIGNATURE,
    MOST_PATTERNS,
    MOST_PLACES,
    ErrorPatterns,
    kind_of,
    kind_of_incident,
    signature,
)
from arxiv_embed.errors import ArxivEmbedError, Kind, masked

NOON = 1_700_000_000.0

SAME: dict[str, list[str]] = {
    "CUDA out of memory. Tried to allocate #. GPU # has a total capacity of # of which # is free. Process # has # "
    "memory in use. Of the allocated memory # is allocated by PyTorch.": [
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB of which 17.50 MiB "
        "is free. Process 1234 has 78.00 GiB memory in use. Of the allocated memory 70.1 GiB is allocated by PyTorch.",
        "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 3 has a total capacity of 139.80 GiB of which 512.00 KiB "
        "is free. Process 99 has 139.00 GiB memory in use. Of the allocated memory 900 bytes is allocated by PyTorch.",
    ],
    "its worker ended with exit code -11": ["its worker ended with exit code -11"],
    "its worker ended with exit code -9": ["its worker ended with exit code -9"],
    "out of memory: # papers of # tokens": [
        "out of memory: 16 papers of 4096 tokens",
        "out of memory: 2 papers of 70 tokens",
    ],
    "[Errno 28] No space left on device: <name>": [
        "[Errno 28] No space left on device: '/data/checkpoints/embeddings/0123456789abcdef/cs.jsonl/g000002.arrow'",
        "[Errno 28] No space left on device: 'relative'",
    ],
    "[Errno 13] Permission denied: <name>": ["[Errno 13] Permission denied: '/root/Ünïcode füle.json'"],
    "Input/output error in <path>": [
        "Input/output error in /mnt/nfs/a",
        "Input/output error in ./x/y.jsonl",
    ],
    "lance error: LanceError(IO): Object at location <path> not found, <path>": [
        "lance error: LanceError(IO): Object at location home/me/stores/papers/rows.lance/_versions/18.manifest not "
        "found, /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/lance-io-0.39.0/src/local.rs:131:31",
        "lance error: LanceError(IO): Object at location tmp/x/data/8f3c.lance not found, /rustc/src/local.rs:9:1",
    ],
    "lance error: Commit conflict for version #: preempted by a concurrent transaction": [
        "lance error: Commit conflict for version 17: preempted by a concurrent transaction",
        "lance error: Commit conflict for version 2,018: preempted by a concurrent transaction",
    ],
    "(psycopg#.OperationalError) connection to server at <name>, port # failed: Connection refused Is the server "
    "running on that host and accepting TCP/IP connections?": [
        '(psycopg2.OperationalError) connection to server at "127.0.0.1", port 5432 failed: Connection refused\n\t'
        "Is the server running on that host and accepting TCP/IP connections?\n\n"
        "(Background on this error at: https://sqlalche.me/e/20/e3q8)",
        '(psycopg2.OperationalError) connection to server at "db.example.org", port 6543 failed: Connection '
        "refused\r\n\tIs the server running on that host and accepting TCP/IP connections?\r\n",
    ],
    "(psycopg#.errors.DeadlockDetected) deadlock detected DETAIL: Process # waits for ShareLock on transaction #; "
    "blocked by process #.": [
        "(psycopg2.errors.DeadlockDetected) deadlock detected\nDETAIL:  Process 71 waits for ShareLock on transaction "
        f"{number}; blocked by process 8{number}.\n\n[SQL: LOCK TABLE event_logs IN SHARE MODE]\n"
        f"[parameters: {{'run_id': '{uuid.UUID(int=number)}'}}]\n"
        "(Background on this error at: https://sqlalche.me/e/20/e3q8)"
        for number in (5, 123_456)
    ],
    "paper # could not be encoded: ValueError": [
        f"paper {paper} could not be encoded: ValueError"
        for paper in ("2401.01234", "0704.0001v12", "hep-th/9901001", "math.AG/0601001v2", "cond-mat/0102003")
    ],
    "run # on <url> is gone": [
        "run 6fa459ea-ee8a-3ca4-894e-db77e160355e on http://10.0.0.7:3000/runs?x=1 is gone",
        "run 00000000-0000-0000-0000-000000000000 on postgresql://u:secret@host/db is gone",
    ],
    "sha# is #, not #": [
        "sha256 is e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855, not "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "sha256 is 0b1c2d3, not 1234567",
    ],
    "<lancedb.Table object at #> is closed": [
        "<lancedb.Table object at 0x7f3a2c> is closed",
        "<lancedb.Table object at 0x1> is closed",
    ],
    "silent since # (limit #), then since #": [
        "silent since 2024-01-02T03:04:05.678+00:00 (limit 300 s), then since 03:04:05",
        "silent since 2025-12-31 23:59:59,1 (limit 1.5e+3 ms), then since 1_000",
        "silent since 2024-02-29T00:00:00Z (limit 2 hours), then since 99%",
    ],
    "Shard <name> has no papers yet": ["Shard 'cs.jsonl' has no papers yet", 'Shard "month:2401" has no papers yet'],
    "<path> is in use by process # on host": [
        "snapshot.jsonl@0003 is in use by process 17 on host",
        "C:\\data\\cs.xml is in use by process 4 on host",
    ],
    "shapes [#] and [#]; papers <name>": [
        "shapes [3] and [5, 7]; papers 'a'",
        "shapes [1, 2, 3] and [4]; papers 'a', 'b' and `c`",
    ],
    "Größe überschritten: # – 设备内存不足": [
        "Größe überschritten: 5 µs – 设备内存不足",
        "Größe überschritten: 17 GB – 设备内存不足",
    ],
    "first second": ["first\r\nsecond", "  first\n\n\tsecond \n"],
    "(no message)": ["", " \r\n\t"],
}
DIFFERENT = [
    *(messages[0] for messages in SAME.values()),
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA driver error: error code 700",
    "CUDA driver error: error code 719",
    "[Errno 5] Input/output error: '/a'",
    "[Errno 30] Read-only file system: '/a'",
    "HTTP 503: try later",
    "HTTP 404: try later",
    "HTTP/1.1 500 try later",
    "killed by signal 9",
    "killed by signal 11",
    "lance error: No space left on device (os error 28)",
    "lance error: Too many open files (os error 24)",
    "FATAL: the database system is starting up",
    "FATAL: the database system is shutting down",
    'FATAL: password authentication failed for user "arxiv"',
    'FATAL: database "arxiv" does not exist',
    "KeyError: 'title'",
    "ValueError: 'title'",
    "read/write",
    "the papers' vectors don't fit the shards'",
]


@pytest.mark.parametrize("expected", SAME)
def test_what_differs_between_occurrences_of_one_error_is_taken_out(expected: str) -> None:
    assert {signature(message) for message in SAME[expected]} == {expected}


def test_different_errors_have_different_signatures() -> None:
    assert [name for name, count in Counter(map(signature, DIFFERENT)).items() if count > 1] == []


PIECES = st.sampled_from(
    [
        *(
            "'",
            '"',
            "`",
            "“",
            "”",
            "/",
            "\\",
            "//",
            "://",
            "?p%61ssword=",
            "&",
            "hf_" + "a" * 16,
            "bearer abcdefgh",
            "#",
            "<path>",
            "<name>",
            "0x",
            "v2",
            "e-",
            "-",
            ".",
            ",",
            ", ",
        ),
        *(
            " ",
            "\n",
            "\r\n",
            "exit code ",
            "errno",
            "HTTP/1.1 ",
            "[SQL: ",
            "(Background on this error at: ",
            "password=",
            "@",
        ),
        *("7", "1234567", "abcdef", "deadbeef", ".json", "hep-th/9901001", "C:\\", " and ", "; ", "GiB", "%", "b'"),
    ]
)
MESSAGES = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=[]), max_size=80),
    st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=40).map("".join),
)


@given(MESSAGES)
@example("' a 'b' c '")
@example("\ud800 '\udc80'")
@example("x" * (LONGEST_SIGNATURE - 1) + " 0x1234")
def test_a_signature_is_its_own_signature_and_short(message: str) -> None:
    found = signature(message)
    assert signature(found) == found
    assert 0 < len(found) <= LONGEST_SIGNATURE
    assert "\n" not in found
    found.encode()


@given(MESSAGES)
@example("PASSWORD=''0")
def test_masking_a_masked_text_changes_nothing(message: str) -> None:
    assert masked(masked(message)) == masked(message)


NUMBERS = st.one_of(
    st.integers(0, 10**18).map(str),
    st.integers(0, 10**12).map(lambda number: f"{number:,}"),
    st.floats(0, 1e30, allow_nan=False).map(str),
    st.floats(0, 1e6).map(lambda number: f"{number:.2f}"),
    st.integers(0, 2**64).map(hex),
    st.uuids().map(str),
    st.datetimes().map(lambda time: time.isoformat()),
    st.binary(min_size=8, max_size=32).map(lambda digest: digest.hex()),
)
TEMPLATES = [
    "batch {} of {} failed",
    "Tried to allocate {} (limit {}), then gave up",
    "[{}] at {}: wrong",
    "shard has {} papers, expected {}",
    "x={} y={}",
]


@given(st.sampled_from(TEMPLATES), NUMBERS, NUMBERS, NUMBERS, NUMBERS)
@example("batch {} of {} failed", "0", "0", "0", "1000000000000000.0")
@example("batch {} of {} failed", "0", "0", "0", "deadbeefdeadbeef")
def test_a_signature_does_not_depend_on_the_numbers_in_the_message(
    template: str, one: str, two: str, three: str, four: str
) -> None:
    assert signature(template.format(one, two)) == signature(template.format(three, four))


@pytest.mark.parametrize(
    "unit", ["a", "9", "/", "'", "a-", "1,", "a.a/", "://:", "a:/\\", "0x", "password=", "a 'b ", "\n", "é"]
)
def test_a_message_of_a_megabyte_is_read_as_far_as_it_matters(unit: str) -> None:
    message = "disk 7 failed " + unit * (1_000_000 // len(unit))
    assert signature(message).startswith("disk # failed")
    pattern = ErrorPatterns().meet(message, Kind.DATA, NOON, "cpu:0")
    assert len(pattern.example) <= LONGEST_EXAMPLE


SECRETS = [
    "postgresql://arxiv:{}@db:5432/papers is away",
    "could not connect to 'postgresql+psycopg2://arxiv:{}@[::1]/papers?sslmode=require'",
    "redis://:{}@host refused",
    "connection failed: host=db user=arxiv password={} dbname=papers",
    "connection failed: host=db user=arxiv password = '{} with a \\' quote' dbname=papers",
    "connect(host='db', password='{}') failed",
    '{{"user": "arxiv", "password": "{}"}}',
    "PGPASSWORD={} psql failed",
    "api_key={}",
    "ALTER ROLE arxiv PASSWORD '{}'",
    "AWS_SECRET_ACCESS_KEY={} is set",
    '{{"SecretAccessKey": "{}"}}',
    "aws_session_token = {}",
    "HF_TOKEN={} is not valid",
    "postgresql://db/papers?sslmode=require&password={} is away",
    "postgresql://db/papers?p%61ssword={} is away",
    "postgresql://db/papers?sslmode=require&passwor%64={}&connect_timeout=3 is away",
    "GET https://bucket/model?X-Amz-Signature={} failed",
]


@pytest.mark.parametrize("template", SECRETS)
@pytest.mark.parametrize("secret", ["hunter2", "p@ss/w:rd", "šifra%21"])
def test_a_password_is_in_no_signature_and_no_example(template: str, secret: str) -> None:
    message = template.format(secret)
    pattern = ErrorPatterns().meet(message, Kind.TRANSIENT, NOON, "cpu:0")
    for text in (masked(message), pattern.signature, pattern.example):
        assert secret not in text
        assert not any(part in text for part in ("hunter", "w:rd", "šifra", "quote'"))
    assert "***" in pattern.example


@pytest.mark.parametrize("token", ["ghp_x1y2z3", "x1@y2"])
@pytest.mark.parametrize("scheme", ["https", "HTTP", "s3", "git+https"])
def test_a_token_that_stands_alone_before_a_host_is_masked(scheme: str, token: str) -> None:
    assert masked(f"fetched {scheme}://{token}@host/repo@v2: 404") == f"fetched {scheme}://***@host/repo@v2: 404"


@pytest.mark.parametrize(
    "message",
    [
        "postgresql://arxiv@db/papers is away",
        "https://host/mail@home is away",
        "https://host?mail=me@home is away",
        "http://host:8080/path is away",
        "its 512 tokens need more memory",
        'password authentication failed for "x"',
        "a@b",
    ],
)
def test_what_is_no_password_is_left_as_it_is(message: str) -> None:
    assert masked(message) == message


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("401 for hf_AbCdEfGhIjKlMnOpQrStUvWxYz", "401 for hf_***"),
        ("Authorization: Bearer eyJhbGciOi.J9-x_y", "Authorization: Bearer ***"),
        ("az://box/papers?sv=2024&sig=aB3%2Fd4e5f6&se=2026", "az://box/papers?sv=2024&sig=***&se=2026"),
        ("db?p%61ssword=a&sslmode=require", "db?p%61ssword=***&sslmode=require"),
        ("db?sslm%6fde=require", "db?sslm%6fde=require"),
    ],
)
def test_tokens_and_what_a_url_encodes_are_masked_and_the_rest_stays(message: str, said: str) -> None:
    assert masked(message) == said


def test_a_secret_known_by_its_value_is_masked_wherever_it_stands() -> None:
    assert masked("refused: 'x8/Qz+w' of AKIA1", ["x8/Qz+w"]) == "refused: '***' of AKIA1"


def test_a_user_and_a_host_stay_readable_beside_a_masked_password() -> None:
    assert masked("postgresql://arxiv:secret@db/papers") == "postgresql://arxiv:***@db/papers"
    assert masked("password=secret host=db") == "password=*** host=db"


class Away(ArxivEmbedError):
    kind = Kind.TRANSIENT


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def sqlite_error(statement: str, folder: Path) -> BaseException:
    connection = sqlite3.connect(folder / "tiny.db")
    try:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute(statement)
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError("it did not fail")


def wrapped(error: BaseException) -> BaseException:
    """As SQLAlchemy raises what a driver raised."""
    return sqlalchemy.exc.DBAPIError.instance("SELECT 1", {}, error, psycopg2.Error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NoSpace("full"), Kind.RESOURCE),
        (ArxivEmbedError("say no more"), Kind.PERMANENT),
        (Locked("It", "process 1"), Kind.TRANSIENT),
        (Away(), Kind.TRANSIENT),
        (caused(ArxivEmbedError("ours decides"), MemoryError()), Kind.PERMANENT),
        (MemoryError(), Kind.RESOURCE),
        (torch.OutOfMemoryError("CUDA out of memory"), Kind.RESOURCE),
        (OSError(errno.ENOSPC, "No space left on device"), Kind.RESOURCE),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Kind.RESOURCE),
        (OSError(errno.EMFILE, "Too many open files"), Kind.RESOURCE),
        (OSError(errno.EIO, "Input/output error"), Kind.TRANSIENT),
        (PermissionError(errno.EACCES, "Permission denied"), Kind.PERMANENT),
        (OSError(errno.EROFS, "Read-only file system"), Kind.PERMANENT),
        (FileNotFoundError(errno.ENOENT, "No such file"), Kind.TRANSIENT),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), Kind.TRANSIENT),
        (RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), x.rs:1"), Kind.RESOURCE),
        (RuntimeError("lance error: LanceError(IO): Permission denied (os error 13), x.rs:1"), Kind.PERMANENT),
        (ModuleNotFoundError("No module named 'pgvector'"), Kind.PERMANENT),
        (psycopg2.OperationalError("server closed the connection unexpectedly"), Kind.TRANSIENT),
        (psycopg2.InterfaceError("connection already closed"), Kind.TRANSIENT),
        (psycopg2.errors.DeadlockDetected(), Kind.TRANSIENT),
        (psycopg2.errors.DiskFull(), Kind.RESOURCE),
        (psycopg2.errors.InvalidPassword(), Kind.PERMANENT),
        (psycopg2.errors.UndefinedTable(), Kind.PERMANENT),
        (wrapped(psycopg2.OperationalError("server closed the connection")), Kind.TRANSIENT),
        (wrapped(psycopg2.errors.DiskFull()), Kind.RESOURCE),
        (wrapped(psycopg2.errors.UndefinedTable()), Kind.PERMANENT),
        (caused(RuntimeError("a step failed"), OSError(errno.ENOSPC, "No space left on device")), Kind.RESOURCE),
        (caused(RuntimeError("a step failed"), NoSpace("full")), Kind.RESOURCE),
        (ValueError("something new"), Kind.TRANSIENT),
        (KeyboardInterrupt(), Kind.TRANSIENT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_an_errors_kind_is_what_it_asks_for(error: BaseException, kind: Kind) -> None:
    assert kind_of(error) is kind


def test_sqlite_says_what_it_lacks_by_the_name_of_its_error(tmp_path: Path) -> None:
    assert kind_of(sqlite_error("CREATE TABLE t (x)", tmp_path)) is Kind.RESOURCE
    assert kind_of(sqlite_error("SELEC", tmp_path)) is Kind.TRANSIENT


def test_errors_that_cause_each_other_have_a_kind_too() -> None:
    one, two = ValueError("one"), ValueError("two")
    assert kind_of(caused(one, caused(two, one))) is Kind.TRANSIENT


def test_an_incident_that_is_no_error_has_no_kind() -> None:
    kinds = {what: kind_of_incident(what) for what in ("out of memory", "failed", "lost", "hung", "retired")}
    assert kinds == {
        "out of memory": Kind.RESOURCE,
        "failed": Kind.DATA,
        "lost": Kind.TRANSIENT,
        "hung": Kind.TRANSIENT,
        "retired": Kind.RESOURCE,
    }
    assert kind_of_incident("back") is None
    assert kind_of_incident("waiting") is None


def test_occurrences_of_one_error_are_counted_with_their_times_and_places() -> None:
    patterns = ErrorPatterns()
    patterns.meet("disk 1 is slow", Kind.TRANSIENT, NOON, "cuda:0")
    patterns.meet("paper is empty", Kind.DATA, NOON, "cs.jsonl")
    patterns.meet("disk 2 is slow", Kind.TRANSIENT, NOON + 60, "cuda:1")
    pattern = patterns.meet("disk 3 is slow", Kind.TRANSIENT, NOON - 3600, "cuda:1")  # the clock was set back
    assert [(found.signature, found.count) for found in patterns.patterns()] == [
        ("disk # is slow", 3),
        ("paper is empty", 1),
    ]
    assert patterns.patterns()[0] == pattern
    assert (pattern.first, pattern.last) == ("2023-11-14T21:13:20.000+00:00", "2023-11-14T22:14:20.000+00:00")
    assert pattern.example == "disk 3 is slow"
    assert pattern.where == {"cuda:0": 1, "cuda:1": 2}


def test_one_message_of_two_kinds_makes_two_patterns() -> None:
    patterns = ErrorPatterns()
    patterns.meet("it failed", Kind.DATA, NOON, "a")
    patterns.meet("it failed", Kind.TRANSIENT, NOON, "a")
    assert [pattern.count for pattern in patterns.patterns()] == [1, 1]


def test_a_repeating_pattern_is_told_ever_more_rarely() -> None:
    patterns = ErrorPatterns()
    told = [n for n in range(1, 2001) if patterns.meet(f"no. {n}", Kind.DATA, NOON, "a").is_worth_telling]
    assert told == [3, 10, 30, 100, 300, 1000]


MET = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(["disk 1 failed", "disk 2 failed", "paper 'x'", "", "é\ud800"]), MESSAGES),
        st.sampled_from(list(Kind)),
        st.floats(0, 4e9),
        st.sampled_from(["cpu:0", "cpu:1", "cs.jsonl", ""]),
    ),
    max_size=12,
)


def tally(met: list[tuple[str, Kind, float, str]]) -> ErrorPatterns:
    patterns = ErrorPatterns()
    for occurrence in met:
        patterns.meet(*occurrence)
    return patterns


@given(MET, MET)
def test_patterns_merged_in_either_order_are_those_met_together(
    one: list[tuple[str, Kind, float, str]], two: list[tuple[str, Kind, float, str]]
) -> None:
    forth, back = tally(one), tally(two)
    forth.merge(tally(two))
    back.merge(tally(one))
    assert forth == back == tally(one + two) == tally((one + two)[::-1])
    assert sum(pattern.count for pattern in forth.patterns()) == len(one) + len(two)


def test_merging_leaves_the_patterns_that_are_merged_as_they_were() -> None:
    one, two = tally([]), tally([("a", Kind.DATA, NOON, "x")])
    one.merge(two)
    one.meet("a", Kind.DATA, NOON, "y")
    assert two == tally([("a", Kind.DATA, NOON, "x")])


@given(MET)
def test_patterns_come_back_from_json_as_they_were(met: list[tuple[str, Kind, float, str]]) -> None:
    patterns = tally(met)
    assert ErrorPatterns.from_json(json.loads(json.dumps(patterns.to_json()))) == patterns


def test_what_is_kept_of_ever_new_errors_and_places_is_bounded() -> None:
    patterns = ErrorPatterns()
    words = ["".join(chr(ord("g") + int(digit)) for digit in str(number)) for number in range(MOST_PATTERNS + 50)]
    for word in words:
        patterns.meet("the common one", Kind.DATA, NOON, word)
        patterns.meet(word, Kind.DATA, NOON, "a")
    assert len(patterns.patterns()) == MOST_PATTERNS
    common = patterns.patterns()[0]
    assert common.count == len(words)
    assert sum(common.where.values()) == len(words)
    assert len(common.where) == MOST_PLACES + 1
    assert common.where[ELSEWHERE] == len(words) - MOST_PLACES


def test_an_example_is_the_first_message_cut_where_it_is_long() -> None:
    pattern = ErrorPatterns().meet("word " * LONGEST_READ, Kind.DATA, NOON, "a")
    assert len(pattern.example) == LONGEST_EXAMPLE
    assert pattern.example.endswith("…")
