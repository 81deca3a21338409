"""A BERT for CPUs: weights laid out for the matrix unit once, no padding, softmax and norms fused.

It computes in bfloat16 or float32, whichever the CPU multiplies faster. Matrix products are oneDNN's, over all tokens
of a batch at once. Attention works on a few heads at a time, so that their weights stay in the core's own cache.
Measured against transformers in bench/embed.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from arxiv_embed.encoding import kernels
from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.encoding.config import activation_bytes
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.recipe import weight_files
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.windows import cut_into_windows
from arxiv_embed.errors import ArxivEmbedError

ROWS = 16
"""Token counts are rounded up to this, and attention's width too: oneDNN builds a kernel for every new shape."""
CACHED_BYTES = 3 << 19
"""Attention weights in work at once: what a core's second-level cache about holds."""


@dataclass(frozen=True)
class Linear:
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor, activation: str = "none") -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, activation, [], "none")
        return result


@dataclass(frozen=True)
class Norm:
    weight: kernels.Floats
    bias: kernels.Floats
    epsilon: float

    def add(self, delta: Tensor, hidden: Tensor) -> None:
        """hidden ← LayerNorm(hidden + delta)"""
        kernels.add_and_normalize(elements(delta), elements(hidden), self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class Layer:
    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm


class _Weights:
    """A model's weights by name, in float32, whatever a BERT's files call them."""

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self._tensors: dict[str, Tensor] = {}
        for path in weight_files(files.folder):
            for name, value in load_file(path).items():
                name = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
                self._tensors[name.replace("LayerNorm.beta", "LayerNorm.bias")] = value.float()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise ArxivEmbedError(
                f"The weights of model '{self._files.name}' lack {name} in {self._files.folder}: fetch it again."
            )
        return self._tensors[name]


class PackedBert:
    """`encode` turns a packed batch into unit vectors, one a span, in float32."""

    packed = True

    def __init__(self, files: ModelFiles, space: Space, dtype: torch.dtype) -> None:
        config = json.loads((files.folder / "config.json").read_bytes())
        self.dimensions = space.dimensions
        self._window, self._overlap = space.window, space.overlap
        # Packed, and attention takes a few heads at a time: nothing grows with the longest paper.
        self.memory_law = (activation_bytes(config, dtype.itemsize)[0], 0.0, 0.0)
        self._dtype = dtype
        self._memory: dict[str, Tensor] = {}
        self._heads: int = config["num_attention_heads"]
        self._head_width: int = config["hidden_size"] // self._heads
        self._epsilon: float = config.get("layer_norm_eps", 1e-12)
        weights = _Weights(files)
        self._words = weights["embeddings.word_embeddings.weight"].to(dtype)
        self._positions = (
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        ).to(dtype)
        self._embedding_norm = self._norm(weights, "embeddings.LayerNorm")
        self._layers = [
            self._layer(weights, f"encoder.layer.{number}.") for number in range(config["num_hidden_layers"])
        ]

    def _scratch(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Memory kept from batch to batch: fresh pages cost more than the arithmetic done in them."""
        size = math.prod(shape)
        kept = self._memory.get(name)
        if kept is None or len(kept) < size:
            kept = self._memory[name] = torch.zeros(size, dtype=self._dtype)
        return kept[:size].view(shape)

    @staticmethod
    def fits(files: ModelFiles) -> bool:
        """Whether this model is a BERT as written here: absolute positions and GELU."""
        config = json.loads((files.folder / "config.json").read_bytes())
        return (
            not files.remote_code
            and config.get("model_type") == "bert"
            and config.get("position_embedding_type", "absolute") == "absolute"
            and config.get("hidden_act") == "gelu"
            and not config.get("is_decoder", False)
        )

    def _norm(self, weights: _Weights, name: str) -> Norm:
        return Norm(weights[name + ".weight"].numpy(), weights[name + ".bias"].numpy(), self._epsilon)

    def _layer(self, weights: _Weights, prefix: str) -> Layer:
        def linear(name: str) -> Linear:
            return _packed(weights[prefix + name + ".weight"], weights[prefix + name + ".bias"], self._dtype)

        # Queries are scaled here once, by log2(e) too: the softmax kernel then takes powers of two.
        scale = math.log2(math.e) / math.sqrt(self._head_width)
        parts = [prefix + f"attention.self.{name}" for name in ("query", "key", "value")]
        factors = (scale, 1.0, 1.0)
        return Layer(
            qkv=_packed(
                torch.cat([weights[p + ".weight"] * f for p, f in zip(parts, factors, strict=True)]),
                torch.cat([weights[p + ".bias"] * f for p, f in zip(parts, factors, strict=True)]),
                self._dtype,
            ),
            out=linear("attention.output.dense"),
            attention_norm=self._norm(weights, prefix + "attention.output.LayerNorm"),
            up=linear("intermediate.dense"),
            down=linear("output.dense"),
            output_norm=self._norm(weights, prefix + "output.LayerNorm"),
        )

    @torch.inference_mode()
    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Unit vectors [spans, dimensions] of the batch's spans."""
        windows, kept = cut_into_windows(batch, self._window, self._overlap)
        lengths = windows.lengths.astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        hidden = self._embedded(windows.ids, lengths, starts)
        groups = _groups(lengths, starts)
        for layer in self._layers:
            attended = self._attend(layer.qkv(hidden), groups)
            layer.attention_norm.add(layer.out(attended), hidden)
            layer.output_norm.add(layer.down(layer.up(hidden, "gelu")), hidden)
        if kept is not None:
            hidden = hidden[torch.from_numpy(kept)]
        vectors = np.empty((len(batch.spans), self.dimensions), np.float32)
        kernels.pool_spans(elements(hidden), batch.spans.astype(np.int64), vectors)
        return vectors

    def computed_tokens(self, batch: TokenBatch) -> int:
        return _rounded(int(cut_into_windows(batch, self._window, self._overlap)[0].lengths.sum()))

    def _embedded(self, ids: npt.NDArray[np.int32], lengths: kernels.Ints, starts: kernels.Ints) -> Tensor:
        rows = _rounded(len(ids))
        tokens = np.zeros(rows, np.int64)
        tokens[: len(ids)] = ids
        places = np.zeros(rows, np.int64)
        places[: len(ids)] = np.arange(len(ids)) - np.repeat(starts, lengths)
        hidden = self._words[torch.from_numpy(tokens)]
        self._embedding_norm.add(self._positions[torch.from_numpy(places)], hidden)
        return hidden

    def _attend(self, qkv: Tensor, groups: list[Group]) -> Tensor:
        heads, d = self._heads, self._head_width
        packed = self._scratch("packed", (len(qkv), heads * d))
        for group in groups:
            blocks, width = len(group.lengths) * heads, group.width
            queries, keys, values, attended = self._scratch("heads", (4, blocks, width, d))
            sums = np.empty((blocks, width), np.float32)
            kernels.split_heads(
                elements(qkv), group.starts, group.lengths, elements(queries), elements(keys), elements(values)
            )
            for part in _parts(blocks, heads, CACHED_BYTES // (self._dtype.itemsize * width * width)):
                logits = self._scratch("weights", (part.stop - part.start, width, width))
                torch.bmm(queries[part], keys[part].transpose(1, 2), out=logits)
                kernels.exponentiate(elements(logits), part.start, heads, group.lengths, sums)
                torch.bmm(logits, values[part], out=attended[part])
            kernels.merge_heads(elements(attended), sums, group.starts, group.lengths, elements(packed))
        return packed


@dataclass(frozen=True)
class Group:
    """Neighbouring sequences of a batch that attention pads to one width."""

    starts: kernels.Ints
    lengths: kernels.Ints
    width: int


def _groups(lengths: kernels.Ints, starts: kernels.Ints) -> list[Group]:
    """Cuts a batch wherever the rounded length changes: lengths are sorted, so few groups come of it."""
    widths = -(-lengths // ROWS) * ROWS
    edges = [0, *(np.flatnonzero(np.diff(widths)) + 1).tolist(), len(lengths)]
    return [Group(starts[a:b], lengths[a:b], int(widths[a])) for a, b in pairwise(edges) if b > a]


def _parts(blocks: int, heads: int, fitting: int) -> Iterator[slice]:
    """Cuts blocks (sequences × heads) into parts of at most about `fitting`, of two sizes at most."""
    if fitting < heads:
        sizes = [next(size for size in range(max(fitting, 1), 0, -1) if heads % size == 0)]
    else:
        sizes = [fitting // heads * heads, heads]
    first = 0
    for size in sizes:
        while blocks - first >= size:
            yield slice(first, first + size)
            first += size


def _rounded(count: int) -> int:
    return -(-count // ROWS) * ROWS


def _packed(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Linear:
    reorder: Any = torch.ops.mkldnn._reorder_linear_weight
    return Linear(reorder(weight.to(dtype).contiguous(), 1024), bias.to(dtype))


def elements(tensor: Tensor) -> kernels.Elements:
    """A tensor's own memory; that of bfloat16 is seen as int16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
