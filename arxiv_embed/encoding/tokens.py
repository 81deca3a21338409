"""Tokens: one tokenization of each paper, with the spans that its vectors are pooled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from arxiv_embed.encoding.chunking import Chunker, parse_chunker
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space

IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenizedPaper:
    """One paper, ready for a device.

    `index` is its place in the sequence given; `ids` int32 [tokens], special and prompt tokens included; `spans`
    int32 [1 + chunks, 2], token positions in `ids`, row 0 the whole paper; `chars` int32 [chunks, 2], the chunks'
    characters in the text; `cut_tokens` the content tokens beyond the limit.
    """

    index: int
    ids: IntArray
    spans: IntArray
    chars: IntArray
    cut_tokens: int


class PaperTokenizer:
    """A model's fast tokenizer with a space's prompt, chunker and token limit."""

    def __init__(self, files: ModelFiles, space: Space, prompt: str | None = None) -> None:
        prompt = space.prompt if prompt is None else prompt
        self._tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._chunker: Chunker = parse_chunker(space.chunker)
        self._max_tokens = space.max_tokens
        self._pooling = space.pooling
        prompt_ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        leading, trailing = _special_tokens(self._tokenizer)
        self._leading = np.array([*leading, *prompt_ids], dtype=np.int32)
        self._trailing = np.array(trailing, dtype=np.int32)

    def tokenize(self, texts: Sequence[str], first_index: int = 0) -> list[TokenizedPaper]:
        """Tokenizes each text once, on all cores; `first_index` is the index of the first of them."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            self._tokenized(first_index + place, text, encoding)
            for place, (text, encoding) in enumerate(zip(texts, encodings, strict=True))
        ]

    def _tokenized(self, index: int, text: str, encoding: Encoding) -> TokenizedPaper:
        ids = np.array(encoding.ids, dtype=np.int32)
        room = self._max_tokens - len(self._leading) - len(self._trailing)
        kept = min(len(ids), room)

        def token_at(char: int) -> int:
            for place in range(char, len(text)):
                token = encoding.char_to_token(place)
                if token is not None:
                    return int(token)
            return len(ids)

        content = self._chunker.spans(text, kept, token_at)
        offsets = encoding.offsets
        chars = [(offsets[a][0], offsets[b - 1][1]) for a, b in content]
        total = len(self._leading) + kept + len(self._trailing)
        return TokenizedPaper(
            index=index,
            ids=np.concatenate([self._leading, ids[:kept], self._trailing]),
            spans=np.array(
                [_paper_span(self._pooling, total), *with_edges(content, len(self._leading), total)],
                dtype=np.int32,
            ),
            chars=np.array(chars, dtype=np.int32).reshape(-1, 2),
            cut_tokens=len(ids) - kept,
        )


def with_edges(content: Sequence[tuple[int, int]], leading: int, total: int) -> list[tuple[int, int]]:
    """Moves content spans behind the leading tokens; the first chunk takes those in, the last the trailing ones."""
    spans = [(start + leading, stop + leading) for start, stop in content]
    if spans:
        spans[0] = (0, spans[0][1])
        spans[-1] = (spans[-1][0], total)
    return spans


def _paper_span(pooling: str, total: int) -> tuple[int, int]:
    """The tokens whose mean is the paper's vector: all of them, the first (cls) or the last."""
    if pooling == "cls":
        return 0, 1
    if pooling == "last":
        return total - 1, total
    return 0, total


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and behind a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a", add_special_tokens=True).ids
    place = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:place], full[place + len(bare) :]
