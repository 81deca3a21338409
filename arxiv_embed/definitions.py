"""The one module that Dagster loads: everything of this project, as `defs`."""

from dagster import Definitions

from arxiv_embed.pipeline.assets import CHECKPOINTS, metadata_assets
from arxiv_embed.pipeline.io_manager import CheckpointIOManager
from arxiv_embed.pipeline.jobs import embed_pending, embed_shards
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource
from arxiv_embed.pipeline.versions import code_versions_by_default
from arxiv_embed.settings import settings_from_environment

embedding = EmbeddingResource.configure_at_launch()

defs = Definitions(
    assets=[metadata_assets(code_versions_by_default(settings_from_environment()))],
    jobs=[embed_shards, embed_pending],
    resources={
        "embedding": embedding,
        "gpus": GpuResource(),
        CHECKPOINTS: CheckpointIOManager(embedding=embedding),
    },
)
