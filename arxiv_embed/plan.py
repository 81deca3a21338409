"""A plan: what a run has to do, decided from a listing, the manifests and the store; no model is loaded for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from arxiv_embed.checkpoint.manifest import CheckpointKey, Manifest
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.cluster.cluster import check_cluster
from arxiv_embed.cluster.nodes import check_spec
from arxiv_embed.encoding.model import ModelFiles, check_dtype, resolve_model
from arxiv_embed.encoding.space import Space, space_of
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.fresh import unfinished_fresh_start
from arxiv_embed.gpu.devices import Device, parse_devices
from arxiv_embed.metadata.paper import Paper
from arxiv_embed.metadata.reading import ShardReader
from arxiv_embed.metadata.shards import Listing, Shard, lies_in, list_folder, month_key_of
from arxiv_embed.settings import RunOptions, Settings, store_folders
from arxiv_embed.stores.protocol import NoStore, open_store

EXAMPLES_NAMED = 3
HALF = 32


@dataclass(frozen=True)
class ShardPlan:
    """Which of the three steps a shard still needs; `reason` says why, "" where it needs none."""

    shard: Shard
    read: bool
    embed: bool
    store: bool
    reason: str
    failed_papers: int = 0
    """Papers of it that no device could embed."""

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the steps to do."""
        wanted = {"read": self.read, "embed": self.embed, "store": self.store}
        return tuple(name for name, needed in wanted.items() if needed)

    @property
    def pending(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True)
class RunPlan:
    files: ModelFiles
    space: Space
    devices: tuple[Device, ...]
    """None for a cluster's, which come and go."""
    shards: tuple[ShardPlan, ...]
    listed: frozenset[str]
    """The keys of all shards in the folder, those beyond `--limit` and those that cannot be read for now too."""
    passed_over: tuple[str, ...]
    """Paths in the folder that hold no metadata known here."""
    has_store: bool
    """Whether there was a store when the plan was made."""
    held: tuple[Space, ...]
    """The spaces that the store held then."""
    is_finished: bool
    """Whether its indexes were up to date then, or there was no store; not so where a run was ended after its last
    shard."""
    fresh: frozenset[str] | None
    """In a fresh start, the runs before that belong to it: what others have made is made anew."""

    @property
    def beside(self) -> tuple[Space, ...]:
        """The spaces that the store holds, where this run's is not among them: it adds one."""
        return () if self.space in self.held else self.held

    @property
    def pending(self) -> tuple[ShardPlan, ...]:
        return tuple(plan for plan in self.shards if plan.pending)

    @property
    def papers(self) -> int:
        """About how many papers there are to embed."""
        return sum(plan.shard.records for plan in self.shards if plan.embed)

    @property
    def failed_papers(self) -> int:
        """Papers of shards that are done, which no device could embed."""
        return sum(plan.failed_papers for plan in self.shards)

    def of(self, key: str) -> ShardPlan:
        """Raises `ArxivEmbedError` where no shard has that key."""
        if key not in self._by_key:
            raise ArxivEmbedError(
                f"There is no shard '{key}' in the metadata folder: `arxiv-embed plan` lists what there is."
            )
        return self._by_key[key]

    def has(self, key: str) -> bool:
        return key in self._by_key

    @cached_property
    def _by_key(self) -> Mapping[str, ShardPlan]:
        return {plan.shard.key: plan for plan in self.shards}


def papers_key(shard: str) -> CheckpointKey:
    return CheckpointKey("papers", shard)


def embeddings_key(shard: str, space: Space) -> CheckpointKey:
    return CheckpointKey("embeddings", shard, space.fingerprint)


def stored_identity(papers: Manifest, embeddings: Manifest) -> str:
    """What the store remembers of a shard: equal exactly while neither checkpoint has changed."""
    return f"{papers.identity[:HALF]}{embeddings.identity[:HALF]}"


def is_filled_from(stored: Iterable[str], embeddings: Collection[str]) -> bool:
    """Whether all that a store remembers (`stored_identity`) was made of these embeddings (`Manifest.identity`)."""
    known = {identity[:HALF] for identity in embeddings}
    return all(identity[HALF:] in known for identity in stored)


def covers(papers: Manifest, shard: Shard) -> bool:
    """Whether a papers checkpoint was made from this very source, and from as much of it as the run asks for."""
    if papers.source.signature != shard.signature or not _is_of_this_version(papers):
        return False
    read_to = papers.details.get("limit")
    return read_to is None or (shard.limit is not None and shard.limit <= read_to)


def _is_of_this_version(papers: Manifest) -> bool:
    """Whether the checkpoint was made since `Paper` has all its fields, and records are counted."""
    columns = {line.split(":")[0] for line in papers.files["papers"].schema.splitlines()}
    return {field.name for field in fields(Paper)} - {"id"} <= columns and "records" in papers.counts


def plan_run(options: RunOptions, settings: Settings) -> RunPlan:
    """Raises `ArxivEmbedError` for a folder without usable metadata, a model that is not there, an option that makes
    no sense, or a store or a checkpoint that belongs to something else."""
    check_dtype(options.dtype)
    if options.cluster is None:
        devices = tuple(parse_devices(options.devices))
    else:
        check_cluster(options.cluster)
        check_spec(options.devices)
        devices = ()
    files = resolve_model(options.model)
    space = space_of(files, options.chunker, options.max_tokens, options.task, options.dimensions)
    listing = list_shards_of(options, settings)
    shards = list(listing.shards)
    if options.limit is not None:
        shards = _limited(shards, options.limit)
    held, spaces, is_finished = _held_by_store(options.store, space)
    checkpoints = CheckpointStore(options.checkpoints)
    fresh = frozenset[str]() if options.fresh else unfinished_fresh_start(options.checkpoints, space.fingerprint)
    plans = tuple(
        _plan_shard(_as_it_was(shard, checkpoints, listing.unread), space, checkpoints, held or {}, options, fresh)
        for shard in shards
    )
    listed = frozenset(shard.key for shard in listing.shards)
    if listing.unread:
        listed |= {key for key in held or () if _unread_of(checkpoints.manifest(papers_key(key)), listing.unread)}
    return RunPlan(
        files, space, devices, plans, listed, listing.passed_over, held is not None, spaces, is_finished, fresh
    )


def list_shards_of(options: RunOptions, settings: Settings) -> Listing:
    """What a run finds in its metadata folder; raises `ArxivEmbedError` where nothing there is usable."""
    listing = list_folder(
        options.metadata_dir,
        shard_papers=options.shard_papers,
        index=settings.index,
        without=[settings.home, options.checkpoints, *store_folders(options.store)],
    )
    if not listing.shards:
        raise ArxivEmbedError(_nothing_usable(options.metadata_dir, listing.passed_over))
    return listing


def _as_it_was(shard: Shard, checkpoints: CheckpointStore, unread: Collection[str]) -> Shard:
    """A month of which some files cannot be read for now counts as unchanged, or their papers would leave the store;
    where it is to be read all the same (a fresh start), that fails at the place, and says so."""
    if not (unread and shard.is_month):
        return shard
    papers = checkpoints.manifest(papers_key(shard.key))
    places = _unread_of(papers, unread)
    if papers is None or not places:
        return shard
    return replace(shard, signature=papers.source.signature, files=(*shard.files, *places))


def _unread_of(papers: Manifest | None, unread: Collection[str]) -> list[str]:
    """The places where nothing can be read for now, and some file of a papers checkpoint lies, or, of a month, may."""
    if papers is None:
        return []
    folders = papers.details.get("folders", ())
    return [
        place
        for place in unread
        if any(lies_in(file, [place]) for file in (papers.details["file"], *folders))
        or (place.rpartition("/")[0] in folders and month_key_of(place) == papers.key.shard)
    ]


def _plan_shard(
    shard: Shard,
    space: Space,
    checkpoints: CheckpointStore,
    held: Mapping[str, str],
    options: RunOptions,
    fresh: frozenset[str] | None,
) -> ShardPlan:
    papers = checkpoints.manifest(papers_key(shard.key))
    if papers is not None:
        _refuse_other_folder(papers, shard)
    if fresh is not None and (papers is None or papers.run_id not in fresh):
        return ShardPlan(shard, True, True, True, "fresh start")
    if papers is None or not covers(papers, shard):
        return ShardPlan(shard, True, True, True, _why_read(papers, shard))
    embeddings = checkpoints.manifest(embeddings_key(shard.key, space))
    if fresh is not None and (embeddings is None or embeddings.run_id not in fresh):
        return ShardPlan(shard, False, True, True, "fresh start")
    if embeddings is None or embeddings.source.sha256 != papers.source.sha256:
        return ShardPlan(shard, False, True, True, "not embedded" if embeddings is None else "source changed")
    if options.retry_failed and embeddings.counts.get("failed", 0):
        return ShardPlan(shard, False, True, True, "papers failed")
    if held.get(shard.key) != stored_identity(papers, embeddings):
        return ShardPlan(shard, False, False, True, "not in the store")
    return ShardPlan(shard, False, False, False, "", embeddings.counts.get("failed", 0))


def _why_read(papers: Manifest | None, shard: Shard) -> str:
    if papers is None:
        return "new"
    if papers.source.signature != shard.signature:
        return "source changed"
    return "read in part" if _is_of_this_version(papers) else "read by an older version"


def _held_by_store(url: str, space: Space) -> tuple[Mapping[str, str] | None, tuple[Space, ...], bool]:
    """The shards of that space, None where there is no store; all of the store's spaces; and whether the indexes of
    that one are up to date."""
    try:
        store = open_store(url)
    except NoStore:
        return None, (), True
    with store:
        return store.shards(space.fingerprint), tuple(store.spaces()), store.is_finished(space)


def _refuse_other_folder(papers: Manifest, shard: Shard) -> None:
    """A shard's key names it within its folder only; two folders with equal names must not overwrite each other."""
    folder, file = papers.details["folder"], papers.details["file"]
    if folder == str(shard.folder):
        return
    if (Path(folder) / file).exists() and not shard.folder.samefile(folder):
        raise ArxivEmbedError(
            f"Checkpoints of a shard '{shard.key}' from {folder} are kept here: give this folder its own "
            "ARXIV_EMBED_HOME, or put both folders into one and give that."
        )


def _limited(shards: list[Shard], papers: int) -> list[Shard]:
    """The first shards that hold so many papers together, the last of them cut; counted by reading them."""
    chosen = []
    with ShardReader() as reader:
        for shard in shards:
            limited = shard.limited(papers)
            chosen.append(limited)
            content = reader.load(limited)
            papers -= len(content.papers) + content.duplicates
            if papers <= 0:
                break
    return chosen


def _nothing_usable(folder: Path, names: Sequence[str]) -> str:
    if not names:
        return f"The metadata folder {folder} is empty: put arXiv metadata there (JSON, JSON lines or XML)."
    some = ", ".join(names[:EXAMPLES_NAMED])
    return f"No file in {folder} holds arXiv metadata (JSON, JSON lines or XML; looked at {some})."
