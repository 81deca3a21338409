"""Tokens: one tokenization of each paper, with the spans that its vectors are pooled from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from arxiv_embed.encoding.chunking import Chunker, parse_chunker
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import CLS, LAST, Space
from arxiv_embed.errors import ArxivEmbedError

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TokenizedPaper:
    """One paper, ready for a device.

    `index` is its place in the sequence given; `ids` int32 [tokens], special and prompt tokens included; `spans`
    int32 [1 + chunks, 2], token positions in `ids`, row 0 the whole paper; `chars` int32 [chunks, 2], the chunks'
    characters in the text, ascending and apart, with nothing but blanks between them; `cut_tokens` the content tokens
    beyond the limit.
    """

    index: int
    ids: IntArray
    spans: IntArray
    chars: IntArray
    cut_tokens: int


class PaperTokenizer:
    """A model's fast tokenizer with a space's prompt, chunker and token limit.

    Raises `ArxivEmbedError` where the tokenizer cannot be read, or the prompt leaves no room within the limit.
    """

    def __init__(self, files: ModelFiles, space: Space, prompt: str | None = None) -> None:
        self._tokenizer = _read_tokenizer(files)
        self._prompt = space.prompt if prompt is None else prompt
        self._chunker: Chunker = parse_chunker(space.chunker)
        self._pooling = space.pooling
        self._paper_tokens = space.paper_tokens
        self._leading, self._trailing = _special_tokens(self._tokenizer)
        self._room = space.max_tokens - len(self._leading) - len(self._trailing)
        if self._room <= len(self._tokenizer.encode(self._prompt, add_special_tokens=False).ids):
            raise ArxivEmbedError(
                f"--max-tokens {space.max_tokens} leaves no room for a text behind the prompt and special tokens of "
                f"model '{files.name}': give more."
            )

    def tokenize(self, texts: Sequence[str], indexes: Sequence[int] | None = None) -> list[TokenizedPaper]:
        """Tokenizes each text once, on all cores; `indexes` are theirs, by default 0, 1, 2 …"""
        prompted = [self._prompt + text for text in texts] if self._prompt else list(texts)
        encodings = self._tokenizer.encode_batch(prompted, add_special_tokens=False)
        return [
            self._tokenized(index, text, encoding)
            for index, text, encoding in zip(indexes or range(len(texts)), texts, encodings, strict=True)
        ]

    def _tokenized(self, index: int, text: str, encoding: Encoding) -> TokenizedPaper:
        ids, offsets, shift = encoding.ids, encoding.offsets, len(self._prompt)
        prompt_tokens = next((n for n, (_, end) in enumerate(offsets) if end > shift), len(ids)) if shift else 0
        content_tokens = len(ids) - prompt_tokens
        kept = min(content_tokens, self._room - prompt_tokens)

        def token_at(char: int) -> int:
            for place in range(shift + char, shift + len(text)):
                token = encoding.char_to_token(place)
                if token is not None:
                    return max(0, int(token) - prompt_tokens)
            return content_tokens

        content = self._chunker.spans(text, kept, token_at)
        # A model needs one token at least: where neither text nor tokenizer gives any, the vocabulary's first.
        embedded = [*self._leading, *ids[: prompt_tokens + kept], *self._trailing] or [0]
        return TokenizedPaper(
            index=index,
            ids=np.array(embedded, dtype=np.int32),
            spans=np.array(
                [
                    _paper_span(self._pooling, len(embedded), self._paper_tokens),
                    *with_edges(content, len(self._leading) + prompt_tokens, len(embedded)),
                ],
                dtype=np.int32,
            ),
            chars=_chunk_chars(text, content, offsets[prompt_tokens:], shift),
            cut_tokens=content_tokens - kept,
        )


def with_edges(content: Sequence[tuple[int, int]], leading: int, total: int) -> list[tuple[int, int]]:
    """Moves content spans behind the leading tokens; the first chunk takes those in, the last the trailing ones."""
    spans = [(start + leading, stop + leading) for start, stop in content]
    if spans:
        spans[0] = (0, spans[0][1])
        spans[-1] = (spans[-1][0], total)
    return spans


def _paper_span(pooling: str, total: int, most: int) -> tuple[int, int]:
    """The tokens whose mean is the paper's vector: the first `most` of them, the very first (cls) or the last."""
    if pooling == CLS:
        return 0, 1
    if pooling == LAST:
        return total - 1, total
    return 0, min(total, most)


def _chunk_chars(
    text: str, content: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]], shift: int
) -> IntArray:
    """Where each chunk's text lies, blanks at its ends left out; `offsets` are the content tokens', behind a prompt of
    `shift` characters.

    A chunk reaches to the next one's first token, so that characters which the tokenizer drops (accents, joiners) are
    in one too; a character that is tokens of two chunks belongs to the first.
    """
    chars = np.empty((len(content), 2), np.int32)
    begin = 0
    for chunk, (_, stop) in enumerate(content):
        following = offsets[stop][0] - shift if stop < len(offsets) else len(text)
        end = max(begin, following, offsets[stop - 1][1] - shift)
        piece = text[begin:end].rstrip()
        chars[chunk] = begin + len(piece) - len(piece.lstrip()), begin + len(piece)
        begin = end
    return chars


def _read_tokenizer(files: ModelFiles) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    except Exception:  # noqa: BLE001 - the library raises nothing narrower
        raise ArxivEmbedError(
            f"Model '{files.name}' has a broken tokenizer.json in {files.folder}: fetch it again."
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and behind a text."""
    encoding = tokenizer.encode("A paper, any 1", add_special_tokens=True)
    content = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    if not content:
        return encoding.ids, []
    return encoding.ids[: content[0]], encoding.ids[content[-1] + 1 :]
