"""Materializations and check evaluations: what Dagster is told of a shard, as numbers, tables and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    AssetRecordsFilter,
    DagsterInstance,
    MetadataValue,
    PathMetadataValue,
    TableMetadataValue,
    TableRecord,
)
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.metadata import RawMetadataMapping, RawMetadataValue
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from arxiv_embed.checks import Check, CheckResult
from arxiv_embed.errors import masked
from arxiv_embed.events import NOT_PACKED, PapersRead, ShardEmbedded
from arxiv_embed.gpu.outcomes import BatchReport
from arxiv_embed.pipeline.pictures import shard_picture
from arxiv_embed.pipeline.versions import version_tags
from arxiv_embed.run import Report, Run
from arxiv_embed.stores.protocol import PAPER_CHUNK

REJECTS_SHOWN = 20
SPACE = "space"


def materialization(report: Report, run: Run) -> AssetMaterialization:
    """The event of the asset that a step's report is about."""
    if isinstance(report, PapersRead):
        asset, metadata = "papers", _of_papers(report, run)
    elif isinstance(report, ShardEmbedded):
        asset, metadata = "embeddings", _of_embeddings(report, run)
    else:
        asset = "vector_store"
        metadata = {
            "rows": report.rows,
            "rows written": report.rows_written,
            "skipped papers": report.skipped_papers,
            "seconds": round(report.seconds, 3),
            "store": masked(run.options.store),
            **linked_report(run),
        }
    tags = version_tags(asset, report.shard, run)
    return AssetMaterialization(asset, partition=report.shard, metadata=metadata, tags=tags)


def linked_report(run: Run) -> dict[str, PathMetadataValue]:
    """Where the report of a run is, or will be at its end."""
    return {"report of the run": MetadataValue.path(run.report)}


def checked_materialization(
    asset: str, shard: str, instance: DagsterInstance
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """Which materialization of a shard its checks are about: the newest."""
    of_shard = AssetRecordsFilter(asset_key=AssetKey(asset), asset_partitions=[shard])
    newest = next(iter(instance.fetch_materializations(of_shard, limit=1).records), None)
    return newest and AssetCheckEvaluationTargetMaterializationData(
        storage_id=newest.storage_id, run_id=newest.run_id, timestamp=newest.timestamp
    )


def evaluation(
    result: CheckResult, shard: str, space: str, about: AssetCheckEvaluationTargetMaterializationData | None
) -> AssetCheckEvaluation:
    """The event of a check of a shard; `space` is the fingerprint of the one that it was done in."""
    return AssetCheckEvaluation(
        check_name=result.check.name,
        asset_key=AssetKey(result.check.asset),
        passed=result.passed,
        metadata={**result.numbers, SPACE: space},
        target_materialization_data=about,
        severity=AssetCheckSeverity.ERROR if result.check.blocking else AssetCheckSeverity.WARN,
        description=result.why or None,
        blocking=result.check.blocking,
        partition=shard,
    )


def last_evaluation(check: Check, shard: str, space: str, instance: DagsterInstance) -> AssetCheckEvaluation | None:
    """What a check has found of a shard when it looked last, if that was in the same space."""
    key = AssetCheckKey(AssetKey(check.asset), check.name)
    done = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    found = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status=done, partition_filter=PartitionKeyFilter(key=shard)
    )
    last = found[0].evaluation if found else None
    return last if last and SPACE in last.metadata and last.metadata[SPACE].value == space else None


def _of_papers(report: PapersRead, run: Run) -> RawMetadataMapping:
    numbers = {
        "papers": report.papers,
        "rejects": report.rejects,
        "duplicates": report.duplicates,
        "withdrawn": report.withdrawn,
        "seconds": round(report.seconds, 3),
        **({"urgent papers": report.urgent} if run.options.priority else {}),
    }
    if not report.rejects:
        return numbers
    rejects = run.checkpoints.papers(report.shard).tables["rejects"]
    reasons = Counter(rejects["reason"].to_pylist()).most_common(REJECTS_SHOWN)
    return {
        **numbers,
        "reasons of rejects": _table([{"reason": reason, "rejects": count} for reason, count in reasons]),
        "first rejects": _table(rejects.slice(0, REJECTS_SHOWN).to_pylist()),
    }


def _of_embeddings(report: ShardEmbedded, run: Run) -> RawMetadataMapping:
    embedded = report.papers - report.resumed
    rates: RawMetadataMapping = {}
    if embedded and report.seconds:  # a shard that was reused has no speed to plot
        rates = {
            "papers/s": round(embedded / report.seconds, 1),
            "tokens/s": round(report.embedded_tokens / report.seconds, 1),
            "padding ratio": round(report.padded_tokens / report.embedded_tokens - 1, 4),
            **({} if run.embedder.packed else {"layout": NOT_PACKED}),
        }
    return {
        "papers": report.papers,
        "embedded papers": embedded,
        "reused papers": report.resumed,
        "reused papers from other checkpoints": report.from_checkpoints,
        "reused papers from the store": report.from_store,
        "reused papers of the same text as another": report.same_text,
        "chunks": report.chunks,
        "tokens": report.tokens,
        **rates,
        "papers pooled in part": report.long_papers,
        "papers that failed": report.failed,
        "papers cut by the token limit": report.cut_papers,
        "tokens cut by the token limit": report.cut_tokens,
        "seconds": round(report.seconds, 3),
        "model": run.plan.files.name,
        "space": MetadataValue.json(vars(run.space)),
        **dict(_of_devices(run.embedder.batches)),
        **linked_report(run),
        "picture": MetadataValue.md(_picture(report.shard, run)),
    }


@dataclass
class _Device:
    """What a device did of a shard."""

    batches: int = 0
    papers: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    busy_seconds: float = 0.0
    peak_memory: int = 0

    def add(self, batch: BatchReport) -> None:
        self.batches += 1
        self.papers += batch.papers
        self.tokens += batch.tokens
        self.padded_tokens += batch.padded_tokens
        self.busy_seconds += batch.seconds
        self.peak_memory = max(self.peak_memory, batch.peak_memory)

    @property
    def tokens_per_second(self) -> float:
        """While it computed."""
        return round(self.tokens / self.busy_seconds, 1) if self.busy_seconds else 0.0


def _of_devices(batches: Sequence[tuple[float, BatchReport]]) -> Iterator[tuple[str, RawMetadataValue]]:
    """Each device's numbers under keys of its own, which the UI plots, and a table of them all."""
    devices: dict[str, _Device] = {}
    for _, batch in batches:
        devices.setdefault(batch.device, _Device()).add(batch)
    for name, device in sorted(devices.items()):
        yield f"{name} tokens/s", device.tokens_per_second
        yield f"{name} papers", device.papers
        yield f"{name} peak memory, bytes", device.peak_memory
    if devices:
        yield (
            "devices",
            _table(
                [
                    {
                        "device": name,
                        "batches": device.batches,
                        "papers": device.papers,
                        "tokens": device.tokens,
                        "tokens computed": device.padded_tokens,
                        "busy, s": round(device.busy_seconds, 3),
                        "tokens/s": device.tokens_per_second,
                        "peak memory, bytes": device.peak_memory,
                    }
                    for name, device in sorted(devices.items())
                ]
            ),
        )


def _picture(shard: str, run: Run) -> str:
    done: dict[str, list[tuple[float, int]]] = {}
    for second, batch in run.embedder.batches:
        done.setdefault(batch.device, []).append((second, batch.tokens))
    vectors = run.checkpoints.both(shard)[1].tables["vectors"]
    of_papers = vectors.filter(pc.equal(vectors["chunk_index"], PAPER_CHUNK))
    return shard_picture(of_papers["tokens"].to_numpy(), done)


def _table(rows: Sequence[Mapping[str, str | int | float | bool | None]]) -> TableMetadataValue:
    return MetadataValue.table([TableRecord(row) for row in rows])
