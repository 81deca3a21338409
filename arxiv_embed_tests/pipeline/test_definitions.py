"""The definitions: what Dagster finds, and that finding it is cheap."""

from __future__ import annotations

import subprocess
import sys

from dagster import AssetKey, DynamicPartitionsDefinition

from arxiv_embed.definitions import defs


def test_the_three_assets_are_partitioned_by_shard() -> None:
    graph = defs.resolve_asset_graph()
    for name in ("papers", "embeddings", "vector_store"):
        partitions = graph.get(AssetKey(name)).partitions_def
        assert isinstance(partitions, DynamicPartitionsDefinition)
        assert partitions.name == "metadata_files"
    assert graph.get(AssetKey("vector_store")).parent_keys == {AssetKey("embeddings")}
    assert graph.get(AssetKey("embeddings")).parent_keys == {AssetKey("papers")}


def test_both_jobs_are_there() -> None:
    assert {"embed_shards", "embed_pending"} <= {job.name for job in defs.resolve_all_job_defs()}


def test_loading_the_definitions_loads_no_torch() -> None:
    """The webserver and the daemon each start a server that loads them."""
    code = "import sys, arxiv_embed.definitions; sys.exit(bool({'torch', 'transformers', 'lancedb'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
