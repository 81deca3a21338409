"""The one module that Dagster loads: everything of this project, as `defs`."""

from dagster import Definitions

from arxiv_embed.pipeline.assets import CHECKPOINTS, embedded_metadata
from arxiv_embed.pipeline.io_manager import CheckpointIOManager
from arxiv_embed.pipeline.jobs import embed_pending, embed_shards
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource

embedding = EmbeddingResource.configure_at_launch()

defs = Definitions(
    assets=[embedded_metadata],
    jobs=[embed_shards, embed_pending],
    resources={
        "embedding": embedding,
        "gpus": GpuResource(),
        CHECKPOINTS: CheckpointIOManager(embedding=embedding),
    },
)
