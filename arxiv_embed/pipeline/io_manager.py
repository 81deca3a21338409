"""The checkpoint IO manager: outputs of shards as verified checkpoints, inputs as manifests and lazy readers.

Dagster reads the fields' annotations as objects, so they are not postponed here.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import pyarrow as pa
from dagster import AssetObservation, ConfigurableIOManager, InputContext, OutputContext, ResourceDependency

from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest, Source
from arxiv_embed.checkpoint.quarantine import Damage
from arxiv_embed.checkpoint.reader import CheckpointReader
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.pipeline.resources import EmbeddingResource
from arxiv_embed.plan import papers_key
from arxiv_embed.settings import settings_from_environment

IN_SPACE = "arxiv_embed/in_space"
"""Metadata of an asset whose checkpoints belong to the space of resource `embedding`, as vectors do."""

WAIT_SECONDS = 60.0
"""How long a shard is waited for that another process commits."""

Tables: TypeAlias = pa.Table | Mapping[str, pa.Table]


class CheckpointIOManager(ConfigurableIOManager):
    """For assets partitioned by `metadata_files`.

    An output is, for each shard of the run, a manifest (it was committed while the step went on, and is checked again)
    or tables, which are committed as a new generation with the one before as backup; a run of one shard may give it
    bare. An input is a `CheckpointReader`, or one for each shard; everything that it names is verified before it is
    handed on, and its tables are read when they are asked for. What does not verify is set aside, told as an
    observation of the asset, and its backup is used.
    """

    embedding: ResourceDependency[EmbeddingResource]

    def handle_output(self, context: OutputContext, obj: Mapping[str, Manifest | Tables] | Manifest | Tables) -> None:
        """Raises `ArxivEmbedError` for a manifest that is not what the checkpoint store holds."""
        shards = list(context.asset_partition_keys)
        outputs = obj if isinstance(obj, Mapping) and set(obj) == set(shards) else {shards[0]: obj}
        if set(outputs) != set(shards):
            asset = context.asset_key.to_user_string()
            raise ArxivEmbedError(f"The output of {asset} is not one for each of its {len(shards)} shards.")
        store, space = self._store(context), self._space_of(context)
        for shard, output in outputs.items():
            key = self._key(context, shard, space)
            if isinstance(output, Manifest):
                if store.manifest(key) != output:
                    raise ArxivEmbedError(f"What shard '{shard}' was committed as is no longer there: run it again.")
                continue
            tables: Mapping[str, pa.Table] = output if isinstance(output, Mapping) else {"rows": output}
            if not tables or not all(isinstance(table, pa.Table) for table in tables.values()):
                raise ArxivEmbedError(
                    f"The output of shard '{shard}' is no Arrow table, and no mapping of names to some."
                )
            papers = store.manifest(papers_key(shard))
            with store.hold(key, WAIT_SECONDS):
                store.commit(
                    key,
                    tables,
                    source=papers.source if papers else Source("", ""),
                    counts={name: table.num_rows for name, table in tables.items()},
                    run_id=context.run_id,
                )

    def load_input(self, context: InputContext) -> CheckpointReader | dict[str, CheckpointReader]:
        """Raises `ArxivEmbedError` for a shard that has no whole checkpoint."""
        shards = list(context.asset_partition_keys)
        store, space = self._store(context), self._space_of(context)
        readers = {}
        for shard in shards:
            reader = store.reader(self._key(context, shard, space))
            if reader is None:
                asset = context.asset_key.to_user_string()
                raise ArxivEmbedError(f"Shard '{shard}' has no whole checkpoint of {asset}: materialize it first.")
            readers[shard] = reader
        return readers if len(shards) > 1 else readers[shards[0]]

    def _store(self, context: InputContext | OutputContext) -> CheckpointStore:
        def tell(damage: Damage) -> None:
            context.log.warning(str(damage))
            context.step_context.instance.report_runless_asset_event(damage_observation(damage))

        return CheckpointStore(self.embedding.checkpoints(settings_from_environment()), tell)

    def _key(self, context: InputContext | OutputContext, shard: str, space: str) -> CheckpointKey:
        return CheckpointKey(".".join(context.asset_key.path).replace("/", "."), shard, space)

    def _space_of(self, context: InputContext | OutputContext) -> str:
        """The fingerprint of the space that the asset's checkpoints belong to; "" for one that belongs to none."""
        of_asset: Any = context.upstream_output if isinstance(context, InputContext) else context
        if of_asset is None or not of_asset.definition_metadata.get(IN_SPACE):
            return ""
        return self.embedding.space(settings_from_environment()).fingerprint


def damage_observation(damage: Damage) -> AssetObservation:
    """What Dagster is told of a file that did not verify."""
    metadata = {"damaged": damage.file, "reason": damage.reason, "remedy": damage.remedy, "set aside in": damage.place}
    return AssetObservation(asset_key=damage.asset, partition=damage.shard, metadata=metadata)
