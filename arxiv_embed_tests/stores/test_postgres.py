"""The PostgreSQL store: its connections, its rights, its indexes, and what a server does in the middle of a write."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from arxiv_embed.checkpoint.atomic import NoSpace, NotWritable
from arxiv_embed.checkpoint.lock import Locked
from arxiv_embed.stores.postgres import indexes, merge, reader, rows, schema, words, writer
from arxiv_embed.stores.postgres import store as postgres_store
from arxiv_embed.stores.postgres.store import PostgresStore
from arxiv_embed.stores.protocol import Filters, NoStore, StoreAway, StoreError, TooSlow, open_store
from arxiv_embed_tests.small_disk import grow, small_disk
from arxiv_embed_tests.stores.shard_rows import SPACE, Record, held, papers_held, shard_rows, write

if TYPE_CHECKING:
    from arxiv_embed_tests.postgres_server import PostgresServer

F = SPACE.fingerprint


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[PostgresStore]:
    with PostgresStore(url, create=True) as store:
        yield store


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are long enough for a server beside."""
    monkeypatch.setattr(writer, "PAUSES", (0.0, 0.1, 0.2))


# What is refused, in a sentence


def one_sentence(error: Exception) -> str:
    said = str(error)
    assert "\n" not in said
    assert said.endswith(".")
    assert "hunter2" not in said
    return said


def test_what_is_no_database_says_what_to_do(postgres: PostgresServer) -> None:
    with postgres.guarded_user("right") as user:
        for bad, said in {
            postgres.url(user=user, password="hunter2"): "its user or password is wrong: put it into PGPASSWORD",
            postgres.url(user=user): "it asks for a password: put it into PGPASSWORD",
            postgres.url("nowhere"): "there is no such database: make it with `createdb`",
            postgres.url(user="nobody", password="hunter2"): "there is no such user: make it with `createuser`",
            "postgresql://me:hunter2@127.0.0.1:1/papers": "does not answer (.*refused.*): start its server",
            "postgres://me:hunter2@no-such-host.invalid/papers": "does not answer (.*): start its server",
            "postgresql://me:hunter2@[half/papers": "is no URL of a PostgreSQL database: write it as",
            "postgresql://me:hunter2@host/papers?no=such": "is no URL of a PostgreSQL database: write it as",
            "postgresql://me:hunter2/x@host/papers": "is no URL of a PostgreSQL database: write it as",
            "postgresql://me:1/hunter2@host/papers": "is no URL of a PostgreSQL database: write it as",
            "postgresql://me:x hunter2@host/papers": "is no URL of a PostgreSQL database: write it as",
            "postgresql://me:x@hunter2@host/papers": "is no URL of a PostgreSQL database: write it as",
        }.items():
            with pytest.raises(StoreError, match=said.replace("(", r"\(").replace(")", r"\)")) as refused:
                open_store(bad, create=True)
            one_sentence(refused.value)
            assert isinstance(refused.value, StoreAway) == ("does not answer" in said)


def test_a_server_without_pgvector_is_refused_before_anything_is_embedded(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "EXTENSION", "no_such_extension")
        with pytest.raises(StoreError, match=r"has no pgvector: install it there .*, or use the image") as refused:
            open_store(url)  # as a plan does
        one_sentence(refused.value)
    monkeypatch.setattr(schema, "LEAST_EXTENSION", (99, 0))
    with pytest.raises(StoreError, match=r"The pgvector of .* is version 0.*, needed is 99.0 or newer: install"):
        open_store(url)


@pytest.mark.parametrize(
    "begun",
    [
        "CREATE SCHEMA arxiv_embed",
        "CREATE EXTENSION vector; CREATE SCHEMA arxiv_embed; CREATE TABLE arxiv_embed.migrations "
        "(version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT clock_timestamp())",
    ],
    ids=["schema", "migrations"],
)
def test_a_store_whose_making_was_interrupted_is_none_and_is_completed_by_the_next_writer(
    postgres: PostgresServer, store: PostgresStore, begun: str
) -> None:
    postgres.execute(begun, store.url)
    with pytest.raises(NoStore, match="There is no store at"):
        open_store(store.url)
    assert (store.spaces(), store.count(F)) == ([], (0, 0))
    write(store, "a", Record("1"))
    with open_store(store.url) as again:
        assert set(papers_held(again)) == {"1"}


def test_writers_that_come_first_at_once_make_one_store(url: str) -> None:
    def begin(number: int) -> None:
        with PostgresStore(url, create=True) as store:
            write(store, f"s{number}", Record(str(number)))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(begin, range(4)))
    with open_store(url) as store:
        assert set(papers_held(store)) == set("0123")


@pytest.fixture
def reading_role(postgres: PostgresServer, store: PostgresStore) -> Iterator[str]:
    """The URL for a user who may SELECT and nothing else, of a store that holds a paper."""
    write(store, "a", Record("1", text="a galaxy"))
    store.finish(SPACE)
    postgres.execute(
        "CREATE ROLE reading LOGIN; REVOKE ALL ON SCHEMA public FROM public;"
        "GRANT USAGE ON SCHEMA public, arxiv_embed TO reading;"
        "GRANT SELECT ON ALL TABLES IN SCHEMA arxiv_embed TO reading",
        store.url,
    )
    yield store.url.replace("postgres@", "reading@")
    postgres.execute("DROP OWNED BY reading; DROP ROLE reading", store.url)


def test_a_role_that_may_select_reads_and_searches_while_another_writes(
    store: PostgresStore, reading_role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = shard_rows("a", [Record("1", text="a galaxy")])["vector"][0].as_py()

    def read(*given: Any) -> Any:
        with open_store(reading_role) as reading:
            assert set(papers_held(reading)) == {"1"}
            assert reading.spaces() == [SPACE]
            assert reading.shards(F) == store.shards(F)
            assert [match.paper_id for match in reading.matching(F, "galaxies", 3, Filters())] == ["1"]
            for exact in (False, True):
                [near] = reading.nearest(F, np.array(vector, np.float32), 3, Filters(), chunks=False, exact=exact)
                assert near.paper_id == "1"
        return note_losses(*given)

    note_losses = merge._note_losses
    monkeypatch.setattr(merge, "_note_losses", read)
    write(store, "b", Record("2"))
    assert store.count(F) == (2, 6)


def test_a_role_that_may_only_read_is_refused_a_write_in_one_sentence(store: PostgresStore, reading_role: str) -> None:
    with open_store(reading_role) as reading, pytest.raises(NotWritable, match="Nothing can be written to") as refused:
        write(reading, "b", Record("2"))
    one_sentence(refused.value)
    assert set(papers_held(store)) == {"1"}


def test_a_role_that_may_not_read_is_told_what_to_grant(postgres: PostgresServer, reading_role: str, url: str) -> None:
    postgres.execute("REVOKE SELECT ON ALL TABLES IN SCHEMA arxiv_embed FROM reading", url)
    with pytest.raises(StoreError, match=r"may not be read .*: have its owner grant USAGE on the schema") as refused:
        open_store(reading_role)
    one_sentence(refused.value)


def test_a_server_that_is_read_only_is_read_and_refuses_a_write(postgres: PostgresServer, store: PostgresStore) -> None:
    write(store, "a", Record("1"))
    name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(store.url)["dbname"])
    postgres.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    with open_store(store.url) as again:
        assert set(papers_held(again)) == {"1"}
        with pytest.raises(NotWritable, match=r"Nothing can be written to .* give a user and a server that may write"):
            write(again, "b", Record("2"))


def test_a_full_disk_is_one_sentence_and_the_store_stays_as_it_was(postgres: PostgresServer, url: str) -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with small_disk(Path(folder) / "disk", 3) as disk:
            place = postgres.own(disk / "space")
            name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(url)["dbname"])
            postgres.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(place))))
            postgres.execute(sql.SQL("ALTER DATABASE {} SET default_tablespace = 'small'").format(name))
            many = [Record(str(n), text=f"word {n} " * 20, chunks=1) for n in range(5_000)]
            with PostgresStore(url, create=True) as store:
                write(store, "a", Record("1"))
                before = held(store)
                with pytest.raises(NoSpace, match=r"No space is left on the server .* run the same command") as full:
                    write(store, "b", *many, identity="b")
                one_sentence(full.value)
                assert held(store) == before
                assert list(store.shards(F)) == ["a"]
                grow(disk, 60)
                write(store, "b", *many, identity="b")
                assert store.count(F)[0] == 5_000
            postgres.execute("DROP SCHEMA arxiv_embed CASCADE", url)
            postgres.execute("DROP TABLESPACE small")


def test_a_schema_that_is_gone_is_away_and_not_begun_anew(postgres: PostgresServer, store: PostgresStore) -> None:
    write(store, "a", Record("1"))
    postgres.execute("DROP SCHEMA arxiv_embed CASCADE", store.url)
    for refused in (lambda: write(store, "b", Record("2")), store.spaces, lambda: store.papers(F, ["1"])):
        with pytest.raises(StoreAway, match="was there and is gone"):
            refused()


def test_reading_has_an_end(store: PostgresStore, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, "a", Record("1"))
    monkeypatch.setattr(reader, "SESSION", reader.SESSION + "SET statement_timeout = '100ms'; SET lock_timeout = 0;")
    blocked = psycopg.connect(store.url)
    blocked.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(schema.rows_of(F)))
    with blocked, open_store(store.url) as slow:
        with pytest.raises(TooSlow, match="took too long to answer") as refused:
            slow.count(F)
        one_sentence(refused.value)


def test_a_table_that_another_keeps_to_itself_is_waited_for_and_then_named(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, "a", Record("1"))
    for module in (reader, writer):
        monkeypatch.setattr(module, "SESSION", module.SESSION + "SET lock_timeout = '1ms';")
    with psycopg.connect(store.url) as other, open_store(store.url) as waiting:
        other.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(schema.rows_of(F)))
        for refused in (lambda: waiting.count(F), lambda: write(waiting, "b", Record("2"))):
            with pytest.raises(Locked, match="is in use by another connection"):
                refused()


# A server that ends connections, and itself


def in_the_middle(where: str, monkeypatch: pytest.MonkeyPatch, strike: Callable[[], object]) -> None:
    """Lets `strike` come once, in the middle of the next COPY or of the merge."""
    struck = threading.Event()

    def once() -> None:
        if not struck.is_set():
            struck.set()
            strike()

    if where == "copy":
        records = rows._records

        def interrupted(*given: Any) -> Iterator[tuple[Any, ...]]:
            for number, record in enumerate(records(*given)):
                if number == 5_000:
                    once()
                yield record

        monkeypatch.setattr(rows, "_records", interrupted)
    else:
        note_losses = merge._note_losses

        def noted(*given: Any) -> Any:
            once()
            return note_losses(*given)

        monkeypatch.setattr(merge, "_note_losses", noted)


MANY = [Record(str(n), "2021-01-01", text=f"text {n}", chunks=1) for n in range(4_000)]


@pytest.mark.parametrize("where", ["copy", "merge"])
@pytest.mark.parametrize("how", ["terminated", "restarted"])
def test_a_connection_that_ends_in_the_middle_of_a_write_is_made_anew(
    postgres: PostgresServer,
    store: PostgresStore,
    where: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    hasty: None,
) -> None:
    write(store, "other", Record("1", "2020-01-01"), Record("x"))
    write(store, "a", Record("1", "2021-01-01"), *MANY[2_000:2_010])

    def strike() -> None:
        if how == "restarted":
            postgres.take_down()
            postgres.bring_up()
        else:
            postgres.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'arxiv-embed process%'"
            )

    in_the_middle(where, monkeypatch, strike)
    uncovered = write(store, "a", *(record for record in MANY if record.id != "1"))
    assert uncovered == ("other",)
    assert set(store.shards(F)) == {"a"}
    write(store, "other", Record("1", "2020-01-01"), Record("x"))
    assert papers_held(store) == {
        **{record.id: ("a", "2021-01-01", 1) for record in MANY},
        **dict.fromkeys(("1", "x"), ("other", "2020-01-01", 1)),
    }


def test_a_server_that_stays_away_is_away_and_leaves_no_half_shard(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    write(store, "a", Record("1"))
    with monkeypatch.context() as patch:
        in_the_middle("copy", patch, postgres.take_down)
        try:
            with pytest.raises(StoreAway, match="does not answer") as away:
                write(store, "b", *MANY)
            one_sentence(away.value)
        finally:
            postgres.bring_up()
    assert set(papers_held(store)) == {"1"}  # the reading connections are made anew
    write(store, "b", *MANY[2:5])
    assert set(store.shards(F)) == {"a", "b"}


def test_many_threads_read_one_store(store: PostgresStore) -> None:
    records = [Record(str(n), text=f"text {n}") for n in range(20)]
    write(store, "a", *records)
    vectors = {r.id: np.array(shard_rows("a", [r])["vector"][0].as_py(), np.float32) for r in records}

    def find(record: Record) -> str:
        return store.nearest(F, vectors[record.id], 1, Filters(), chunks=False)[0].paper_id

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(find, records * 5)) == [record.id for record in records] * 5


# Indexes, words, and numbers


def embedded(count: int, shard: str = "a", start: int = 0, dimensions: int = 32) -> pa.Table:
    """Rows of papers whose vectors lie near each other as those of texts do: in groups, and of few directions."""
    drawn = np.random.default_rng(start)
    directions = np.random.default_rng(7).standard_normal((12, dimensions))
    centres = 2 * np.random.default_rng(8).standard_normal((40, 12))
    vectors = (centres[drawn.integers(0, 40, count)] + drawn.standard_normal((count, 12))) @ directions
    vectors += 0.3 * drawn.standard_normal((count, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    space = replace(SPACE, dimensions=dimensions)
    made = shard_rows(shard, [Record(f"{start + n:06}", chunks=1) for n in range(count)], space)
    papers = made.filter(pa.compute.equal(made["chunk_index"], -1))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), dimensions)
    return papers.set_column(papers.schema.get_field_index("vector"), "vector", column)


WIDE = replace(SPACE, dimensions=32)


def has_index(postgres: PostgresServer, store: PostgresStore) -> bool:
    """Of vectors."""
    return bool(postgres.execute("SELECT 1 FROM pg_indexes WHERE indexname LIKE 'rows_%_vector'", store.url))


def test_the_nearest_papers_are_found_by_index_and_are_those_that_an_exact_search_finds(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of a store ten times as large: of so few papers PostgreSQL would rather compare every one.
    monkeypatch.setattr(indexes, "INDEX_FROM", 2_000)
    monkeypatch.setattr(postgres_store, "LEAST_CANDIDATES", 100)
    made = embedded(6_000)
    store.write_shard(WIDE, "a", made, "a")
    assert not has_index(postgres, store)
    store.finish(WIDE)
    queries = rows.vectors_in(made)[:50] + rows.vectors_in(made)[50:100]

    def nearest(query: Any, *, exact: bool) -> set[str]:
        matches = store.nearest(WIDE.fingerprint, query, 10, Filters(), chunks=False, exact=exact)
        assert len(matches) == 10
        return {match.paper_id for match in matches}

    exact = [nearest(query, exact=True) for query in queries]
    found = [nearest(query, exact=False) for query in queries]
    assert sum(len(a & b) for a, b in zip(exact, found, strict=True)) >= 0.98 * 10 * len(queries)
    plans = {asked: plan_of_nearest(store, queries[0], exact=asked) for asked in (False, True)}
    assert "_vector" in plans[False]
    assert "_vector" not in plans[True]


def plan_of_nearest(store: PostgresStore, query: Any, *, exact: bool) -> str:
    """How PostgreSQL answers it."""
    seen: list[str] = []
    execute = psycopg.Connection.execute

    def explained(connection: Any, statement: Any, given: Any = None, **more: Any) -> Any:
        if isinstance(statement, sql.Composed) and "<=>" in statement.as_string(connection):
            seen.append(str(execute(connection, sql.SQL("EXPLAIN ") + statement, given).fetchall()))
        return execute(connection, statement, given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", explained)
        store.nearest(WIDE.fingerprint, query, 10, Filters(), chunks=False, exact=exact)
    return seen[-1]


def test_filters_that_leave_little_still_find_all_of_it(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "INDEX_FROM", 1_000)
    store.write_shard(WIDE, "a", embedded(2_000), "a")
    store.write_shard(WIDE, "b", embedded(7, "b", 50_000), "b")
    store.finish(WIDE)
    query = -rows.vectors_in(embedded(7, "b", 50_000))[0]
    found = store.nearest(WIDE.fingerprint, query, 7, Filters(shard="b"), chunks=False)
    assert len(found) == 7


def test_an_index_is_dropped_before_a_run_adds_much_and_kept_for_little(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "INDEX_FROM", 500)
    store.write_shard(WIDE, "a", embedded(1_000), "a")
    store.finish(WIDE)
    for number in range(3):  # little each, and much together
        shard = f"b{number}"
        assert has_index(postgres, store)
        store.write_shard(WIDE, shard, embedded(45, shard, 10_000 * (number + 1)), shard)
    assert not has_index(postgres, store)
    store.finish(WIDE)
    store.write_shard(WIDE, "c", embedded(45, "c", 90_000), "c")
    assert has_index(postgres, store)
    [last] = store.nearest(WIDE.fingerprint, rows.vectors_in(embedded(45, "c", 90_000))[3], 1, Filters(), chunks=False)
    assert last.paper_id == "090003"


def test_an_index_is_built_by_one_process_where_several_have_no_memory_to_share(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = indexes._build

    def short_of_memory(connection: Any, statement: Any, memory: int, helpers: str | None = None) -> None:
        if helpers != "0":
            raise psycopg.errors.DiskFull("could not resize shared memory segment: No space left on device")
        build(connection, statement, memory, helpers)

    monkeypatch.setattr(indexes, "INDEX_FROM", 500)
    monkeypatch.setattr(indexes, "_build", short_of_memory)
    store.write_shard(WIDE, "a", embedded(1_000), "a")
    store.finish(WIDE)
    assert has_index(postgres, store)


def test_an_index_that_is_being_read_is_kept(
    postgres: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "INDEX_FROM", 500)
    monkeypatch.setattr(indexes, "DROP_WAIT", "1ms")
    store.write_shard(WIDE, "a", embedded(1_000), "a")
    store.finish(WIDE)
    reading = store.scan(WIDE.fingerprint)
    next(reading)
    store.write_shard(WIDE, "b", embedded(300, "b", 10_000), "b")
    reading.close()
    assert has_index(postgres, store)
    assert store.count(WIDE.fingerprint)[0] == 1_300


def test_a_scan_is_of_one_moment(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_store, "SCAN_ROWS", 2)
    write(store, "a", *(Record(str(n)) for n in range(4)))
    before = held(store)
    reading = store.scan(F)
    first = next(reading).to_pylist()
    write(store, "a", *(Record(str(n), text="another") for n in range(8)))
    rest = [row for batch in reading for row in batch.to_pylist()]
    assert sorted([*first, *rest], key=lambda row: row["key"]) == before


def test_long_vectors_are_kept_in_half_precision(store: PostgresStore) -> None:
    space = replace(SPACE, dimensions=2_048)
    made = embedded(30, dimensions=2_048)
    store.write_shard(space, "a", made, "a")
    store.finish(space)
    [batch] = store.scan(space.fingerprint)
    assert batch.schema.equals(made.schema)
    kept = rows.vectors_in(pa.Table.from_batches([batch]).sort_by("key"))
    assert np.abs(kept - rows.vectors_in(made.sort_by("key"))).max() < 1e-3
    vector = store.vector_of(space.fingerprint, "000003")
    assert vector is not None
    assert vector.dtype == np.float32
    assert store.nearest(space.fingerprint, vector, 1, Filters(), chunks=False)[0].paper_id == "000003"


def test_text_that_postgresql_cannot_hold_is_kept_without_its_nul_bytes(store: PostgresStore) -> None:
    write(store, "a", Record("1", title="zero \x00 byte", text="\x00" + "word " * 50_000, categories=("cs.LG\x00",)))
    store.finish(SPACE)
    [paper] = store.papers(F, ["1"]).values()
    assert paper.title == "zero \ufffd byte"
    assert len(paper.abstract) == 250_001
    assert store.matching(F, "zero \x00 word", 3, Filters())[0].paper_id == "1"


def test_papers_with_more_and_rarer_words_of_a_query_come_first(store: PostgresStore) -> None:
    common = [Record(f"common {n}", title="A model", text="a model of all things") for n in range(60)]
    write(
        store,
        "a",
        *common,
        Record("rare", title="A thing", text="a quasar is a thing among many other things here"),
        Record("both", title="A thing", text="a model of a quasar among many other things here"),
        Record("other", title="Nothing of it", text="nor here"),
    )
    store.finish(SPACE)
    found = [match.paper_id for match in store.matching(F, "models of the quasar", 5, Filters())]
    assert found[:2] == ["both", "rare"]
    assert all(name.startswith("common") for name in found[2:])
    assert store.matching(F, "the of and", 5, Filters()) == []
    everything = store.matching(F, "quasar model nothing 'quoted'' \\ & | ! <-> :* (", 100, Filters())
    assert {match.paper_id for match in everything} >= {"rare", "both", "other"}


def test_words_are_chosen_until_enough_papers_are_found() -> None:
    shares = {"model": 0.3, "star": 0.02, "galaxi": 0.01}
    asked = words.ranked(["model", "star", "galaxi", "quasar"], shares, 50_000)
    assert asked.words == ("'quasar'", "'galaxi'", "'star'", "'model'")
    assert list(asked.worth) == sorted(asked.worth, reverse=True)
    assert list(asked.selections()) == [
        "'quasar' & 'galaxi' & 'star' & 'model'",
        "'quasar' | 'galaxi'",
        "'quasar' | 'galaxi' | 'star' | 'model'",
    ]
    assert list(words.ranked(["model"], shares, 50_000).selections())[1] == "'model'"
    assert next(words.ranked(["it's \\"], {}, 0).selections()) == "'it''s \\\\'"
    assert list(words.ranked([], {}, 0).selections()) == []


@pytest.mark.parametrize(("kind", "unloaded"), [("lance", "psycopg"), ("postgres", "lancedb")])
def test_a_store_of_one_kind_loads_nothing_of_the_other(kind: str, unloaded: str, url: str, tmp_path: Path) -> None:
    code = (
        "import sys; from arxiv_embed.stores.protocol import open_store;"
        "open_store(sys.argv[1], create=True).__exit__();"
        f"assert {unloaded!r} not in sys.modules"
    )
    place = url if kind == "postgres" else str(tmp_path / "store")
    subprocess.run([sys.executable, "-c", code, place], check=True)
