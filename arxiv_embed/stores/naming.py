"""Naming: which of a store's spaces a name means, and which one is meant where none is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arxiv_embed.encoding.hub import cached_commit
from arxiv_embed.encoding.model import BUNDLED_NAMES, COMMIT
from arxiv_embed.encoding.space import Space
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import DEFAULT_MODEL, RunOptions
from arxiv_embed.stores.protocol import StoreError, VectorStore


def space_named(store: VectorStore, name: str | None, model: str = DEFAULT_MODEL, *, whole: bool = False) -> Space:
    """The space that a fingerprint (or how it begins, unless it must be `whole`) or a model names; without a name the
    one `by_default`. Raises `ArxivEmbedError` where it names none, or several."""
    held = store.spaces()
    if not held:
        raise StoreError(f"The store {store.url} is empty: fill it with `arxiv-embed run --metadata-dir DIR`.")
    if name is None:
        return by_default(held, model)
    end = None if whole else len(name)
    meant = [space for space in held if name and (space.fingerprint[:end] == name or _is_of(space, name))]
    if len(meant) == 1:
        return meant[0]
    which = "; ".join(f"{space.fingerprint} ({space.model}, {space.chunker})" for space in meant or held)
    problem = "names several spaces" if meant else "names no space"
    raise ArxivEmbedError(f"'{name}' {problem} of {store.url}: give one of {which}.")


def by_default(held: Sequence[Space], model: str) -> Space:
    """Of that model, where there is none of another of its revisions, else of any: the last begun with the usual
    chunker, or with any, so that what is tried beside does not change what is searched."""
    names = (model,) if Path(model).is_absolute() else (model, model.partition("@")[0])
    among = next((its for name in names if (its := [space for space in held if _is_of(space, name)])), held)
    return next((space for space in among if space.chunker == RunOptions.chunker), among[0])


def _is_of(space: Space, model: str) -> bool:
    """Whether a name, as a run would be given it, is that of the space's model."""
    name, _, revision = model.partition("@")
    if space.model == name and not Path(name).is_absolute():  # a name on the hub
        return not revision or space.revision == (revision if COMMIT.fullmatch(revision) else cached_commit(model))
    names = (model, str(Path(model).expanduser().absolute()), *(BUNDLED_NAMES[:1] if model in BUNDLED_NAMES else ()))
    return space.model in names
