"""A reader of one generation: what it gives out is verified, and is read only when it is asked for."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from arxiv_embed.checkpoint import tables
from arxiv_embed.checkpoint.atomic import DamagedFile, reading
from arxiv_embed.checkpoint.manifest import CheckpointKey, DataFile, Manifest
from arxiv_embed.errors import ArxivEmbedError, Kind


class DamagedCheckpoint(ArxivEmbedError):
    """A generation that is not what its manifest says, or is no longer there; trying again finds what is."""

    kind = Kind.TRANSIENT

    def __init__(self, key: CheckpointKey, file: str, reason: str) -> None:
        super().__init__(
            f"The checkpoint {key} cannot be read ({file}: {reason}): run again, with what is left or made anew."
        )
        self.file = file
        self.reason = reason


class CheckpointReader:
    """A generation's tables. Every method raises `DamagedCheckpoint` for a file that is not what its manifest says,
    `NotReadable` or `DiskFault` for one that cannot be read now."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self._folder = folder

    def table(self, name: str) -> pa.Table:
        """Read and verified at this moment."""
        file = self.manifest.files[name]
        content = self.content(name)
        with self._faults(file):
            rows = tables.from_bytes(content)
            _check_structure(file, rows.num_rows, rows.schema)
        return rows

    def batches(self, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """A table in pieces of at most `tables.BATCH_ROWS` rows; verified at this moment, in pieces as well."""
        file = self.manifest.files[name]
        with self._verified(file) as source:
            with self._faults(file):
                opened = tables.open_file(source, columns)
            for number in range(opened.num_record_batches):
                with self._faults(file):
                    batch = opened.get_batch(number)
                yield batch if columns is None else batch.select(list(columns))

    def glance(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Some columns of a table, of which only the form is verified and not the content: for hints."""
        file = self.manifest.files[name]
        with self._faults(file):
            return tables.glance(self._folder / file.name, columns)

    def content(self, name: str) -> bytes:
        """A table's file as it is, of the right sha256."""
        file = self.manifest.files[name]
        with self._faults(file):
            content = (self._folder / file.name).read_bytes()
            _check_sha256(file, tables.sha256(content))
        return content

    def check_sizes(self) -> None:
        """That the files are there at their sizes; their content is not read."""
        for file in self.manifest.files.values():
            with self._faults(file):
                if (self._folder / file.name).stat().st_size != file.bytes:
                    raise DamagedFile("it has the wrong size")

    def check(self) -> None:
        """Every byte: checksums, structure and rows; in pieces, so that a large table takes little memory."""
        for file in self.manifest.files.values():
            with self._verified(file):
                pass

    @contextlib.contextmanager
    def _verified(self, file: DataFile) -> Iterator[pa.PythonFile]:
        """A data file, open and verified."""
        with contextlib.ExitStack() as stack:
            with self._faults(file):
                opened = stack.enter_context((self._folder / file.name).open("rb"))
                _check_sha256(file, hashlib.file_digest(opened, "sha256").hexdigest())
                source = pa.PythonFile(opened, mode="r")
                reader = tables.open_file(source)
                _check_structure(file, reader.count_rows(), reader.schema)
            yield source

    @contextlib.contextmanager
    def _faults(self, file: DataFile) -> Iterator[None]:
        try:
            with reading(self._folder / file.name):
                yield
        except (DamagedFile, pa.ArrowException) as fault:
            raise DamagedCheckpoint(self.manifest.key, file.name, str(fault)) from None


def _check_sha256(file: DataFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise DamagedFile("its sha256 does not fit")


def _check_structure(file: DataFile, rows: int, schema: pa.Schema) -> None:
    if (rows, str(schema)) != (file.rows, file.schema):
        raise DamagedFile("its rows or columns do not fit")
