"""The packed BERT: equal to transformers' own for every length and every mixture of lengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.bert import PackedBert
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed_tests.tiny_models import save_bert, save_pooling

VOCABULARY = 100
LEAST_COSINE = {torch.float32: 0.999999, torch.bfloat16: 0.999}
NEEDS_BFLOAT16 = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="this CPU has no bfloat16"
)


@pytest.fixture(
    scope="module",
    params=[torch.float32, pytest.param(torch.bfloat16, marks=NEEDS_BFLOAT16)],
    ids=["float32", "bfloat16"],
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save_bert(folder, max_position_embeddings=513, num_attention_heads=3, hidden_size=48)
    return folder


@pytest.fixture(scope="module")
def packed(folder: Path, dtype: torch.dtype) -> PackedBert:
    return packed_bert(folder, dtype)


def packed_bert(folder: Path, dtype: torch.dtype) -> PackedBert:
    files = resolve_model(str(folder))
    return PackedBert(files, space_of(files, "whole", files.position_limit), dtype)


@pytest.fixture(scope="module")
def plain(folder: Path) -> BertModel:
    model: BertModel = BertModel.from_pretrained(folder).eval()
    return model


def batch_of(lengths: Sequence[int]) -> TokenBatch:
    """Random tokens; each text's whole and its two halves are spans."""
    random = np.random.default_rng(sum(lengths))
    papers = []
    for index, length in enumerate(lengths):
        ids = random.integers(0, VOCABULARY, length).astype(np.int32)
        spans = np.array([[0, length], [0, (length + 1) // 2], [length // 2, length]], np.int32)
        papers.append(TokenizedPaper(index, ids, spans, spans[1:], 0))
    return pack(papers)


def expected_vectors(model: BertModel, batch: TokenBatch) -> torch.Tensor:
    """Padded, by transformers."""
    width = int(batch.lengths.max())
    ids = torch.zeros(len(batch.lengths), width, dtype=torch.long)
    mask = torch.arange(width)[None] < torch.from_numpy(batch.lengths)[:, None]
    ids[mask] = torch.from_numpy(batch.ids).long()
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask].float()
    return torch.nn.functional.normalize(torch.stack([states[a:b].mean(0) for a, b in batch.spans.tolist()]), dim=1)


@pytest.mark.parametrize(
    "lengths",
    [[1], [2], [15], [16], [17], [511], [512], [513], [1, 1, 1], [513, 1], [40, 3, 40, 17, 16, 16, 200], [7] * 50],
    ids=str,
)
def test_packed_equals_padded_for_any_mixture_of_lengths(
    packed: PackedBert, plain: BertModel, lengths: list[int], dtype: torch.dtype
) -> None:
    batch = batch_of(lengths)
    vectors = torch.from_numpy(packed.encode(batch))
    assert ((vectors * expected_vectors(plain, batch)).sum(1) > LEAST_COSINE[dtype]).all()
    assert packed.computed_tokens(batch) - len(batch.ids) in range(16)


def test_a_text_s_vectors_do_not_depend_on_what_was_computed_before_or_beside_it(packed: PackedBert) -> None:
    alone = packed.encode(batch_of([60]))
    packed.encode(batch_of([513, 300, 60]))
    assert np.array_equal(packed.encode(batch_of([60])), alone)
    together = pack_two(batch_of([60]), batch_of([130]))
    assert ((packed.encode(together)[:3] * alone).sum(1) > 0.9999).all()


def pack_two(one: TokenBatch, other: TokenBatch) -> TokenBatch:
    return TokenBatch(
        ids=np.concatenate([one.ids, other.ids]),
        lengths=np.concatenate([one.lengths, other.lengths]),
        spans=np.concatenate([one.spans, other.spans + len(one.ids)]).astype(np.int32),
    )


def test_an_empty_batch_has_no_vectors(packed: PackedBert) -> None:
    assert packed.encode(pack([])).shape == (0, 48)


def test_the_older_names_of_weights_are_understood(
    folder: Path, packed: PackedBert, tmp_path: Path, dtype: torch.dtype
) -> None:
    """As in google-bert/bert-base-uncased."""
    weights = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_pooling(tmp_path, "mean_tokens")
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    batch = batch_of([30, 9])
    assert np.array_equal(packed_bert(tmp_path, dtype).encode(batch), packed.encode(batch))


@pytest.mark.parametrize(
    ("change", "fits"),
    [({}, True), ({"hidden_act": "relu"}, False), ({"is_decoder": True}, False), ({"model_type": "roberta"}, False)],
)
def test_only_a_bert_as_it_is_written_here_fits(tmp_path: Path, change: dict[str, object], fits: bool) -> None:
    kind = change.pop("model_type", None)
    save_bert(tmp_path, **change)
    if kind is not None:
        config = (tmp_path / "config.json").read_text()
        (tmp_path / "config.json").write_text(config.replace('"model_type": "bert"', f'"model_type": "{kind}"'))
    assert PackedBert.fits(resolve_model(str(tmp_path))) is fits
