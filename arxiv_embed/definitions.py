"""The one module that Dagster loads: everything of this project, as `defs`."""

from dagster import Definitions

from arxiv_embed.pipeline.assets import embedded_metadata
from arxiv_embed.pipeline.jobs import embed_pending, embed_shards
from arxiv_embed.pipeline.resources import EmbeddingResource, GpuResource

defs = Definitions(
    assets=[embedded_metadata],
    jobs=[embed_shards, embed_pending],
    resources={"embedding": EmbeddingResource(), "gpus": GpuResource()},
)
