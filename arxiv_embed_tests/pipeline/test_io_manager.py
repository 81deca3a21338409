"""The checkpoint IO manager: assets of a user's own read shards lazily, verified, and are committed like ours.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetRecordsFilter,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    asset,
    build_output_context,
)

from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.reader import CheckpointReader
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.pipeline.assets import CHECKPOINTS, metadata_assets
from arxiv_embed.pipeline.io_manager import CheckpointIOManager
from arxiv_embed.pipeline.partitions import metadata_files
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource, resource_config
from arxiv_embed.plan import embeddings_key, papers_key
from arxiv_embed.settings import RunOptions
from arxiv_embed_tests.damage import flip
from arxiv_embed_tests.pipeline.runs import SHARDS

pytestmark = pytest.mark.usefixtures("pool")


@asset(partitions_def=metadata_files, io_manager_key=CHECKPOINTS)
def lengths(context: AssetExecutionContext, papers: Any, embeddings: Any) -> Any:
    """How long each paper's text is, and how many vectors it has."""
    shards = context.partition_keys
    of_papers = papers if len(shards) > 1 else {shards[0]: papers}
    of_vectors = embeddings if len(shards) > 1 else {shards[0]: embeddings}
    return {shard: {"lengths": _lengths(of_papers[shard], of_vectors[shard])} for shard in shards}


def _lengths(papers: CheckpointReader, vectors: CheckpointReader) -> pa.Table:
    assert papers.manifest.counts["papers"] > 0
    ids = [name for batch in vectors.batches("vectors", ["paper_id"]) for name in batch["paper_id"].to_pylist()]
    table = papers.table("papers")
    return pa.table(
        {
            "paper_id": table["paper_id"],
            "characters": pa.array([len(text) for text in table["abstract"].to_pylist()], pa.int32()),
            "vectors": pa.array([ids.count(name) for name in table["paper_id"].to_pylist()], pa.int32()),
        }
    )


embedding = EmbeddingResource.configure_at_launch()
defs = Definitions(
    assets=[metadata_assets({}), lengths],
    resources={
        "embedding": embedding,
        "gpus": GpuResource(),
        CHECKPOINTS: CheckpointIOManager(embedding=embedding),
    },
)


def materialize(
    options: RunOptions, instance: DagsterInstance, assets: Sequence[str], shards: Sequence[str] = SHARDS
) -> ExecuteInProcessResult:
    job = defs.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        run_config={"resources": resource_config(options)},
        instance=instance,
        asset_selection=[AssetKey(name) for name in assets],
        tags={"dagster/asset_partition_range_start": shards[0], "dagster/asset_partition_range_end": shards[-1]},
        raise_on_error=False,
    )


ALL = ["papers", "embeddings", "vector_store", "lengths"]


def committed(options: RunOptions, shard: str) -> Mapping[str, list[Any]]:
    loaded = CheckpointStore(options.checkpoints).load(CheckpointKey("lengths", shard))
    assert loaded is not None
    table: Mapping[str, list[Any]] = loaded.tables["lengths"].to_pydict()
    return table


def vectors_key(options: RunOptions, shard: str) -> CheckpointKey:
    return embeddings_key(shard, space_of(resolve_model(options.model), options.chunker))


def data_of(options: RunOptions, shard: str) -> list[Path]:
    key = vectors_key(options, shard)
    return sorted((options.checkpoints / key.asset / key.space / shard).glob("g*.vectors.arrow"))


@pytest.mark.parametrize("shards", [SHARDS, SHARDS[:1]], ids=["several shards", "one shard"])
def test_an_asset_of_a_user_s_own_reads_what_the_same_run_has_made_and_is_committed(
    options: RunOptions, instance: DagsterInstance, shards: list[str]
) -> None:
    assert materialize(options, instance, ALL, shards).success
    for shard, papers in zip(shards, (6, 5), strict=False):
        table = committed(options, shard)
        assert len(table["paper_id"]) == papers
        assert table["vectors"] == [3] * papers
    assert instance.get_materialized_partitions(AssetKey("lengths")) == set(shards)


def test_a_second_output_keeps_the_first_as_backup(options: RunOptions, instance: DagsterInstance) -> None:
    assert materialize(options, instance, ALL).success
    assert materialize(options, instance, ["lengths"]).success
    folder = options.checkpoints / "lengths" / "-" / "first.jsonl"
    assert len(list(folder.glob("g*.manifest.json"))) == 2
    manifest = CheckpointStore(options.checkpoints).manifest(CheckpointKey("lengths", "first.jsonl"))
    assert manifest is not None
    assert manifest.generation == 2


def test_a_damaged_input_is_never_handed_on_and_dagster_is_told(options: RunOptions, instance: DagsterInstance) -> None:
    assert materialize(options, instance, ALL).success
    flip(data_of(options, "first.jsonl")[-1])
    result = materialize(options, instance, ["lengths"])
    assert not result.success
    messages = [str(event.event_specific_data) for event in result.all_events if event.is_failure]
    assert any("Shard 'first.jsonl' has no whole checkpoint of embeddings: materialize it" in text for text in messages)
    [observed] = instance.fetch_observations(
        AssetRecordsFilter(asset_key=AssetKey("embeddings"), asset_partitions=["first.jsonl"]), limit=10
    ).records
    assert observed.asset_observation is not None
    told = {name: value.value for name, value in observed.asset_observation.metadata.items()}
    assert "g000001.vectors.arrow" in str(told["damaged"])
    assert "sha256" in str(told["reason"])
    assert Path(str(told["set aside in"])).is_dir()
    assert materialize(options, instance, ALL).success  # made again, as nothing was left


def test_the_backup_stands_in_for_a_damaged_generation(options: RunOptions, instance: DagsterInstance) -> None:
    assert materialize(options, instance, ALL).success
    store = CheckpointStore(options.checkpoints)
    key = vectors_key(options, "first.jsonl")
    held = store.load(key)
    assert held is not None
    store.commit(
        key,
        held.tables,
        source=held.manifest.source,
        counts=held.manifest.counts,
        run_id="again",
        details=held.manifest.details,
    )
    flip(data_of(options, "first.jsonl")[-1])
    assert materialize(options, instance, ["lengths"]).success
    assert committed(options, "first.jsonl")["vectors"] == [3] * 6


def test_a_manifest_that_is_not_what_the_store_holds_is_refused(
    options: RunOptions, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointIOManager, "_key", lambda self, context, shard: CheckpointKey("papers", "elsewhere"))
    result = materialize(options, instance, ["papers"], SHARDS[:1])
    assert not result.success


@asset(partitions_def=metadata_files, io_manager_key=CHECKPOINTS)
def half(context: AssetExecutionContext) -> Any:
    """Forgets a shard."""
    return {SHARDS[0]: {"rows": pa.table({"n": [1]})}}


@asset(partitions_def=metadata_files, io_manager_key=CHECKPOINTS, key=["own", "numbers"])
def numbers(context: AssetExecutionContext) -> Any:
    """One table a shard, without a name of its own."""
    return {shard: pa.table({"n": [1, 2, 3]}) for shard in context.partition_keys}


own = Definitions(
    assets=[half, numbers],
    resources={"embedding": embedding, CHECKPOINTS: CheckpointIOManager(embedding=embedding)},
)


def materialize_own(options: RunOptions, instance: DagsterInstance, asset: list[str]) -> ExecuteInProcessResult:
    return own.resolve_implicit_global_asset_job_def().execute_in_process(
        run_config={"resources": {"embedding": resource_config(options)["embedding"]}},
        instance=instance,
        asset_selection=[AssetKey(asset)],
        tags={"dagster/asset_partition_range_start": SHARDS[0], "dagster/asset_partition_range_end": SHARDS[-1]},
        raise_on_error=False,
    )


def test_an_output_that_forgets_a_shard_is_refused(options: RunOptions, instance: DagsterInstance) -> None:
    result = materialize_own(options, instance, ["half"])
    assert not result.success
    messages = [str(event.event_specific_data) for event in result.all_events if event.is_failure]
    assert any("The output of half is not one for each of its 2 shards." in text for text in messages)


def test_a_bare_table_is_kept_below_the_asset_s_whole_name(options: RunOptions, instance: DagsterInstance) -> None:
    assert materialize_own(options, instance, ["own", "numbers"]).success
    loaded = CheckpointStore(options.checkpoints).load(CheckpointKey("own.numbers", "first.jsonl"))
    assert loaded is not None
    assert loaded.tables["rows"]["n"].to_pylist() == [1, 2, 3]


def test_what_is_made_from_papers_names_their_source(options: RunOptions, instance: DagsterInstance) -> None:
    assert materialize(options, instance, ALL).success
    store = CheckpointStore(options.checkpoints)
    ours, papers = store.manifest(CheckpointKey("lengths", "first.jsonl")), store.manifest(papers_key("first.jsonl"))
    assert ours is not None
    assert papers is not None
    assert ours.source == papers.source


def test_a_damaged_input_is_a_line_of_the_log(options: RunOptions, instance: DagsterInstance) -> None:
    assert materialize(options, instance, ALL).success
    flip(data_of(options, "first.jsonl")[-1])
    result = materialize(options, instance, ["lengths"])
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("g000001.vectors.arrow: its sha256 does not fit; set aside in" in message for message in messages)


@pytest.mark.parametrize("output", ["no table", {}, {"rows": "no table"}, None], ids=str)
def test_an_output_that_is_no_table_is_refused_in_a_sentence(options: RunOptions, output: Any) -> None:
    manager = CheckpointIOManager(embedding=EmbeddingResource(checkpoint_dir=str(options.checkpoints)))
    context = build_output_context(asset_key=AssetKey("lengths"), partition_key="first.jsonl", run_id="run")
    with pytest.raises(ArxivEmbedError, match=r"The output of shard 'first.jsonl' is no Arrow table"):
        manager.handle_output(context, {"first.jsonl": output})
    assert CheckpointStore(options.checkpoints).keys() == []
