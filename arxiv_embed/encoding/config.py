"""Configurations: what a model's config.json says of its shape, whatever its architecture calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTH_KEYS = ("hidden_size", "dim", "d_model", "n_embd", "n_embed")
INNER_KEYS = ("intermediate_size", "hidden_dim", "d_ff", "n_inner")
LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
LAYER_KEYS = ("num_hidden_layers", "n_layers", "n_layer")
USUAL_POSITIONS = 512

CHANGING_ROTARY = ("dynamic", "longrope", "su")
"""Kinds of rotary positions that a longer text changes for those beside it too."""

OFFSET_POSITIONS = frozenset(
    {
        "camembert",
        "data2vec-text",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
    }
)
"""Architectures whose positions are counted from behind the padding token's id."""

CAUSAL = frozenset(
    {
        "bloom",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "mpt",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_5_vl",
        "qwen2_5_vl_text",
        "qwen3",
        "smollm3",
    }
)
"""Architectures in which a token sees only what comes before it, unless their configuration says otherwise."""

ENCODER_DECODERS = frozenset({"longt5", "mt5", "t5", "umt5"})
"""Architectures of an encoder and a decoder, also where a configuration is of the encoder alone."""

Config = Mapping[str, Any]


def text_config(config: Config) -> Config:
    """The part about text, where a model has others."""
    inner = config.get("text_config")
    return {**inner, "model_type": inner.get("model_type", config.get("model_type"))} if inner else config


def width(config: Config) -> int | None:
    """The width of a token's state; None where the configuration does not say."""
    return next((int(config[key]) for key in WIDTH_KEYS if config.get(key)), None)


def position_offset(config: Config) -> int:
    """The number of the first token's position."""
    if config.get("model_type") not in OFFSET_POSITIONS:
        return 0
    padding = config.get("pad_token_id")
    return 2 if padding is None else int(padding) + 1


def position_limit(config: Config) -> int:
    """How many tokens of a text the model has positions for; with rotary positions that change with the length of what
    is computed together, as many as leave them unchanged."""
    limit = next((int(config[key]) for key in LENGTH_KEYS if config.get(key)), USUAL_POSITIONS)
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rotary.get("rope_type", rotary.get("type")) in CHANGING_ROTARY:
        original = rotary.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        limit = min(limit, int(original or limit))
    return limit - position_offset(config)


def is_causal(config: Config) -> bool:
    """Whether a token sees only what comes before it."""
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        return False
    return config.get("model_type") in CAUSAL or bool(config.get("is_decoder"))


def has_encoder_and_decoder(config: Config) -> bool:
    """Whether a model consists of both, whose token states are then the decoder's."""
    return bool(config.get("is_encoder_decoder")) or config.get("model_type") in ENCODER_DECODERS


def activation_bytes(config: Config, itemsize: int) -> tuple[float, float]:
    """What a forward pass without gradients holds at once, by a model's configuration.

    Bytes a computed token (the larger of a layer's two halves: residual, queries, keys, values and output; or residual,
    norm and three arrays of the MLP's width), and bytes a token for pooling in float32.
    """
    states = width(config) or 0
    inner = next((config[key] for key in INNER_KEYS if config.get(key)), 4 * states)
    return itemsize * max(5 * states, 2 * states + 3 * inner), 2 * 4 * states


def cache_bytes(config: Config, itemsize: int) -> float:
    """What a causal model's keys and values of all layers take for a token."""
    states, heads = width(config) or 0, int(config.get("num_attention_heads") or 1)
    of_a_head = int(config.get("head_dim") or states // heads)
    layers = next((int(config[key]) for key in LAYER_KEYS if config.get(key)), 1)
    return float(itemsize * 2 * layers * int(config.get("num_key_value_heads") or heads) * of_a_head)
