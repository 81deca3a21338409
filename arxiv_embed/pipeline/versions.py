"""Versions: what Dagster compares to tell what is stale; of the code that makes an asset, and of a shard's data."""

from __future__ import annotations

from collections.abc import Mapping

from dagster import AssetKey
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from arxiv_embed.attempts import STEPS
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.pipeline.resources import EmbeddingResource
from arxiv_embed.plan import stored_identity
from arxiv_embed.run import Run
from arxiv_embed.settings import Settings

READING, STORING = "1", "1"
"""Raised when records are read, or rows are written, in another way."""

INPUTS = {"papers": [], "embeddings": ["papers"], "vector_store": ["embeddings"]}


def code_versions(space: str) -> dict[str, str]:
    """Of each asset; what is embedded in another space is stale."""
    return dict(zip(STEPS, [READING, space, f"{space} {STORING}"], strict=True))


def code_versions_by_default(settings: Settings) -> Mapping[str, str]:
    """As the environment has it; none where its model is not on this machine: definitions are loaded by every process
    of Dagster, and a run will fetch it, or say why it cannot."""
    try:
        space = EmbeddingResource().space(settings, local_only=True)
    except ArxivEmbedError:
        return {}
    return code_versions(space.fingerprint)


def version_tags(asset: str, shard: str, run: Run) -> dict[str, str]:
    """The tags of a shard's materialization: its code's version, its data's, and that of the data it is made from."""
    versions = {name: _data_version(name, shard, run) for name in (asset, *INPUTS[asset])}
    return {
        CODE_VERSION_TAG: code_versions(run.space.fingerprint)[asset],
        DATA_VERSION_TAG: versions[asset],
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
        **{get_input_data_version_tag(AssetKey(name)): versions[name] for name in INPUTS[asset]},
        **{get_input_event_pointer_tag(AssetKey(name)): NULL_EVENT_POINTER for name in INPUTS[asset]},
    }


def _data_version(asset: str, shard: str, run: Run) -> str:
    papers, embeddings = run.checkpoints.manifest("papers", shard), run.checkpoints.manifest("embeddings", shard)
    if asset == "vector_store" and papers and embeddings:
        return stored_identity(papers, embeddings)
    manifest = papers if asset == "papers" else embeddings
    return manifest.identity if manifest else ""
