"""Packed attention for transformers' models: texts lie one behind the other, without padding, and none sees another.

It is registered with transformers under a name of its own, and so serves every model whose attention goes through that
interface. On CUDA it is `torch.nn.attention.varlen` (flash attention over variable lengths); elsewhere the same is
computed text by text, which is what the kernel is held against in tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

NAME = "arxiv_embed_packed"

QUERY_BLOCK = 512
"""Queries of a long text that the reference takes at a time."""


@dataclass
class Packing:
    """Texts of a batch by where they start, and where the last ends; int32 on the device for the kernel."""

    edges: list[int]
    starts: Tensor
    longest: int
    attended: bool = False
    """Whether attention was computed among these texts."""


_packing: ContextVar[Packing] = ContextVar("packing")


class NotPacked(Exception):
    """This model asks something of attention that is not computed here."""


@contextmanager
def packed(lengths: list[int], device: torch.device) -> Iterator[Packing]:
    """Inside, a model's attention is among the texts of these lengths; the packing says whether any was computed."""
    edges = [0]
    for length in lengths:
        edges.append(edges[-1] + length)
    packing = Packing(edges, torch.tensor(edges, dtype=torch.int32, device=device), max(lengths))
    token = _packing.set(packing)
    try:
        yield packing
    finally:
        _packing.reset(token)


def register() -> None:
    """Makes `NAME` known to transformers."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*_: Any, **__: Any) -> None:
    """Which tokens may see which follows from the packing."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: `query` [1, heads, tokens, width]; keys and values may have fewer heads. With a
    key-value cache there are more keys than queries, and all are of one text. Gives [1, tokens, heads, width].

    Raises `NotPacked` for what is not computed here.
    """
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if unknown or attention_mask is not None or len(query) != 1:
        raise NotPacked(", ".join(unknown) or "a mask")
    packing = _packing.get()
    packing.attended = True
    causal = module.is_causal if is_causal is None else is_causal
    # As transformers hands it to flash attention: so many tokens to either side, the token itself among them.
    side = -1 if sliding_window is None else sliding_window - 1
    # [tokens, heads, width]
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    attention = _varlen if query.is_cuda else varlen_reference
    return attention(queries, keys, values, packing, scaling, bool(causal), side)[None], None


def _varlen(
    queries: Tensor, keys: Tensor, values: Tensor, packing: Packing, scale: float | None, causal: bool, side: int
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = packing.starts, packing.longest
    if len(keys) != len(queries):
        starts, longest = torch.tensor([0, len(keys)], dtype=torch.int32, device=keys.device), len(keys)
    attended = varlen_attn(
        queries.contiguous(),
        keys.contiguous(),
        values.contiguous(),
        packing.starts,
        starts,
        packing.longest,
        longest,
        scale=scale,
        window_size=(side, 0 if causal else side),
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended


def varlen_reference(
    queries: Tensor, keys: Tensor, values: Tensor, packing: Packing, scale: float | None, causal: bool, side: int
) -> Tensor:
    """The same, text by text."""
    parts = []
    for start, stop in pairwise(packing.edges):
        first, last = (start, stop) if len(keys) == len(queries) else (0, len(keys))
        q, k, v = (x.transpose(0, 1)[None] for x in (queries[start:stop], keys[first:last], values[first:last]))
        attended = _text_attended(q, k, v, scale, causal, side)
        parts.append(attended[0].transpose(0, 1))
    return torch.cat(parts)


def _text_attended(q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool, side: int) -> Tensor:
    """Attention of one text's queries, the last of its keys' tokens. Where a mask is needed they are taken a block at a
    time, each with the keys that it sees: a mask of long texts would be larger than all else."""
    attention, grouped = torch.nn.functional.scaled_dot_product_attention, q.shape[1] != k.shape[1]
    tokens, before = q.shape[2], k.shape[2] - q.shape[2]
    if not before and not 0 <= side < tokens:
        return attention(q, k, v, scale=scale, is_causal=causal, enable_gqa=grouped)
    parts = []
    for start in range(0, tokens, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, tokens)
        first = max(0, before + start - side) if side >= 0 else 0
        last = before + stop if causal else min(k.shape[2], before + stop + side) if side >= 0 else k.shape[2]
        places = torch.arange(before + start, before + stop, device=q.device, dtype=torch.int32)
        behind = places[:, None] - torch.arange(first, last, device=q.device, dtype=torch.int32)[None, :]
        mask = behind >= 0 if causal else torch.ones_like(behind, dtype=torch.bool)
        if side >= 0:
            mask &= behind.abs() <= side
        seen = k[:, :, first:last], v[:, :, first:last]
        parts.append(attention(q[:, :, start:stop], *seen, mask, scale=scale, enable_gqa=grouped))
    return torch.cat(parts, dim=2)
