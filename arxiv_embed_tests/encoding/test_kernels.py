"""Kernels: compiled once and kept, wherever they can be kept, by however many processes begin at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from arxiv_embed.encoding import kernels
from arxiv_embed.encoding.bert import elements

CALL = """
import numpy as np
from numba.core import caching
{before}
from arxiv_embed.encoding import kernels
vectors = np.empty((1, 4), np.float32)
kernels.pool_spans(np.full((2, 4), 0x3F80, np.int16), np.array([[0, 2]]), vectors)
print(vectors.tolist(), sum(kernels.pool_spans.stats.cache_hits.values()))
"""
NOWHERE = "caching.CacheImpl._locator_classes = []  # as where neither the package nor the home can be written"

both_types = pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])


def start(cache: Path, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CALL.format(before=before)],
        env={"NUMBA_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_begin_at_once_share_one_cache(tmp_path: Path) -> None:
    first = [start(tmp_path) for _ in range(2)]
    assert [process.communicate()[0][:22] for process in first] == ["[[0.5, 0.5, 0.5, 0.5]]"] * 2
    assert [process.returncode for process in first] == [0, 0]
    assert start(tmp_path).communicate()[0] == "[[0.5, 0.5, 0.5, 0.5]] 1\n"


def test_kernels_work_where_nothing_can_be_kept(tmp_path: Path) -> None:
    assert start(tmp_path, NOWHERE).communicate()[0] == "[[0.5, 0.5, 0.5, 0.5]] 0\n"
    assert not list(tmp_path.iterdir())


@both_types
def test_adding_and_normalizing_is_torch_s_layer_norm(dtype: torch.dtype, relative: float) -> None:
    torch.manual_seed(0)
    hidden, delta = torch.randn(5, 40).to(dtype), torch.randn(5, 40).to(dtype)
    weight, bias = torch.randn(40), torch.randn(40)
    expected = torch.nn.functional.layer_norm(hidden.float() + delta.float(), (40,), weight, bias, 1e-12)
    kernels.add_and_normalize(elements(delta), elements(hidden), weight.numpy(), bias.numpy(), 1e-12)
    assert torch.allclose(hidden.float(), expected, rtol=relative, atol=2**-12 if dtype == torch.bfloat16 else 1e-6)


@both_types
def test_attention_weights_are_a_softmax_and_nothing_behind_a_sequence_s_end(
    dtype: torch.dtype, relative: float
) -> None:
    torch.manual_seed(1)
    logits = (8 * torch.randn(2, 16, 16)).to(dtype)
    logits[:, :, 5:] = float("nan")  # what was left in memory
    expected = torch.softmax(logits[:, :5, :5].float() * np.log(2), dim=2)
    sums = np.empty((2, 16), np.float32)
    kernels.exponentiate(elements(logits), 0, 2, np.array([5]), sums)
    weights = logits.float()[:, :5] / torch.from_numpy(sums)[:, :5, None]
    assert torch.allclose(weights[:, :, :5], expected, atol=relative)
    assert (weights[:, :, 5:] == 0).all()


@both_types
def test_heads_are_split_and_merged_back(dtype: torch.dtype, relative: float) -> None:
    del relative  # nothing is rounded
    torch.manual_seed(2)
    lengths, starts = np.array([3, 1]), np.array([0, 3])
    qkv = torch.randn(4, 3 * 2 * 4).to(dtype)
    queries, keys, values = (torch.full((4, 16, 4), float("nan"), dtype=dtype) for _ in range(3))
    kernels.split_heads(elements(qkv), starts, lengths, elements(queries), elements(keys), elements(values))
    assert (values[:2, 3:] == 0).all()
    assert (values[2:, 1:] == 0).all()
    merged = torch.empty(4, 8, dtype=dtype)
    for place, heads in enumerate((queries, keys, values)):
        kernels.merge_heads(elements(heads), np.ones((4, 16), np.float32), starts, lengths, elements(merged))
        assert torch.equal(merged, qkv[:, place * 8 : place * 8 + 8])
