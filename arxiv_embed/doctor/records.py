"""What runs leave and need: the store, Dagster's database, devices that are held, runs that were killed, quarantine."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import psycopg

from arxiv_embed.checkpoint.lock import is_held
from arxiv_embed.checkpoint.quarantine import Quarantine
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.doctor.check import Check, Subject, fine, skipped, warn, wrong
from arxiv_embed.errors import sentence
from arxiv_embed.runs import killed_runs
from arxiv_embed.stores.postgres.server import Server
from arxiv_embed.stores.protocol import POSTGRESQL, NoStore, open_store
from arxiv_embed.wording import plural

CONNECT_SECONDS = 5

_DRIVER = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://")


def store(subject: Subject) -> Iterator[Check]:
    """Read only."""
    url = subject.store
    is_database = url.partition("://")[0] in POSTGRESQL
    try:
        with open_store(url) as opened:
            held = [(space, *opened.count(space.fingerprint)) for space in opened.spaces()]
    except NoStore:
        if is_database:
            yield fine("store", f"{url} answers ({_versions(url)}); nothing is stored there yet")
        else:
            yield skipped("store", f"none yet at {url}: `arxiv-embed run` makes it")
        return
    kind = _versions(url) if is_database else f"LanceDB {version('lancedb')}"
    papers = sum(number for _, number, _ in held)
    yield fine("store", f"{url} ({kind}): {plural(papers, 'paper')} in {plural(len(held), 'space')}")


def _versions(url: str) -> str:
    with Server(url).connect("arxiv-embed doctor") as connection:
        server = connection.execute("SHOW server_version").fetchone()
        vector = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    pgvector = f"pgvector {vector[0]}" if vector else "pgvector not yet enabled in it"
    return f"PostgreSQL {server[0] if server else '?'}, {pgvector}"


def dagster_database(subject: Subject) -> Iterator[Check]:
    url = subject.settings.postgres_url
    if url is None:
        yield sqlite(subject.settings.dagster / "storage" / "runs.db")
        return
    name = "Dagster's database"
    if not _DRIVER.match(url):
        yield wrong(
            name, "ARXIV_EMBED_POSTGRES_URL is no PostgreSQL URL", "write it as postgresql://user@host:5432/database"
        )
        return
    try:
        with psycopg.connect(_DRIVER.sub("postgresql://", url), connect_timeout=CONNECT_SECONDS) as connection:
            row = connection.execute("SHOW server_version").fetchone()
    except psycopg.Error as error:
        remedy = "start its server, or mend or unset ARXIV_EMBED_POSTGRES_URL"
        yield wrong(name, f"it does not answer ({sentence(error)})", remedy)
        return
    yield fine(name, f"PostgreSQL {row[0] if row else '?'} answers")


def sqlite(path: Path) -> Check:
    name = "Dagster's database"
    if not path.exists():
        return skipped(name, f"none yet: SQLite below {path.parent} is made by the first run")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=CONNECT_SECONDS)) as database:
            [runs] = database.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        return wrong(name, f"{path} cannot be read ({error})", f"end what holds it, or move {path.parent} away")
    return fine(name, f"SQLite in {path.parent}: {runs:,} runs")


def leases(subject: Subject) -> Iterator[Check]:
    held = []
    for path in _listed(subject.settings.leases):
        if path.suffix == ".lock" and is_held(path):
            who = path.read_text(errors="replace").strip() or "another process"
            held.append(f"{path.stem} by {who}")
    if held:
        remedy = "wait for that run (`arxiv-embed monitor` shows it), stop it, or give a new run other --devices"
        yield warn("devices", f"in use: {', '.join(held)}", remedy)
    else:
        yield fine("devices", "no run of this home holds one")


def killed(subject: Subject) -> Iterator[Check]:
    _listed(subject.settings.runs)
    found = [str(run).partition(": this run goes on")[0].rstrip(".") for run in killed_runs(subject.settings)]
    if found:
        remedy = "run the same command again: it goes on from what was saved (dmesg says whether memory ran out)"
        yield warn("last run", "; ".join(found), remedy)
    else:
        yield fine("last run", "none was killed")


def quarantine(subject: Subject) -> Iterator[Check]:
    damages = [
        *CheckpointStore(subject.checkpoints).quarantined(),
        *Quarantine(subject.settings.history / "quarantine").damages(),
    ]
    if damages:
        remedy = "`arxiv-embed status` lists them; check the disk; remove what you need no more"
        yield warn(
            "quarantine", f"{len(damages)} damaged files set aside, the newest of {damages[0].checkpoint}", remedy
        )
    else:
        yield fine("quarantine", "nothing was found damaged")


def _listed(folder: Path) -> list[Path]:
    """What is in a folder that need not be there; raises `PermissionError` where nobody may see that."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
