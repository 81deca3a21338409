"""Export: a store's spaces as Parquet or NumPy files, whole under their names or not there at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arxiv_embed.checkpoint.atomic import (
    DRAFT_PREFIX,
    NoSpace,
    disk_faults_as_sentences,
    make_folder,
    sync_folder,
    write_atomically,
)
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.export_files import ROWS, VECTORS, NumpyFiles, ParquetFile, SpaceFiles
from arxiv_embed.stores.protocol import PAPER_CHUNK, VectorStore
from arxiv_embed.stores.rows import row_schema

SUFFIX = ".parquet"
SPACES = "spaces.json"
"""Says of each exported space what its vectors mean, and where they are; written last."""

STORE_S_OWN = "key"
"""The one column that is not exported."""


class Form(StrEnum):
    """What is written."""

    PARQUET = "parquet"
    NUMPY = "numpy"


@dataclass(frozen=True)
class Exported:
    """One space of an export: its `files`, relative to the folder, and how many bytes these are."""

    space: Space
    files: tuple[str, ...]
    papers: int
    rows: int
    bytes: int


def export_store(
    store: VectorStore,
    spaces: Sequence[Space],
    target: Path,
    form: Form = Form.PARQUET,
    *,
    papers_only: bool = False,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> list[Exported]:
    """Writes every row of the spaces, or those of whole papers alone, to the folder `target`, or to the one file that
    it names (`*.parquet`); memory does not grow with the store. `on_rows` is told of rows as they are written.

    A target that is there and not empty is refused. What is interrupted leaves nothing under the name of an export.
    Raises `ArxivEmbedError` for that, for several spaces in one file, and for a full disk.
    """
    is_file = target.suffix == SUFFIX
    if is_file and (form is not Form.PARQUET or len(spaces) != 1):
        what = f"{len(spaces)} spaces" if form is Form.PARQUET else "NumPy's matrix and its rows"
        raise ArxivEmbedError(f"{target} is one file, which cannot hold {what}: name a folder, or one space.")
    _refuse_unless_empty(target, is_file=is_file)
    exported = []
    with _draft_for(target, is_file=is_file, needed=_vector_bytes(store, spaces, papers_only)) as draft:
        for space in spaces:
            exported.append(_export(store, space, draft, form, papers_only, on_rows))
        if is_file:
            (draft / exported[0].files[0]).replace(target)
            sync_folder(target.parent)
        else:
            write_atomically(draft / SPACES, _description(exported))
            _move_all(draft, target)
    return exported


def _export(
    store: VectorStore, space: Space, draft: Path, form: Form, papers_only: bool, on_rows: Callable[[int], None]
) -> Exported:
    schema = row_schema(space.dimensions)
    schema = schema.remove(schema.get_field_index(STORE_S_OWN))
    described = {"space": space.fingerprint, **asdict(space)}
    files: SpaceFiles
    if form is Form.PARQUET:
        names: tuple[str, ...] = (f"{space.fingerprint}{SUFFIX}",)
        files = ParquetFile(draft / names[0], schema, described)
    else:
        names = tuple(f"{space.fingerprint}/{name}" for name in (VECTORS, ROWS))
        files = NumpyFiles(draft / space.fingerprint, schema, described)
    papers = rows = 0
    try:
        for batch in store.scan(space.fingerprint):
            whole = pc.equal(batch["chunk_index"], PAPER_CHUNK)
            chosen = _with_columns(batch.filter(whole) if papers_only else batch, schema)
            files.write(chosen)
            papers += pc.sum(whole).as_py() or 0
            rows += chosen.num_rows
            on_rows(chosen.num_rows)
        files.close()
    except BaseException:
        files.abandon()
        raise
    return Exported(space, names, papers, rows, sum((draft / name).stat().st_size for name in names))


def _with_columns(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """In the schema's order; a column that an older store lacks is null."""
    held = set(rows.schema.names)
    columns = [
        rows[field.name].cast(field.type) if field.name in held else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _description(exported: Sequence[Exported]) -> bytes:
    spaces: list[dict[str, Any]] = [
        {
            "space": one.space.fingerprint,
            "files": list(one.files),
            "papers": one.papers,
            "rows": one.rows,
            **asdict(one.space),
        }
        for one in exported
    ]
    return f"{json.dumps(spaces, indent=1, ensure_ascii=False)}\n".encode()


def _vector_bytes(store: VectorStore, spaces: Sequence[Space], papers_only: bool) -> int:
    """Without compression."""
    return sum(4 * space.dimensions * store.count(space.fingerprint)[0 if papers_only else 1] for space in spaces)


def _refuse_unless_empty(target: Path, *, is_file: bool) -> None:
    draft = _draft_of(target, is_file=is_file)
    if draft.exists():
        raise ArxivEmbedError(
            f"An export to {target} was killed, or still goes on: remove {draft} if none does, or name another place."
        )
    if target.is_dir() and not is_file:
        if any(target.iterdir()):
            raise ArxivEmbedError(f"{target} is not empty: name a new folder, or empty that one.")
    elif target.exists() and (target.is_dir() or not is_file or target.stat().st_size):
        raise ArxivEmbedError(f"{target} is there already: name another place, or remove it.")


def _draft_of(target: Path, *, is_file: bool) -> Path:
    return (target.parent if is_file else target) / f"{DRAFT_PREFIX}{target.name}"


@contextlib.contextmanager
def _draft_for(target: Path, *, is_file: bool, needed: int) -> Iterator[Path]:
    """A folder beside what is to be, on the same disk; gone at the end, as is all that was made where it fails."""
    draft = _draft_of(target, is_file=is_file)
    made = not draft.parent.exists()
    with disk_faults_as_sentences(target, needed):
        make_folder(draft.parent)
        draft.mkdir()  # another export's, begun this moment, is not ours to remove
    try:
        with disk_faults_as_sentences(target, needed):
            yield draft
            draft.rmdir()
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                draft.parent.rmdir()
        if isinstance(error, NoSpace):
            raise NoSpace(
                f"No space is left for {target}: it takes about {needed / 1e6:,.0f} MB; free some, or name another "
                "place. Nothing was left there."
            ) from error
        raise


def _move_all(draft: Path, target: Path) -> None:
    """Each under its name, the description of them all last; back again where that is interrupted."""
    entries = sorted(draft.iterdir(), key=lambda entry: (entry.name == SPACES, entry.name))
    try:
        for entry in entries:
            os.rename(entry, target / entry.name)  # noqa: PTH104 - os's functions, as tests record every step there
        sync_folder(target)
    except BaseException:
        for entry in entries:
            with contextlib.suppress(OSError):
                os.rename(target / entry.name, entry)  # noqa: PTH104
        raise
