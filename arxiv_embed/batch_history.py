"""The batches of all runs as Parquet: one file a run, one row a batch, kept when the run's record is gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arxiv_embed.checkpoint.atomic import DRAFT_PREFIX, write_atomically
from arxiv_embed.error_patterns import writable
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.record import RECORD, ProgressReader, has_ended
from arxiv_embed.settings import Settings

SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("time", pa.timestamp("ms", "UTC")),
        ("shard", pa.string()),
        ("device", pa.string()),
        ("product", pa.string()),
        ("model", pa.string()),
        ("dtype", pa.string()),
        ("number", pa.int64()),
        ("papers", pa.int64()),
        ("tokens", pa.int64()),
        ("padded_tokens", pa.int64()),
        ("longest", pa.int64()),
        ("seconds", pa.float64()),
        ("predicted_memory", pa.int64()),
        ("peak_memory", pa.int64()),
        ("waiting", pa.int64()),
    ]
)
"""`time` is when the batch was done, the others are as in `events.BatchDone`; what a record does not say is null."""

COUNTS = [field.name for field in SCHEMA if field.type == pa.int64()]


def keep_batches(settings: Settings) -> None:
    """Makes the file of each run that has ended since, or has gone on since its file was made.

    A file is given the time of the record that it was made from: where both are the same, nothing is to be done. Raises
    `NoSpace`, `NotWritable` or `DiskFault` where one cannot be written.
    """
    for record in sorted(settings.runs.glob(f"*/{RECORD}")):
        run_id, changed = record.parent.name, record.stat().st_mtime_ns
        path = settings.performance / f"{writable(run_id)}.parquet"
        if (path.exists() and path.stat().st_mtime_ns == changed) or not has_ended(record):
            continue
        content = pa.BufferOutputStream()
        pq.write_table(batches_of(record, run_id), content)
        write_atomically(path, memoryview(content.getvalue()))
        os.utime(path, ns=(changed, changed))


def batches_of(record: Path, run_id: str) -> pa.Table:
    """The batches that a run's record tells, in their order; a line that is cut or damaged is passed over."""
    batches = _Batches(writable(run_id))
    ProgressReader(record, also=batches.take).poll()
    return pa.Table.from_pylist(batches.rows, SCHEMA)


class _Batches:
    """Rows of `SCHEMA`, from events one after the other."""

    def __init__(self, run_id: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self._run = {"run_id": run_id}
        self._products: dict[str, str] = {}
        self._of_event: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
            "run_started": lambda line: self._run.update(model=writable(line["model"])),
            "pool_ready": lambda line: self._run.update(dtype=writable(line["dtype"])),
            "devices_found": self._find,
            "batch": self._add,
        }

    def take(self, line: Mapping[str, Any]) -> None:
        if take := self._of_event.get(line["event"]):
            take(line)

    def _find(self, line: Mapping[str, Any]) -> None:
        self._products.update({facts["name"]: writable(facts.get("product", "")) for facts in line["devices"]})

    def _add(self, line: Mapping[str, Any]) -> None:
        self.rows.append(
            {
                **self._run,
                "time": round(line["time"] * 1000),
                "shard": writable(line["shard"]),
                "device": writable(line["device"]),
                "product": self._products.get(line["device"]),
                "seconds": float(line["seconds"]),
                **{name: line.get(name) for name in COUNTS},
            }
        )


def kept_batches(settings: Settings) -> pa.Table:
    """The rows of all files, in the order of their time. Raises `ArxivEmbedError` for a file that is not whole."""
    tables = [SCHEMA.empty_table(), *_tables(settings.performance)]
    return pa.concat_tables(tables, promote_options="default").select(SCHEMA.names).sort_by("time")


def _tables(folder: Path) -> Iterator[pa.Table]:
    for path in sorted(folder.glob("*.parquet")):
        if path.name.startswith(DRAFT_PREFIX):
            continue  # whoever wrote it is at it, or was killed
        try:
            yield pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ArxivEmbedError(
                f"{path} cannot be read ({error}): delete it; it is made again while its run's record is kept."
            ) from error
