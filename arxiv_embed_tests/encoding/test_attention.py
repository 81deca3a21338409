"""The reference of packed attention: text by text, exactly, and never with a mask of a whole long text."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from arxiv_embed.encoding import attention


def seen(queries: int, keys: int, causal: bool, side: int) -> Tensor:
    """Which key each query sees, [queries, keys]."""
    distance = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)[None, :]
    mask = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return mask & (distance.abs() <= side) if side >= 0 else mask


def attended(lengths: list[int], keys: int, causal: bool, side: int) -> tuple[Tensor, Tensor]:
    """What the reference gives for texts of these lengths, and what one product over all keys gives for each."""
    tokens = sum(lengths)
    q, k, v = (
        torch.randn(count, heads, 8, generator=torch.Generator().manual_seed(0))
        for count, heads in ((tokens, 4), (keys, 2), (keys, 2))
    )
    with attention.packed(lengths, torch.device("cpu")) as packing:
        given = attention.varlen_reference(q, k, v, packing, None, causal, side)
    edges = itertools.pairwise(itertools.accumulate([0, *lengths]))
    parts = []
    for start, stop in edges:
        mine = slice(start, stop) if keys == tokens else slice(None)
        whole = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q[start:stop], k[mine], v[mine])),
            seen(stop - start, len(k[mine]), causal, side),
            enable_gqa=True,
        )
        parts.append(whole[0].transpose(0, 1))
    return given, torch.cat(parts)


@pytest.mark.parametrize(
    ("lengths", "keys", "causal", "side"),
    [
        ([3, 40, 17], 60, False, -1),
        ([3, 40, 17], 60, True, -1),
        ([3, 40, 17], 60, True, 4),
        ([3, 40, 17], 60, False, 9),
        ([20], 60, True, -1),
        ([20], 60, True, 13),
        ([20], 60, False, -1),
    ],
)
def test_queries_taken_in_blocks_attend_as_all_at_once(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], keys: int, causal: bool, side: int
) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", 7)
    given, expected = attended(lengths, keys, causal, side)
    assert torch.allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize(("side", "keys_seen"), [(-1, 6000), (100, 100 + attention.QUERY_BLOCK)])
def test_no_mask_grows_with_the_square_of_a_long_text(
    monkeypatch: pytest.MonkeyPatch, side: int, keys_seen: int
) -> None:
    masks: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def noting(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **others: Any) -> Tensor:
        masks.append(mask.numel())
        return plain(q, k, v, mask, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noting)
    queries, keys = torch.zeros(3000, 2, 8), torch.zeros(6000, 2, 8)
    with attention.packed([3000], torch.device("cpu")) as packing:
        attention.varlen_reference(queries, keys, keys, packing, None, True, side)
    assert 0 < max(masks) <= attention.QUERY_BLOCK * keys_seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("lengths", "keys", "causal", "side"),
    [([3, 40, 17], 60, False, -1), ([3, 40, 17], 60, True, 8), ([20], 60, True, -1), ([20], 60, True, 8)],
)
def test_the_kernel_gives_what_the_reference_gives(lengths: list[int], keys: int, causal: bool, side: int) -> None:
    q, k, v = (
        torch.randn(count, heads, 64, device="cuda", dtype=torch.bfloat16)
        for count, heads in ((sum(lengths), 4), (keys, 2), (keys, 2))
    )
    with attention.packed(lengths, torch.device("cuda")) as packing:
        ours = attention._varlen(q, k, v, packing, None, causal, side)
        expected = attention.varlen_reference(q, k, v, packing, None, causal, side)
    assert torch.allclose(ours.float(), expected.float(), atol=0.02)
