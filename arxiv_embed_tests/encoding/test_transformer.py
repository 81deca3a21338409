"""Models of transformers: packed = padded = one by one, and a text of any length is what one pass gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from arxiv_embed.encoding import attention, config, transformer
from arxiv_embed.encoding.batch import pack
from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer, TokenizedPaper
from arxiv_embed.encoding.transformer import TransformersEncoder
from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed_tests.encoding.architectures import ARCHITECTURES, PADDED, POSITIONS, TEXTS, save_architecture
from arxiv_embed_tests.tiny_models import save_pooling

CLOSE = 1e-5
EXACT = 1e-4
"""What windows over the key-value cache may differ from one pass."""


class Case:
    """A tiny model on disk, with the texts tokenized for it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.plain = save_architecture(name, folder)
        self.files = resolve_model(str(folder))
        self.space = space_of(self.files, "fixed:8", POSITIONS)
        self.papers = PaperTokenizer(self.files, self.space).tokenize(TEXTS)

    def encoder(self, *, pack: bool = True, dtype: torch.dtype = torch.float32) -> TransformersEncoder:
        return TransformersEncoder(self.files, self.space, "cpu", dtype, pack=pack)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("model"))


def one_by_one(encoder: TransformersEncoder, papers: list[TokenizedPaper]) -> np.ndarray:
    return np.concatenate([encoder.encode(pack([paper])) for paper in papers])


def expected(case: Case) -> np.ndarray:
    """By transformers itself: one text after the other, mean, L2."""
    vectors = []
    for paper in case.papers:
        with torch.inference_mode():
            states = case.plain(input_ids=torch.from_numpy(paper.ids)[None].long()).last_hidden_state[0]
        vectors += [torch.nn.functional.normalize(states[a:b].mean(0), dim=0) for a, b in paper.spans.tolist()]
    return torch.stack(vectors).numpy()


def test_packed_equals_padded_equals_one_by_one(case: Case) -> None:
    packed, padded = case.encoder(), case.encoder(pack=False)
    assert (packed.packed, padded.packed) == (True, False)
    together = packed.encode(pack(case.papers))
    assert np.abs(together - padded.encode(pack(case.papers))).max() < CLOSE
    assert np.abs(together - one_by_one(packed, case.papers)).max() < CLOSE
    assert np.abs(together - expected(case)).max() < CLOSE


def test_packed_bfloat16_is_near_float32(case: Case) -> None:
    exact = case.encoder().encode(pack(case.papers))
    rounded = case.encoder(dtype=torch.bfloat16).encode(pack(case.papers))
    assert (exact * rounded).sum(1).min() > 0.999


def test_a_packed_batch_computes_no_padding(case: Case) -> None:
    batch = pack(case.papers)
    assert case.encoder().computed_tokens(batch) == batch.lengths.sum() == len(batch.ids)
    assert case.encoder(pack=False).computed_tokens(batch) == len(batch.lengths) * batch.lengths.max()


def test_what_comes_before_in_a_batch_changes_nothing(case: Case) -> None:
    """As it would if positions went on from text to text, or attention looked across."""
    encoder = case.encoder()
    alone = encoder.encode(pack(case.papers[:1]))
    last = encoder.encode(pack([*reversed(case.papers)]))[-len(alone) :]
    assert np.abs(alone - last).max() < CLOSE


@pytest.mark.parametrize("name", PADDED)
def test_a_model_whose_attention_asks_for_more_is_padded(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path)
    encoder = case.encoder()
    assert not encoder.packed
    assert np.abs(encoder.encode(pack(case.papers)) - expected(case)).max() < CLOSE


@pytest.mark.parametrize("pack_it", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES | PADDED if "causal" in name])
def test_windows_over_the_cache_are_exact(
    name: str, pack_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(name, tmp_path)
    assert case.files.causal
    encoder = case.encoder(pack=pack_it)
    at_once = encoder.encode(pack(case.papers))
    sizes = []
    forward = encoder._forward

    def watched(ids: torch.Tensor, places: torch.Tensor, **others: object) -> torch.Tensor:
        sizes.append(ids.shape[1])
        return forward(ids, places, **others)

    monkeypatch.setattr(encoder, "_forward", watched)
    monkeypatch.setattr(transformer, "CACHED_WINDOW", 24)
    windowed = encoder.encode(pack(case.papers))
    assert np.abs(windowed - at_once).max() < EXACT
    assert sum(size == 24 for size in sizes) > 10


@pytest.mark.parametrize(
    ("name", "said", "says"),
    [
        ("bert", "true", "a token sees what comes after it: say causal = false"),
        ("qwen3, causal", "false", "no token sees what comes after it: say causal = true"),
    ],
)
def test_a_model_that_is_not_as_causal_as_it_is_said_to_be_is_refused(
    name: str, said: str, says: str, tmp_path: Path
) -> None:
    save_architecture(name, tmp_path)
    file = tmp_path / "m.toml"
    file.write_text(f'model = "."\ncausal = {said}\n')
    files = resolve_model(str(file))
    with pytest.raises(ArxivEmbedError, match=says):
        TransformersEncoder(files, space_of(files, "whole"), "cpu", torch.float32)


def test_a_model_that_padding_changes_is_computed_text_by_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("mpnet, with a bias by distance", tmp_path)
    kind = type(case.plain)
    forward = kind.forward

    def looks_at_padding(self: object, input_ids: torch.Tensor, **others: torch.Tensor) -> object:
        output = forward(self, input_ids=input_ids, **others)
        output.last_hidden_state = output.last_hidden_state * torch.rand(32) if len(input_ids) > 1 else output[0]
        return output

    monkeypatch.setattr(kind, "forward", looks_at_padding)
    encoder, batch = case.encoder(), pack(case.papers)
    assert np.abs(encoder.encode(batch) - expected(case)).max() < CLOSE
    assert encoder.computed_tokens(batch) == len(batch.ids)


def test_weights_of_a_layer_that_the_model_does_not_use_are_refused(tmp_path: Path) -> None:
    case = Case("roberta, whose positions begin behind the padding", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "encoder.layer.0.attention.self.distance_embedding.weight"
    save_file({**weights, name: torch.ones(3, 8)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArxivEmbedError, match="distance_embedding"):
        case.encoder()


def test_a_model_pooled_by_its_last_token_is_so(tmp_path: Path) -> None:
    plain = save_architecture("qwen3, causal", tmp_path)
    save_pooling(tmp_path, "lasttoken")
    files = resolve_model(str(tmp_path))
    space = space_of(files, "whole")
    papers = PaperTokenizer(files, space).tokenize(TEXTS)
    vectors = TransformersEncoder(files, space, "cpu", torch.float32).encode(pack(papers))
    with torch.inference_mode():
        last = [plain(input_ids=torch.from_numpy(p.ids)[None].long()).last_hidden_state[0, -1] for p in papers]
    assert (vectors[::2] * torch.nn.functional.normalize(torch.stack(last), dim=1).numpy()).sum(1).min() > 0.99999


def test_vectors_are_cut_and_of_unit_length_again(tmp_path: Path) -> None:
    case = Case("qwen3, causal", tmp_path)
    (tmp_path / "m.toml").write_text('model = "."\ndimensions = [8, 16]\n')
    files = resolve_model(str(tmp_path / "m.toml"))
    whole = case.encoder().encode(pack(case.papers))
    short = TransformersEncoder(files, space_of(files, "fixed:8", POSITIONS, dimensions=8), "cpu", torch.float32)
    cut = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert np.abs(short.encode(pack(case.papers)) - cut).max() < CLOSE


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("side", [-1, 3])
def test_attention_text_by_text_is_that_of_a_mask_over_all(causal: bool, side: int) -> None:
    lengths, heads, width = [1, 7, 12, 4], 4, 8
    tokens = sum(lengths)
    random = torch.Generator().manual_seed(3)
    queries = torch.randn(tokens, heads, width, generator=random)
    keys, values = (torch.randn(tokens, heads // 2, width, generator=random) for _ in range(2))
    with attention.packed(lengths, torch.device("cpu")) as packing:
        attended = attention.varlen_reference(queries, keys, values, packing, 0.3, causal, side)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    mask = owner[:, None] == owner[None, :]
    if causal:
        mask &= distance >= 0
    if side >= 0:
        mask &= distance.abs() <= side
    q, k, v = (x.transpose(0, 1) for x in (queries, keys.repeat_interleave(2, 1), values.repeat_interleave(2, 1)))
    scores = (0.3 * q @ k.transpose(1, 2)).masked_fill(~mask, -torch.inf)
    assert torch.allclose(attended, (scores.softmax(-1) @ v).transpose(0, 1), atol=1e-6)


def test_memory_of_long_texts_counts_the_cache() -> None:
    """Of Jina v4: 36 layers, keys and values of 2 heads of 128, two bytes each."""
    jina = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2, "num_hidden_layers": 36}
    assert config.cache_bytes(jina, itemsize=2) == 36 * 2 * 2 * 128 * 2


def test_memory_is_planned_for_the_cache_where_texts_may_need_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = Case("qwen3, causal", tmp_path)
    monkeypatch.setattr(config, "cache_bytes", lambda *_: 1e9)
    assert case.encoder().memory_law[0] < 1e9
    monkeypatch.setattr(transformer, "CACHED_WINDOW", POSITIONS - 1)
    assert case.encoder().memory_law[0] > 1e9
