"""A space: everything that decides what a vector means. Vectors of two spaces never mix."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

from arxiv_embed.encoding import sentences
from arxiv_embed.encoding.chunking import parse_chunker
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.recipe import DOCUMENT, QUERY
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.metadata.paper import TEMPLATE

LEAST_TOKENS, MOST_TOKENS = 8, 1_000_000
USUAL_TOKENS = 8192
"""More than any title and abstract of arXiv has, by far."""

CLS = "cls"
"""The pooling by the first token, whose state knows the first window alone."""
LAST = "last"
"""The pooling by the last token, whose state would know the last window alone."""

SHARED_BY_WINDOWS = 4
"""Neighbouring windows share a quarter of theirs, 256 tokens at most: the reference's number."""
MOST_OVERLAP = 256


@dataclass(frozen=True)
class Space:
    """What a vector means; the arithmetic's type and the device are provenance and stand elsewhere.

    `max_tokens` of a text are embedded, special and prompt tokens included. The vector of the paper is the mean of the
    states of the first `paper_tokens` of them (docs/decisions.md), or the state of the first or of the last token
    alone, as `pooling` says. A text of more than `window` tokens is embedded in windows that share `overlap` (0: in one
    piece, whatever its length). `splitter` is the version of the rules by which sentences are found (0: none are).
    """

    model: str
    revision: str
    task: str
    prompt: str
    pooling: str
    normalize: bool
    chunker: str
    splitter: int
    max_tokens: int
    window: int
    overlap: int
    paper_tokens: int
    dimensions: int
    template: str
    query_prompt: str
    """What stands before a query that is to find these vectors."""

    @property
    def paper_reach(self) -> int:
        """How many of a text's first tokens the vector of the paper is of: those that the mean is taken of, or those
        that the one token whose state it is has seen."""
        if self.pooling == CLS:
            return self.window or self.max_tokens
        return self.max_tokens if self.pooling == LAST else self.paper_tokens

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, equal exactly for equal spaces."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Space:
        return cls(**json.loads(text))


def space_of(
    files: ModelFiles,
    chunker: str,
    max_tokens: int | None = None,
    task: str | None = None,
    dimensions: int | None = None,
) -> Space:
    """The space in which `files` embeds papers; `max_tokens` counts special and prompt tokens. What is None is the
    model's usual.

    A causal model, and one pooled by its last token, embeds a text in one piece, up to its last position; another
    embeds a text of more tokens than it has positions in overlapping windows, as many as it takes.

    Raises `ArxivEmbedError` for an unknown chunker, and for a limit, task or number of dimensions that the model lacks.
    """
    most = files.position_limit if files.causal or files.pooling == LAST else MOST_TOKENS
    limit = min(USUAL_TOKENS, most) if max_tokens is None else max_tokens
    if not LEAST_TOKENS <= limit <= most:
        raise ArxivEmbedError(f"--max-tokens {limit} does not fit model '{files.name}': give {LEAST_TOKENS} to {most}.")
    windowed = not files.causal and files.pooling != LAST and limit > files.position_limit
    task = task or files.tasks[0]
    if task not in files.tasks:
        raise ArxivEmbedError(f"Model '{files.name}' has no task '{task}': give {' or '.join(files.tasks)}.")
    return Space(
        model=files.name,
        revision=files.revision,
        task=task,
        prompt=files.prompt(task, DOCUMENT),
        pooling=files.pooling,
        normalize=True,
        chunker=chunker,
        splitter=sentences.VERSION if parse_chunker(chunker).kind == "sentences" else 0,
        max_tokens=limit,
        window=files.position_limit if windowed else 0,
        overlap=min(MOST_OVERLAP, files.position_limit // SHARED_BY_WINDOWS) if windowed else 0,
        paper_tokens=min(limit, files.advised_tokens),
        dimensions=_dimensions(files, dimensions),
        template=TEMPLATE,
        query_prompt=files.prompt(task, QUERY),
    )


def _dimensions(files: ModelFiles, asked: int | None) -> int:
    if asked is None or asked == files.dimensions:
        return files.dimensions
    if asked in files.shorter:
        return asked
    if not files.shorter:
        raise ArxivEmbedError(
            f"--dimensions {asked}: model '{files.name}' does not say that its vectors may be cut; they have "
            f"{files.dimensions} (a model file can say so, see docs/models.md)."
        )
    lengths = ", ".join(map(str, (*files.shorter, files.dimensions)))
    raise ArxivEmbedError(f"--dimensions {asked} does not fit model '{files.name}': give one of {lengths}.")
