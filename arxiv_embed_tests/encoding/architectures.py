"""Tiny models of every kind that the encoder treats in its own way, and texts of very different lengths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from arxiv_embed_tests.tiny_models import bytepairs, save

POSITIONS = 400
TEXTS = [
    "star",
    "the theory of the galaxy is a model. We are in the field. ",
    "quantum field theory with the model. " * 12,
    "a",
    "in the star that is a galaxy, the field of the model. " * 3,
]

_SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
_DECODER = {**_SHAPE, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None}
_EDGES = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _SHAPE),
    "roberta, whose positions begin behind the padding": ("Roberta", _SHAPE),
    "modernbert, rotary and bidirectional, every other layer local": (
        "ModernBert",
        {**_SHAPE, **_EDGES, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
    "qwen3, causal": ("Qwen3", {**_DECODER, "head_dim": 8}),
    "mistral, causal, with a sliding window": ("Mistral", {**_DECODER, "sliding_window": 8}),
}
"""Attention of these goes through transformers' interface."""

PADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "mpnet, with a bias by distance": ("MPNet", _SHAPE),
    "gemma2, with capped scores": ("Gemma2", {**_DECODER, "head_dim": 8}),
    "bloom, causal, with a bias by distance": (
        "Bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "seq_length": POSITIONS},
    ),
    "mpt, causal, with a bias by distance": (
        "Mpt",
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": POSITIONS},
    ),
}
"""Of these not all of it does."""


def save_architecture(name: str, folder: Path, **changes: Any) -> Any:
    """Saves a tiny model; returns transformers' own."""
    kind, config = (ARCHITECTURES | PADDED)[name]
    model = getattr(transformers, f"{kind}Model")
    make: Callable[..., Any] = partial(getattr(transformers, f"{kind}Config"), **changes)
    return save(model, make, folder, bytepairs(), config)
