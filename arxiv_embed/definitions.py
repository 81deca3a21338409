"""The one module that Dagster loads: everything of this project, as `defs`."""

from dagster import Definitions

from arxiv_embed.garbage import collect_rarely
from arxiv_embed.pipeline.assets import CHECKPOINTS, metadata_assets
from arxiv_embed.pipeline.failed_shards import failed_shards
from arxiv_embed.pipeline.gpu_health import gpu_health
from arxiv_embed.pipeline.harvesting import harvest, harvest_metadata
from arxiv_embed.pipeline.housekeeping import prune_records, schedules, tend_store, verify_checkpoints
from arxiv_embed.pipeline.io_manager import CheckpointIOManager
from arxiv_embed.pipeline.jobs import embed_pending, embed_shards, register_metadata
from arxiv_embed.pipeline.killed import watch_for_killed_runs
from arxiv_embed.pipeline.notifications import notify_of_failures
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.sensors import new_metadata
from arxiv_embed.pipeline.versions import code_versions_by_default
from arxiv_embed.settings import settings_from_environment

collect_rarely()  # every step is a process that loads this

embedding = EmbeddingResource.configure_at_launch()

defs = Definitions(
    assets=[metadata_assets(code_versions_by_default(settings_from_environment())), gpu_health],
    jobs=[
        embed_shards,
        embed_pending,
        register_metadata,
        harvest,
        verify_checkpoints,
        tend_store,
        prune_records,
    ],
    sensors=[new_metadata, failed_shards, notify_of_failures, watch_for_killed_runs],
    schedules=[harvest_metadata, *schedules],
    resources={
        "embedding": embedding,
        "gpus": GpuResource(),
        CHECKPOINTS: CheckpointIOManager(embedding=embedding),
    },
)
