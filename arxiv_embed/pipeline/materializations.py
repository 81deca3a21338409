"""Materializations: what Dagster is told of a shard, as numbers that its UI plots."""

from __future__ import annotations

from dagster import AssetMaterialization, MetadataValue, TableRecord
from dagster._core.definitions.metadata import RawMetadataMapping

from arxiv_embed.errors import masked
from arxiv_embed.events import PapersRead, ShardEmbedded
from arxiv_embed.run import Report, Run

REJECTS_SHOWN = 20


def materialization(report: Report, run: Run) -> AssetMaterialization:
    """The event of the asset that a step's report is about."""
    if isinstance(report, PapersRead):
        return _event("papers", report.shard, _of_papers(report, run))
    if isinstance(report, ShardEmbedded):
        return _event("embeddings", report.shard, _of_embeddings(report, run))
    metadata: RawMetadataMapping = {
        "rows": report.rows,
        "skipped papers": report.skipped_papers,
        "seconds": round(report.seconds, 3),
        "store": masked(run.options.store),
    }
    return _event("vector_store", report.shard, metadata)


def _event(asset: str, shard: str, metadata: RawMetadataMapping) -> AssetMaterialization:
    return AssetMaterialization(asset_key=asset, partition=shard, metadata=metadata)


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
    first = run.rejects(report.shard).slice(0, REJECTS_SHOWN).to_pylist()
    return {**numbers, "first rejects": MetadataValue.table([TableRecord(reject) for reject in first])}


def _of_embeddings(report: ShardEmbedded, run: Run) -> RawMetadataMapping:
    embedded = report.papers - report.resumed
    rates: RawMetadataMapping = {}
    if embedded and report.seconds:  # a shard that was reused has no speed to plot
        rates = {
            "papers/s": round(embedded / report.seconds, 1),
            "tokens/s": round(report.embedded_tokens / report.seconds, 1),
            "padding ratio": round(report.padded_tokens / report.embedded_tokens - 1, 4),
        }
    return {
        "papers": report.papers,
        "reused papers": report.resumed,
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
    }
