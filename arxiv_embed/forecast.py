"""A forecast: the tokens, the memory and the time of a planned run, from what was measured here before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.plan import RunPlan, embeddings_key
from arxiv_embed.settings import RunOptions

TYPICAL_TOKENS = 200
"""WordPiece tokens of title and abstract, the mean over 100,000 papers."""

SHARDS_LOOKED_AT = 50


@dataclass(frozen=True)
class Forecast:
    """`memory` in bytes for each device, `seconds` None where nothing was measured; a `basis` says what a figure
    rests on."""

    papers: int
    tokens: int
    tokens_basis: str
    devices: tuple[str, ...]
    memory: int
    memory_basis: str
    seconds: float | None
    seconds_basis: str


def forecast(plan: RunPlan, options: RunOptions) -> Forecast:
    """What the plan will take, by the manifests of those of its shards that are embedded already."""
    devices = tuple(device.name for device in plan.devices)
    known = _measured(plan, options)
    alike = [manifest for manifest in known if tuple(manifest.details["devices"]) == devices]
    papers = sum(manifest.counts["papers"] for manifest in known)
    cut = min(TYPICAL_TOKENS, plan.space.max_tokens)
    mean_tokens = sum(manifest.counts["tokens"] for manifest in known) / papers if papers else cut
    tokens = round(plan.papers * mean_tokens)
    seconds = None
    worked = [manifest for manifest in alike if manifest.counts["embedded_tokens"] and manifest.details["seconds"]]
    if not tokens:
        seconds = 0.0
    elif worked:
        spent = sum(manifest.details["seconds"] for manifest in worked)
        seconds = tokens * spent / sum(manifest.counts["embedded_tokens"] for manifest in worked)
    peak = max((peak for manifest in alike for peak in manifest.details["memory"].values()), default=0)
    weights = sum(path.stat().st_size for path in plan.files.folder.glob("*.safetensors"))
    return Forecast(
        papers=plan.papers,
        tokens=tokens,
        tokens_basis=f"{mean_tokens:.0f} a paper, {'measured here' if papers else 'typical of arXiv'}",
        devices=devices,
        memory=peak or weights,
        memory_basis="the most that was measured here" if peak else "the weights alone: nothing was measured here yet",
        seconds=seconds,
        seconds_basis="at the speed measured here"
        if worked
        else "nothing to embed"
        if not tokens
        else "this space was not embedded here on these devices yet",
    )


def _measured(plan: RunPlan, options: RunOptions) -> Sequence[Manifest]:
    """Manifests of shards of this folder that are embedded in this space."""
    checkpoints = CheckpointStore(options.checkpoints)
    found = []
    for shard in plan.shards:
        manifest = checkpoints.manifest(embeddings_key(shard.shard.key, plan.space))
        if manifest is not None:
            found.append(manifest)
            if len(found) == SHARDS_LOOKED_AT:
                break
    return found
