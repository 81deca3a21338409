"""Chunkers: the token spans of one paper's chunks, for late chunking over the states of its whole text.

Spans are half-open and together cover every content token once (jina-ai/late-chunking).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from arxiv_embed.encoding.sentences import sentence_starts
from arxiv_embed.errors import ArxivEmbedError

TokenAt = Callable[[int], int]
"""Character offset → index of the first token at or after it."""


@dataclass(frozen=True)
class Chunker:
    """`kind` is "sentences", "fixed" or "whole"; `tokens` the most that one chunk holds (0 for "whole")."""

    kind: str
    tokens: int

    def spans(self, text: str, tokens: int, token_at: TokenAt) -> list[tuple[int, int]]:
        """Spans over the `tokens` content tokens of `text`, special tokens not counted; [] where there are none."""
        if tokens == 0:
            return []
        if self.kind == "whole":
            return [(0, tokens)]
        if self.kind == "fixed":
            return fixed_spans(tokens, self.tokens)
        return sentence_spans([token_at(start) for start in sentence_starts(text)], tokens, self.tokens)


def parse_chunker(spec: str) -> Chunker:
    """Reads `sentences:N`, `fixed:N` or `whole`; raises `ArxivEmbedError` for anything else."""
    if spec == "whole":
        return Chunker("whole", 0)
    match = re.fullmatch(r"(sentences|fixed):([1-9][0-9]{0,5})", spec)
    if match is None:
        raise ArxivEmbedError(f"Unknown chunker '{spec}': write sentences:128, fixed:64 or whole.")
    return Chunker(match[1], int(match[2]))


def fixed_spans(tokens: int, size: int) -> list[tuple[int, int]]:
    """Chunks of `size` tokens, the last one shorter."""
    return [(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def sentence_spans(starts: Sequence[int], tokens: int, size: int) -> list[tuple[int, int]]:
    """Whole sentences gathered into chunks of at most `size` tokens; a longer sentence is cut every `size`.

    `starts` are the sentences' first tokens, ascending; those at or past `tokens` fell behind the token limit.
    """
    edges = [*sorted({0, *(start for start in starts if start < tokens)}), tokens]
    spans: list[tuple[int, int]] = []
    begin = 0
    for previous, edge in pairwise(edges):
        if edge - begin <= size:
            continue
        if previous > begin:
            spans.append((begin, previous))
            begin = previous
        while edge - begin > size:
            spans.append((begin, begin + size))
            begin += size
    spans.append((begin, tokens))
    return spans
