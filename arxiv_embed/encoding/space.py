"""A space: everything that decides what a vector means. Vectors of two spaces never mix."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

from arxiv_embed.encoding.chunking import parse_chunker
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.paper import TEMPLATE


@dataclass(frozen=True)
class Space:
    """What a vector means; the arithmetic's type and the device are provenance and stand elsewhere.

    `max_tokens` of a text are embedded, special and prompt tokens included; the vector of the paper is pooled from the
    states of the first `paper_tokens` of them, which have attended to all (docs/decisions.md).
    """

    model: str
    revision: str
    task: str
    prompt: str
    pooling: str
    normalize: bool
    chunker: str
    max_tokens: int
    paper_tokens: int
    dimensions: int
    template: str

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal exactly for equal spaces."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Space:
        return cls(**json.loads(text))


def space_of(files: ModelFiles, chunker: str, max_tokens: int | None = None) -> Space:
    """The space in which `files` embeds papers; `max_tokens` counts special and prompt tokens.

    Raises `ArxivEmbedError` for an unknown chunker or a limit that the model has no positions for.
    """
    parse_chunker(chunker)
    limit = default_max_tokens(files) if max_tokens is None else max_tokens
    if not 8 <= limit <= files.position_limit:
        raise ArxivEmbedError(
            f"--max-tokens {limit} does not fit model '{files.name}': give 8 to {files.position_limit}."
        )
    return Space(
        model=files.name,
        revision=files.revision,
        task="retrieval",
        prompt=files.document_prompt,
        pooling=files.pooling,
        normalize=True,
        chunker=chunker,
        max_tokens=limit,
        paper_tokens=min(limit, files.advised_tokens),
        dimensions=files.dimensions,
        template=TEMPLATE,
    )


def default_max_tokens(files: ModelFiles) -> int:
    """All the positions that the model has, up to 512: arXiv's abstracts are shorter, all but a few."""
    return min(files.position_limit, 512)
