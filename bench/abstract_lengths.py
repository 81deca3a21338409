"""Abstract lengths: how many tokens the texts of real papers have, kept in a small file for machines without the data.

`abstract_lengths.npy` holds, as uint16, the WordPiece tokens (by the bundled model's tokenizer, its two special tokens
included) of title and abstract of the first 20,000 papers of `arxiv_100k.jsonl.gz`, in that file's order and not cut at
any limit. `python -m bench.abstract_lengths` makes it again.
"""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

FILE = Path(__file__).with_suffix(".npy")
PAPERS = 20_000

Lengths = npt.NDArray[np.uint16]


def abstract_lengths() -> Lengths:
    """uint16 [20,000], as kept in the file."""
    lengths: Lengths = np.load(FILE)
    return lengths


def counted(data: Path, papers: int = PAPERS) -> Lengths:
    """uint16 [papers]: tokens of the first papers of `arxiv_100k.jsonl.gz` in the folder `data`."""
    from tokenizers import Tokenizer

    from arxiv_embed.encoding.model import resolve_model
    from arxiv_embed.metadata.paper import fold
    from arxiv_embed.settings import DEFAULT_MODEL

    tokenizer = Tokenizer.from_file(str(resolve_model(DEFAULT_MODEL).folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with gzip.open(data / "arxiv_100k.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in islice(lines, papers)]
    texts = [f"{fold(record['title'])}\n\n{fold(record['abstract'])}" for record in records]
    return np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(texts)], np.uint16)


if __name__ == "__main__":
    from bench.data import real_data

    np.save(FILE, counted(real_data()))
