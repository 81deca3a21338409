"""Parity: vectors of real papers against sentence-transformers' own, and against late chunking written out plainly."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.outcomes import EncodedPaper
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.metadata.paper import fold

PAPERS = 200
CHUNKED_PAPERS = 24
FILES = resolve_model("all-MiniLM-L6-v2")
LIMIT, CHUNK_LIMIT = FILES.advised_tokens, FILES.position_limit


@pytest.fixture(scope="module")
def texts(real_data: Path) -> list[str]:
    """Papers of many years, and the longest of their neighbours, which the limit cuts."""
    with gzip.open(real_data / "arxiv_100k.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in islice(file, 0, 20_000, 50)]
    read = [f"{fold(record['title'])}\n\n{fold(record['abstract'])}" for record in records]
    longest = sorted(read, key=len)[-4:]
    return [*longest, *read[:: len(read) // PAPERS]][:PAPERS]


@pytest.fixture(scope="module")
def sentence_transformers_vectors(texts: list[str]) -> np.ndarray:
    model = SentenceTransformer(str(FILES.folder), device="cpu", local_files_only=True)
    model.max_seq_length = LIMIT
    return np.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False))


def encoded(texts: list[str], chunker: str, dtype: str, limit: int = LIMIT) -> list[EncodedPaper]:
    with Pool(FILES, space_of(FILES, chunker, limit), parse_devices("cpu:2"), dtype=dtype) as pool:
        return sorted(pool.encode(texts), key=lambda paper: paper.index)


def least_cosine(papers: list[EncodedPaper], expected: np.ndarray) -> float:
    return float((np.stack([paper.vectors[0] for paper in papers]) * expected).sum(1).min())


def test_paper_vectors_are_those_of_sentence_transformers_in_float32(
    texts: list[str], sentence_transformers_vectors: np.ndarray
) -> None:
    papers = encoded(texts, "sentences:128", "float32")
    assert len(papers) == PAPERS
    assert any(paper.cut_tokens for paper in papers), "no paper was as long as the limit"
    assert least_cosine(papers, sentence_transformers_vectors) >= 0.99999


def test_paper_vectors_are_those_of_sentence_transformers_in_bfloat16(
    texts: list[str], sentence_transformers_vectors: np.ndarray
) -> None:
    assert least_cosine(encoded(texts, "sentences:128", "bfloat16"), sentence_transformers_vectors) >= 0.999


def late_chunks(model: torch.nn.Module, ids: list[int], size: int) -> torch.Tensor:
    """The reference: chunks of `size` tokens of the text, the first and last taking [CLS] and [SEP] in; mean; L2."""
    states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    content = len(ids) - 2
    vectors = []
    for start in range(0, content, size):
        stop = min(start + size, content)
        first = 0 if start == 0 else start + 1
        last = len(ids) if stop == content else stop + 1
        mean = states[first:last].mean(dim=0)
        vectors.append(mean / mean.norm())
    return torch.stack(vectors)


def test_fixed_chunks_are_the_reference_s(texts: list[str]) -> None:
    some = texts[:CHUNKED_PAPERS]
    model = AutoModel.from_pretrained(FILES.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(FILES.folder)
    for text, paper in zip(some, encoded(some, "fixed:64", "float32", CHUNK_LIMIT), strict=True):
        with torch.inference_mode():
            ids = tokenizer(text, truncation=True, max_length=CHUNK_LIMIT)["input_ids"]
            expected = late_chunks(model, ids, 64).numpy()
        assert len(paper.vectors) == 1 + len(expected)
        assert (paper.vectors[1:] * expected).sum(1).min() >= 0.99999
        assert paper.chunk_tokens.sum() == len(ids) == paper.tokens
