"""Encoders: vectors equal to plain transformers', whole weights or none, and late chunking's mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from arxiv_embed.encoding import encoder
from arxiv_embed.encoding.batch import pack
from arxiv_embed.encoding.encoder import TextEncoder, TransformersEncoder, choose_dtype, load_encoder
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.tiny_models import bytepairs, save_bert, save_distilbert, save_pooling

TEXTS = ["The star is a galaxy. A field of stars.", "", "quantum theory " * 40, "In the model we trust. " * 3, "x"]
LIMIT = 64


def states_of(model: Any, tokenizer: Tokenizer, text: str, limit: int = LIMIT) -> torch.Tensor:
    """One text's last hidden states [tokens, width], by transformers alone."""
    tokenizer.enable_truncation(limit)
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]


def paper_vectors(folder: Path, dtype: str) -> np.ndarray:
    files = resolve_model(str(folder))
    space = space_of(files, "fixed:8", LIMIT)
    papers = PaperTokenizer(files, space).tokenize(TEXTS)
    vectors = load_encoder(files, space, "cpu", dtype).encode(pack(papers))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    return vectors[np.cumsum([0, *(len(paper.spans) for paper in papers[:-1])])]


def loaded(folder: Path, dtype: str) -> encoder.Encoder:
    files = resolve_model(str(folder))
    return load_encoder(files, space_of(files, "whole"), "cpu", dtype)


@pytest.mark.parametrize(("dtype", "cosine"), [("float32", 0.99999), ("bfloat16", 0.999)])
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
@pytest.mark.parametrize("save", [save_bert, save_distilbert])
def test_a_local_model_gives_transformers_own_vectors(
    tmp_path: Path, save: Any, pooling: str, dtype: str, cosine: float
) -> None:
    model = save(tmp_path)
    save_pooling(tmp_path, pooling)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pool = {"mean_tokens": lambda s: s.mean(0), "cls_token": lambda s: s[0], "lasttoken": lambda s: s[-1]}[pooling]
    expected = torch.stack([pool(states_of(model, tokenizer, text)) for text in TEXTS])
    expected = torch.nn.functional.normalize(expected, dim=1).numpy()
    assert ((paper_vectors(tmp_path, dtype) * expected).sum(1) > cosine).all()
    assert expected[0] @ expected[2] < 0.99  # two texts' vectors differ by more than the tolerance


def test_a_tokenizer_without_special_tokens_embeds_any_text(tmp_path: Path) -> None:
    save_bert(tmp_path, bytepairs())
    assert paper_vectors(tmp_path, "float32").shape == (len(TEXTS), 32)
    assert paper_vectors(tmp_path, "bfloat16").shape == (len(TEXTS), 32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_whole_are_refused_and_never_filled_with_chance(tmp_path: Path, dtype: str) -> None:
    save_bert(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArxivEmbedError, match=r"lack encoder\.layer\.1\.output\.dense\.weight"):
        loaded(tmp_path, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_missing_pooler_matters_nothing(tmp_path: Path, dtype: str) -> None:
    save_bert(tmp_path)
    before = paper_vectors(tmp_path, dtype)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert np.array_equal(paper_vectors(tmp_path, dtype), before)


def test_queries_are_encoded_with_the_query_prompt(tmp_path: Path) -> None:
    model = save_bert(tmp_path)
    files = replace(resolve_model(str(tmp_path)), prompts={"query": "the query: "})
    queries = TextEncoder(files, space_of(files, "sentences:5", LIMIT), dtype="float32").encode_queries(
        ["star", "a. B " * 30]
    )
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for query, text in zip(queries, ["the query: star", "the query: " + "a. B " * 30], strict=True):
        expected = states_of(model, tokenizer, text).mean(0)
        assert query @ torch.nn.functional.normalize(expected, dim=0).numpy() > 0.99999


def test_no_queries_have_no_vectors(tmp_path: Path) -> None:
    save_bert(tmp_path)
    files = resolve_model(str(tmp_path))
    assert TextEncoder(files, space_of(files, "whole")).encode_queries([]).shape == (0, 32)


@pytest.mark.parametrize(
    ("capabilities", "bfloat16_seconds", "dtype"),
    [
        ({"avx512_bf16": True}, 0.5, "bfloat16"),
        ({"bf16": True}, 0.5, "bfloat16"),
        ({"avx512_bf16": True}, 2.0, "float32"),
        ({"avx2": True, "bf16": False}, 0.5, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_cpu_has_it_and_is_the_faster_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], bfloat16_seconds: float, dtype: str
) -> None:
    seconds = {torch.float32: 1.0, torch.bfloat16: bfloat16_seconds}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(encoder, "_product_seconds", seconds.__getitem__)
    assert choose_dtype("auto", "cpu") == dtype
    assert choose_dtype("float32", "cpu") == "float32"
    assert choose_dtype("bfloat16", "cpu") == "bfloat16"


@pytest.mark.parametrize(("device", "dtype"), [("cuda:0", "float32"), ("cuda:1", "bfloat16")])
def test_auto_is_float32_on_a_gpu_that_only_emulates_bfloat16(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: str
) -> None:
    computes_in_it = {"cuda:0": False, "cuda:1": True}
    asked = ["cuda:0"]

    @contextmanager
    def current(name: str) -> Iterator[None]:
        asked.append(name)
        yield
        asked.pop()

    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or computes_in_it[asked[-1]],
    )
    assert choose_dtype("auto", device) == dtype
    assert choose_dtype("bfloat16", device) == "bfloat16"


def test_bfloat16_may_be_asked_of_a_cpu_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_bert(tmp_path)
    expected = paper_vectors(tmp_path, "float32")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert isinstance(loaded(tmp_path, "bfloat16"), TransformersEncoder)
    assert ((paper_vectors(tmp_path, "bfloat16") * expected).sum(1) > 0.999).all()


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ArxivEmbedError, match="Unknown --dtype 'float16'"):
        choose_dtype("float16", "cpu")
