"""A forecast: the tokens, the memory and the time of a planned run, from what was measured here before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checkpoint.reader import CheckpointReader
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.embed import texts_of
from arxiv_embed.encoding.weights import loaded_bytes
from arxiv_embed.estimates import LearnedTokens, TokenEstimator, evenly_spread
from arxiv_embed.plan import RunPlan, embeddings_key, papers_key
from arxiv_embed.settings import RunOptions, Settings

TYPICAL_TOKENS = 200
"""WordPiece tokens of title and abstract, the mean over 100,000 papers."""

SHARDS_LOOKED_AT = 50

SHARDS_READ, PAPERS_ESTIMATED = 10, 1_000
"""Texts are looked at in so many shards, evenly spread, and of each in so many papers: about a second."""


@dataclass(frozen=True)
class Forecast:
    """`memory` in bytes for each device, `seconds` None where nothing was measured; a `basis` says what a figure
    rests on."""

    papers: int
    reusable: int
    """Papers of shards that are to be done again or are no more, of which vectors are held: at most so many of the
    `papers` need no embedding, and the tokens and seconds are those without that."""
    tokens: int
    tokens_basis: str
    devices: tuple[str, ...]
    memory: int
    memory_basis: str
    seconds: float | None
    seconds_basis: str


def forecast(plan: RunPlan, options: RunOptions, settings: Settings) -> Forecast:
    """What the plan will take: tokens by the texts of shards that were read already, and otherwise, as time and memory,
    by the manifests of those of its shards that are embedded."""
    devices = tuple(device.name for device in plan.devices)
    known = _measured(plan, options)
    alike = [manifest for manifest in known if tuple(manifest.details["devices"]) == devices]
    tokens, tokens_basis = _expected_tokens(plan, options, settings, known)
    seconds = None
    worked = [manifest for manifest in alike if manifest.counts["embedded_tokens"] and manifest.details["seconds"]]
    if not tokens:
        seconds = 0.0
    elif worked:
        spent = sum(manifest.details["seconds"] for manifest in worked)
        seconds = tokens * spent / sum(manifest.counts["embedded_tokens"] for manifest in worked)
    peak = max((peak for manifest in alike for peak in manifest.details["memory"].values()), default=0)
    return Forecast(
        papers=plan.papers,
        reusable=_reusable(plan, options),
        tokens=tokens,
        tokens_basis=tokens_basis,
        devices=devices,
        memory=peak or loaded_bytes(plan.files.folder),
        memory_basis="the most that was measured here" if peak else "the weights alone: nothing was measured here yet",
        seconds=seconds,
        seconds_basis="at the speed measured here"
        if worked
        else "nothing to embed"
        if not tokens
        else "this space was not embedded here on these devices yet",
    )


def _expected_tokens(
    plan: RunPlan, options: RunOptions, settings: Settings, known: Sequence[Manifest]
) -> tuple[int, str]:
    """The tokens to embed, and what that rests on."""
    learned = LearnedTokens(settings.history, plan.files, plan.space.prompt)
    most = plan.space.max_tokens
    embeds = [shard for shard in plan.shards if shard.embed]
    read = [shard.shard.key for shard in embeds if not shard.read]
    seen: dict[str, tuple[int, float]] = {}
    for key in [read[place] for place in evenly_spread(len(read), SHARDS_READ)]:
        if reader := CheckpointStore(options.checkpoints).reader(papers_key(key), sets_aside=False):
            seen[key] = _by_texts(reader, learned.estimator, most)
    papers, tokens = sum(papers for papers, _ in seen.values()), sum(tokens for _, tokens in seen.values())
    others = sum(shard.shard.records for shard in embeds if shard.shard.key not in seen)
    if measured := sum(manifest.counts["papers"] for manifest in known):
        usual, basis = sum(manifest.counts["tokens"] for manifest in known) / measured, "measured here"
    elif papers:
        usual, basis = tokens / papers, "taken to be alike"
    elif learned.estimator.papers:
        usual, basis = min(learned.estimator.tokens / learned.estimator.papers, most), "learned here of this model"
    else:
        usual, basis = min(TYPICAL_TOKENS, most), "typical of arXiv"
    if papers:
        basis = "estimated by their texts" + (f" where they were read, otherwise {basis}" if others else "")
    expected = tokens + others * usual
    mean = expected / (papers + others) if papers + others else usual
    return round(expected), f"{mean:.0f} a paper, {basis}"


def _by_texts(reader: CheckpointReader, estimator: TokenEstimator, most: int) -> tuple[int, float]:
    """How many papers a shard has that was read, and about how many tokens, of which `most` of a paper count."""
    rows = reader.manifest.files["papers"].rows
    places = np.array(evenly_spread(rows, PAPERS_ESTIMATED), int)
    total, begun = 0.0, 0
    for batch in reader.batches("papers", ["title", "abstract", "categories"]):
        within = places[(places >= begun) & (places < begun + batch.num_rows)] - begun
        begun += batch.num_rows
        some = pa.Table.from_batches([batch.take(pa.array(within))])
        estimated = estimator.estimate(texts_of(some), some["categories"].to_pylist())
        total += float(np.minimum(estimated, most).sum())
    return rows, total * rows / max(1, len(places))


def _reusable(plan: RunPlan, options: RunOptions) -> int:
    """By the manifests alone, as texts are known only when they are read."""
    if plan.fresh is not None or not plan.papers:
        return 0
    checkpoints = CheckpointStore(options.checkpoints)
    embeds = {shard.shard.key for shard in plan.shards if shard.embed}
    held = 0
    for key in checkpoints.keys():  # noqa: SIM118 - no mapping
        if key == embeddings_key(key.shard, plan.space) and (key.shard in embeds or key.shard not in plan.listed):
            manifest = checkpoints.manifest(key)
            held += manifest.counts.get("papers", 0) if manifest else 0
    return min(held, plan.papers)


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
