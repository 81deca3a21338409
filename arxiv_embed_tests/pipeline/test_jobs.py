"""The job `register_metadata`: the folder's shards become partitions, and those that are gone stay until told."""

from __future__ import annotations

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult

from arxiv_embed.definitions import defs
from arxiv_embed.pipeline.partitions import METADATA_FILES
from arxiv_embed.pipeline.resources import resource_config
from arxiv_embed.settings import RunOptions
from arxiv_embed_tests.pipeline.runs import SHARDS, execute, materialized

FIRST, SECOND = SHARDS


def register(options: RunOptions, instance: DagsterInstance, *, forget_removed: bool) -> ExecuteInProcessResult:
    config = {"list_shards": {"config": {"forget_removed": forget_removed}}}
    resources = {"embedding": resource_config(options)["embedding"]}
    return defs.resolve_job_def("register_metadata").execute_in_process(
        run_config={"resources": resources, "ops": config}, instance=instance, raise_on_error=False
    )


@pytest.mark.usefixtures("pool")
def test_a_shard_that_is_gone_fails_alone_and_says_how_its_partition_goes(
    options: RunOptions, instance: DagsterInstance
) -> None:
    (options.metadata_dir / FIRST).unlink()
    failure = execute("embed_shards", options, instance, shards=SHARDS).failure_data_for_node("embed_metadata")
    assert failure is not None
    assert f"There is no shard '{FIRST}' in the metadata folder any more: launch register_metadata" in str(failure)
    assert materialized(instance, "vector_store") == {SECOND}

    assert register(options, instance, forget_removed=False).success
    assert instance.get_dynamic_partitions(METADATA_FILES) == SHARDS
    assert register(options, instance, forget_removed=True).success
    assert instance.get_dynamic_partitions(METADATA_FILES) == [SECOND]
    assert execute("embed_shards", options, instance, shards=[SECOND]).success


def test_no_partition_is_forgotten_while_some_of_the_folder_cannot_be_read(
    options: RunOptions, instance: DagsterInstance
) -> None:
    (options.metadata_dir / FIRST).unlink()
    loop = options.metadata_dir / "loop"
    loop.symlink_to(loop)
    assert register(options, instance, forget_removed=True).success
    assert instance.get_dynamic_partitions(METADATA_FILES) == SHARDS


@pytest.mark.usefixtures("pool")
def test_what_was_done_of_a_forgotten_shard_is_there_when_its_file_is_back(
    options: RunOptions, instance: DagsterInstance
) -> None:
    assert execute("embed_shards", options, instance, shards=SHARDS).success
    away = (options.metadata_dir / FIRST).rename(options.metadata_dir / f".{FIRST}")
    assert register(options, instance, forget_removed=True).success
    away.rename(options.metadata_dir / FIRST)
    assert register(options, instance, forget_removed=True).success
    assert set(instance.get_dynamic_partitions(METADATA_FILES)) == set(SHARDS)
    assert materialized(instance, "embeddings") == set(SHARDS)


def test_a_folder_that_holds_nothing_is_one_sentence(options: RunOptions, instance: DagsterInstance) -> None:
    for shard in SHARDS:
        (options.metadata_dir / shard).unlink()
    failure = register(options, instance, forget_removed=True).failure_data_for_node("list_shards")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert str(options.metadata_dir) in (failure.user_failure_data.description or "")
    assert instance.get_dynamic_partitions(METADATA_FILES) == SHARDS
