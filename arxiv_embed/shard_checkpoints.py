"""Shard checkpoints: a run's view of the checkpoint store, which keeps what it has read of the shard at hand."""

from __future__ import annotations

from arxiv_embed.checkpoint.manifest import Manifest
from arxiv_embed.checkpoint.store import Checkpoint, CheckpointStore
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.plan import embeddings_key, papers_key


class ShardCheckpoints:
    """Each is verified when it is read, and kept until one of another shard is asked for."""

    def __init__(self, store: CheckpointStore, space: Space) -> None:
        self._store = store
        self._space = space
        self._papers: tuple[str, Checkpoint] | None = None
        self._embeddings: tuple[str, Checkpoint] | None = None

    def manifest(self, asset: str, key: str) -> Manifest | None:
        """What a shard's newest checkpoint says of itself; None for an asset that has none."""
        keys = {"papers": papers_key(key), "embeddings": embeddings_key(key, self._space)}
        return self._store.manifest(keys[asset]) if asset in keys else None

    def papers(self, key: str) -> Checkpoint:
        """Raises `ArxivEmbedError` where the shard has none."""
        if self._papers is None or self._papers[0] != key:
            loaded = self._store.load(papers_key(key))
            if loaded is None:
                raise ArxivEmbedError(f"Shard '{key}' has no papers yet: materialize them first.")
            self._papers = (key, loaded)
        return self._papers[1]

    def embeddings(self, key: str) -> Checkpoint | None:
        """None where the shard has none."""
        if self._embeddings is None or self._embeddings[0] != key:
            loaded = self._store.load(embeddings_key(key, self._space))
            self._embeddings = None if loaded is None else (key, loaded)
        return None if self._embeddings is None else self._embeddings[1]

    def both(self, key: str) -> tuple[Checkpoint, Checkpoint]:
        """Papers and embeddings; raises `ArxivEmbedError` where the embeddings were not made from these papers."""
        papers, embeddings = self.papers(key), self.embeddings(key)
        if embeddings is None or embeddings.manifest.source.sha256 != papers.manifest.source.sha256:
            raise ArxivEmbedError(f"Shard '{key}' has no embeddings of its papers yet: materialize them first.")
        return papers, embeddings

    def keep_papers(self, key: str, papers: Checkpoint) -> None:
        """They were just read, or committed."""
        self._papers = (key, papers)

    def forget_embeddings(self) -> None:
        """They are about to be made anew, and take much memory."""
        self._embeddings = None
