"""Estimates: about how many tokens texts have, told without tokenizing them, by what the papers before them had.

A text's tokens are a sum over what is counted in it, each with its own number of tokens: words that the vocabulary has
whole, letters of words that it has not, punctuation, digits, characters of each other script. These numbers are fitted
to the papers that were embedded, by least squares of relative errors; what is left is learned for each category. Two
sums are fitted to the same papers: the full one, and a quick one that looks no word up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import filterfalse
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

from arxiv_embed.checkpoint.atomic import write_atomically
from arxiv_embed.checkpoint.sealed import seal, unseal
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.errors import ArxivEmbedError

Array = npt.NDArray[np.float64]

FORMAT = 1

START = {
    "ASCII characters": 0.09,
    "blanks": 0.5,
    "punctuation": 1.0,
    "accented letters": 1.0,
    "Greek": 1.0,
    "Cyrillic": 1.0,
    "East Asian": 1.0,
    "other scripts": 1.0,
    "text": 4.0,
    "known words": 1.0,
    "unknown words": 1.2,
    "letters of unknown words": 0.2,
    "digits": 0.1,
    "numbers": 1.0,
}
"""What is counted, and about how many tokens each stands for until papers have shown it."""

QUICK, FULL = slice(0, 9), slice(2, 14)
"""What each of the two sums is over."""

START_WEIGHT = 1e-3
"""A start counts about as much as five papers in which its feature is a fiftieth of the tokens."""

CATEGORY_WEIGHT = 20.0
"""So many papers of a category count half of what is particular to it."""

REMEMBERED = 100_000
"""So many papers' worth is remembered; what is older fades."""

_PUNCTUATION = bytes(c for c in range(33, 127) if not chr(c).isalnum())
_DIGITS = b"0123456789"
_ONLY_DIGITS = bytes(c if c in _DIGITS else 32 for c in range(256))
_ONLY_LETTERS = bytes(c if chr(c).isalpha() and c < 128 else 32 for c in range(256))
_LOWERED = bytes(c | 32 if 65 <= c <= 90 else c for c in _ONLY_LETTERS)
_SCRIPTS = (
    bytes(range(0xC2, 0xCE)),
    bytes(range(0xCE, 0xD0)),
    bytes(range(0xD0, 0xD4)),
    bytes(range(0xE3, 0xEE)),
    bytes([*range(0xD4, 0xE3), *range(0xEE, 0xF5)]),
)
"""The bytes that characters of each script begin with in UTF-8."""


class Vocabulary:
    """The words that a tokenizer has whole; none where its file is of a form unknown here, which costs accuracy."""

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def words(self) -> frozenset[bytes]:
        """Those of ASCII letters, read when they are first needed."""
        try:
            pieces = orjson.loads(self._tokenizer.read_bytes())["model"]["vocab"]
            names = list(pieces) if isinstance(pieces, dict) else [piece for piece, _ in pieces]
            begun = [name[1:] for name in names if name[:1] in ("Ġ", "▁")]  # how byte pairs and unigrams begin a word
            return frozenset(name.encode() for name in begun or names if name.isascii() and name.isalpha())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return frozenset()

    @cached_property
    def letters(self) -> bytes:
        """What `bytes.translate` keeps of a text: letters, lowered where the vocabulary has no others."""
        has_capitals = any(not word.islower() for word in self.words)
        return _ONLY_LETTERS if has_capitals else _LOWERED


class TokenEstimator:
    """`papers` and `tokens` are how many were learned from, what has faded not counted."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.papers = 0.0
        self.tokens = 0.0
        self._vocabulary = vocabulary
        self._gram = np.zeros((len(START), len(START)))
        self._right = np.zeros(len(START))
        self._categories: dict[str, tuple[float, float]] = {}
        """A category's tokens, and what they were estimated to be."""

    def learn(self, texts: Sequence[str], categories: Sequence[Sequence[str]], tokens: Sequence[int]) -> None:
        """Takes in papers: `categories` of each, the primary one first; `tokens` all it has, special ones included and
        those beyond the limit too."""
        if not len(texts):
            return
        counted, measured = self._counted(texts), np.maximum(np.asarray(tokens, float), 1)
        relative = counted / measured[:, None]
        self._gram += relative.T @ relative
        self._right += relative.sum(axis=0)
        self.papers += len(texts)
        self.tokens += float(measured.sum())
        estimated = self._sum(counted, FULL)
        for listed, real, expected in zip(categories, measured.tolist(), estimated.tolist(), strict=True):
            before = self._categories.get(_primary(listed), (0.0, 0.0))
            self._categories[_primary(listed)] = before[0] + real, before[1] + expected
        self._forget()

    def estimate(self, texts: Sequence[str], categories: Sequence[Sequence[str]]) -> Array:
        """[texts] tokens, special ones included, however many a model takes; some 40,000 texts a second."""
        ratios = np.array([self._ratio(_primary(listed)) for listed in categories], float)
        estimated: Array = self._sum(self._counted(texts), FULL) * ratios
        return estimated

    def quick(self, texts: Sequence[str]) -> list[float]:
        """The same at several times the speed and three times the error, enough to put texts in order."""
        counted = np.array([_quickly_counted(text, text.encode()) for text in texts], float)
        estimated: list[float] = self._sum(counted.reshape(-1, QUICK.stop), QUICK).tolist()
        return estimated

    def _counted(self, texts: Sequence[str]) -> Array:
        words, letters = self._vocabulary.words, self._vocabulary.letters
        rows = []
        for text in texts:
            encoded = text.encode()
            found = encoded.translate(letters).split()
            unknown = list(filterfalse(words.__contains__, found))
            rows.append(
                (
                    *_quickly_counted(text, encoded),
                    len(found) - len(unknown),
                    len(unknown),
                    len(b"".join(unknown)),
                    len(encoded) - len(encoded.translate(None, _DIGITS)),
                    len(encoded.translate(_ONLY_DIGITS).split()),
                )
            )
        return np.array(rows, float).reshape(-1, len(START))

    def _sum(self, counted: Array, which: slice) -> Array:
        start = np.array(list(START.values()))[which]
        gram = self._gram[which, which] + START_WEIGHT * np.eye(len(start))
        coefficients = np.linalg.solve(gram, self._right[which] + START_WEIGHT * start)
        return np.maximum(counted[:, which] @ coefficients, 1.0)

    def _ratio(self, category: str) -> float:
        """What a category's papers have for each token estimated, drawn towards 1 where few were seen."""
        if category not in self._categories:
            return 1.0
        real, expected = self._categories[category]
        pull = CATEGORY_WEIGHT * self.tokens / self.papers
        return (real + pull) / (expected + pull)

    def _forget(self) -> None:
        kept = min(1.0, REMEMBERED / self.papers)
        if kept < 1:
            self.papers, self.tokens = kept * self.papers, kept * self.tokens
            self._gram, self._right = kept * self._gram, kept * self._right
            self._categories = {name: (kept * a, kept * b) for name, (a, b) in self._categories.items()}

    def to_json(self) -> str:
        return seal(
            {
                "format": FORMAT,
                "papers": self.papers,
                "tokens": self.tokens,
                "counted": list(START),
                "products": self._gram.tolist(),
                "sums": self._right.tolist(),
                "categories (tokens, estimated)": {name: list(pair) for name, pair in self._categories.items()},
            }
        )

    @classmethod
    def from_json(cls, text: bytes, vocabulary: Vocabulary) -> Self:
        """Raises `ValueError` for anything but the exact bytes that `to_json` gave, or those of another version."""
        content: Mapping[str, Any] = unseal(text)
        if content.get("format") != FORMAT or content.get("counted") != list(START):
            raise ValueError("it counts other things")
        estimator = cls(vocabulary)
        estimator.papers, estimator.tokens = content["papers"], content["tokens"]
        estimator._gram, estimator._right = np.array(content["products"]), np.array(content["sums"])
        estimator._categories = {
            name: (tokens, estimated) for name, (tokens, estimated) in content["categories (tokens, estimated)"].items()
        }
        return estimator


class LearnedTokens:
    """What one model's tokenizer was seen to do behind one prompt, a file in the folder `history`; where it is missing
    or broken, it is learned anew."""

    def __init__(self, history: Path, files: ModelFiles, prompt: str = "") -> None:
        name = re.sub("[^A-Za-z0-9._-]+", "-", files.name.rstrip("/").rpartition("/")[2])[:60]
        digest = hashlib.sha256(
            json.dumps([files.name, files.revision, *([prompt] if prompt else [])]).encode()
        ).hexdigest()[:16]
        self.path = history / "tokens" / f"{name}-{digest}.json"
        self._vocabulary = Vocabulary(files.folder / "tokenizer.json")

    @cached_property
    def estimator(self) -> TokenEstimator:
        return self._read()

    def learn(self, texts: Sequence[str], categories: Sequence[Sequence[str]], tokens: Sequence[int]) -> None:
        """Adds papers to what is on disk by now, as other runs may learn at the same time."""
        self.estimator = self._read()
        self.estimator.learn(texts, categories, tokens)
        with contextlib.suppress(ArxivEmbedError, OSError):  # it would be learned again, and hides nothing gone wrong
            write_atomically(self.path, self.estimator.to_json().encode())

    def quick(self, texts: Sequence[str]) -> list[float]:
        """By all that was learned until now."""
        return self.estimator.quick(texts)

    def _read(self) -> TokenEstimator:
        try:
            return TokenEstimator.from_json(self.path.read_bytes(), self._vocabulary)
        except (OSError, ValueError):
            return TokenEstimator(self._vocabulary)


def evenly_spread(count: int, most: int) -> range:
    """At most so many of `count` places, from one end to the other."""
    return range(0, count, max(1, math.ceil(count / most)))


def _quickly_counted(text: str, encoded: bytes) -> tuple[int, ...]:
    """As many counts as `QUICK` takes, in the order of `START`."""
    scripts = [0] * len(_SCRIPTS)
    if not text.isascii():
        scripts = [len(encoded) - len(encoded.translate(None, leads)) for leads in _SCRIPTS]
    punctuation = len(encoded) - len(encoded.translate(None, _PUNCTUATION))
    return len(text) - sum(scripts), encoded.count(b" "), punctuation, *scripts, 1


def _primary(categories: Sequence[str]) -> str:
    return categories[0] if len(categories) else ""
