"""Any model that transformers can load, without padding where its attention allows, and for texts of any length."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arxiv_embed.encoding import attention
from arxiv_embed.encoding import config as configured
from arxiv_embed.encoding.batch import TokenBatch
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.qwen_vl import load_text_model
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import FloatArray
from arxiv_embed.encoding.weights import is_text_of_qwen_vl
from arxiv_embed.encoding.windows import cut_into_windows
from arxiv_embed.errors import ArxivEmbedError

CACHED_WINDOW = 8192
"""A causal model takes longer texts this many tokens at a time, with the keys and values of all before."""

_OF_A_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.\d+\..*(?<!inv_freq)(?<!\.masked_bias)(?<!attn\.bias)$")
"""A weight within a layer; buffers that older versions of transformers saved are none."""

TRIED_LENGTHS = (5, 11)
LEAST_COSINE = {torch.float32: 0.9999, torch.bfloat16: 0.99}
"""How a model shows that packing changes nothing but rounding: a few tokens, packed and padded."""


class TransformersEncoder:
    """A model of transformers; `packed` is whether it computes without padding."""

    def __init__(
        self, files: ModelFiles, space: Space, device: str, dtype: torch.dtype, model: Any = None, pack: bool = True
    ) -> None:
        """`model` is one that is loaded already; by default the weights of `files` are. Without `pack` it is padded.

        Raises `ArxivEmbedError` where the weights are not whole, or the model is causal and `files` says otherwise, or
        the other way round.
        """
        self.dimensions = space.dimensions
        self._device = torch.device(device)
        self._dtype = dtype
        self._model = (load_model(files, space.task, device, dtype) if model is None else model).eval().to(device)
        self._model.config.use_cache = False  # a decoder would keep every layer's keys and values
        self._accepted = inspect.signature(self._model.forward).parameters
        self._config: dict[str, Any] = self._model.config.to_dict()
        self._offset = configured.position_offset(self._config)
        self._window, self._overlap = space.window, space.overlap
        self._causal = files.causal
        self._check_what_a_token_sees(files.name)
        self._pads = self._pads_truly()
        # The kernel for variable lengths has no float32.
        self.packed = pack and not (self._device.type == "cuda" and dtype == torch.float32) and self._can_pack()
        self.memory_law = self._memory_law(space)

    def _memory_law(self, space: Space) -> tuple[float, float, float]:
        computed, pooled = configured.activation_bytes(self._config, self._dtype.itemsize)
        if self._causal and space.max_tokens > CACHED_WINDOW:
            computed += configured.cache_bytes(self._config, self._dtype.itemsize)
        if self.packed:
            return computed + pooled, 0.0, 0.0
        return pooled, computed, self._bytes_of_attention()

    def _bytes_of_attention(self) -> float:
        """For each pair of positions: the mask's, and where attention is computed as it is written (eager) scores and
        weights of every head, besides."""
        eager = getattr(self._model.config, "_attn_implementation", "") == "eager"
        heads = getattr(self._model.config, "num_attention_heads", 12)
        return float(self._dtype.itemsize * (1 + (2 * heads if eager else 0)))

    @torch.inference_mode()
    def encode(self, batch: TokenBatch) -> FloatArray:
        """Unit vectors [spans, dimensions] of the batch's spans."""
        windows, kept = cut_into_windows(batch, self._window, self._overlap)
        states = self._states(windows)
        if kept is not None:
            states = states[torch.from_numpy(kept).to(self._device)]
        spans = torch.from_numpy(batch.spans.astype(np.int64)).to(self._device)
        return pooled(states, spans, self.dimensions)

    def computed_tokens(self, batch: TokenBatch) -> int:
        lengths = cut_into_windows(batch, self._window, self._overlap)[0].lengths
        return len(lengths) * int(lengths.max()) if self._pads and not self.packed else int(lengths.sum())

    def _states(self, batch: TokenBatch) -> Tensor:
        """The states of all tokens [tokens, width], in order."""
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(self._device)
        lengths: list[int] = batch.lengths.tolist()
        if not self._causal or max(lengths) <= CACHED_WINDOW:
            return self._at_once(ids, lengths)
        parts = []
        for long, (first, last) in _runs(lengths):
            start, stop = sum(lengths[:first]), sum(lengths[:last])
            compute = self._window_by_window if long else self._at_once
            parts.append(compute(ids[start:stop], lengths[first:last]))
        return torch.cat(parts)

    def _at_once(self, ids: Tensor, lengths: list[int]) -> Tensor:
        if self.packed:
            return self._packed_states(ids, lengths)
        return self._padded_states(ids, lengths) if self._pads else self._states_alone(ids, lengths)

    def _packed_states(self, ids: Tensor, lengths: list[int]) -> Tensor:
        places = torch.cat([torch.arange(length) for length in lengths]).to(self._device)
        with attention.packed(lengths, self._device) as packing:
            states = self._forward(ids[None], places)[0]
        if not packing.attended:
            raise attention.NotPacked("its attention does not come through transformers' interface")
        return states

    def _padded_states(self, ids: Tensor, lengths: list[int]) -> Tensor:
        counts = torch.tensor(lengths, device=self._device)
        mask = torch.arange(max(lengths), device=self._device)[None, :] < counts[:, None]
        padded = torch.zeros(mask.shape, dtype=torch.long, device=self._device)
        padded[mask] = ids
        states: Tensor = self._model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        return states[mask]

    def _states_alone(self, ids: Tensor, lengths: list[int]) -> Tensor:
        return torch.cat([self._padded_states(some, [len(some)]) for some in torch.split(ids, lengths)])

    def _forward(self, ids: Tensor, places: Tensor, **others: Any) -> Tensor:
        """States of `ids` [1, tokens], each at its place in its text."""
        given: dict[str, Any] = {"position_ids": (places + self._offset)[None], **others}
        if "token_type_ids" in self._accepted and self._config.get("type_vocab_size"):
            given["token_type_ids"] = torch.zeros_like(ids)
        states: Tensor = self._model(input_ids=ids, **given).last_hidden_state
        return states

    def _window_by_window(self, ids: Tensor, lengths: list[int]) -> Tensor:
        """One text after the other, each in windows that see the keys and values of those before: exact, as no token of
        a causal model depends on what comes after it."""
        from transformers import DynamicCache

        parts = []
        for start, stop in pairwise(np.cumsum([0, *lengths]).tolist()):
            cache = DynamicCache(config=self._model.config)
            for first in range(start, stop, CACHED_WINDOW):
                window = ids[first : min(stop, first + CACHED_WINDOW)]
                places = torch.arange(first - start, first - start + len(window), device=self._device)
                with attention.packed([len(window)], self._device):
                    parts.append(self._forward(window[None], places, past_key_values=cache, use_cache=True)[0])
        return torch.cat(parts)

    @torch.inference_mode()
    def _can_pack(self) -> bool:
        """Tries it: whatever the reason may be that a model cannot, it is then computed padded."""
        ids, lengths = self._tried()
        expected = self._states_alone(ids, lengths).float()
        usual = self._model.config._attn_implementation
        try:
            attention.register()
            self._model.set_attn_implementation(attention.NAME)
            states = self._packed_states(ids, lengths).float()
            if torch.nn.functional.cosine_similarity(states, expected).min() >= LEAST_COSINE[self._dtype]:
                return True
        except Exception:  # noqa: BLE001 - an architecture or a kernel that cannot says so in its own way
            pass
        self._model.set_attn_implementation(usual)
        return False

    @torch.inference_mode()
    def _pads_truly(self) -> bool:
        """Whether padding changes nothing; there are architectures that look at it all the same."""
        ids, lengths = self._tried()
        padded, alone = self._padded_states(ids, lengths).float(), self._states_alone(ids, lengths).float()
        return bool(torch.nn.functional.cosine_similarity(padded, alone).min() >= LEAST_COSINE[self._dtype])

    @torch.inference_mode()
    def _check_what_a_token_sees(self, name: str) -> None:
        ids, lengths = self._tried()
        changed = ids.clone()
        changed[-1] = ids[0]
        before, after = (self._states_alone(some, lengths)[-lengths[-1] : -1].float() for some in (ids, changed))
        is_causal = torch.allclose(before, after, rtol=0, atol=1e-5 * float(before.abs().max()))
        if is_causal != self._causal and torch.isfinite(before).all():
            what = "no token sees" if is_causal else "a token sees"
            raise ArxivEmbedError(
                f"In model '{name}' {what} what comes after it: say causal = {str(is_causal).lower()} in a model file "
                "(docs/models.md)."
            )

    def _tried(self) -> tuple[Tensor, list[int]]:
        """The packed ids and the lengths of two texts, of tokens that are no padding."""
        lengths = list(TRIED_LENGTHS)
        vocabulary = int(self._config.get("vocab_size") or sum(lengths) + 1)
        ids = torch.arange(sum(lengths), device=self._device) * 7919 % max(1, vocabulary - 1)
        return ids + (ids >= (self._config.get("pad_token_id") or 0)), lengths


def _runs(lengths: list[int]) -> Iterator[tuple[bool, tuple[int, int]]]:
    """Neighbouring texts that are all longer than a window, or none of them is."""
    first = 0
    for last in range(1, len(lengths) + 1):
        long = lengths[first] > CACHED_WINDOW
        if last == len(lengths) or (lengths[last] > CACHED_WINDOW) != long:
            yield long, (first, last)
            first = last


def load_model(files: ModelFiles, task: str, device: str, dtype: torch.dtype) -> Any:
    """Reads the weights of `files` (safetensors) as `dtype`. Raises `ArxivEmbedError` where they are not whole."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if is_text_of_qwen_vl(json.loads((files.folder / "config.json").read_bytes())):
        return load_text_model(files.folder, task, device, dtype)
    model, loaded = AutoModel.from_pretrained(
        files.folder,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=files.remote_code,
    )
    foreign = sorted(name for name in loaded["unexpected_keys"] if _OF_A_LAYER.search(name))
    if foreign:
        raise ArxivEmbedError(
            f"The weights of model '{files.name}' have {foreign[0]}, which transformers' model of that kind does not "
            "use: choose another model."
        )
    # transformers fills in random numbers for what is missing; only a pooler's matter nothing here.
    missing = sorted(name for name in loaded["missing_keys"] if "pooler." not in name)
    if missing:
        raise ArxivEmbedError(
            f"The weights of model '{files.name}' lack {missing[0]} in {files.folder}: fetch it again."
        )
    return model


def pooled(states: Tensor, spans: Tensor, dimensions: int) -> FloatArray:
    """Mean of packed `states` [tokens, width] over each span [n, 2], cut to so many dimensions, of unit length."""
    lengths = spans[:, 1] - spans[:, 0]
    owner = torch.repeat_interleave(torch.arange(len(spans), device=spans.device), lengths)
    offsets = torch.arange(len(owner), device=spans.device) - torch.repeat_interleave(
        lengths.cumsum(0) - lengths, lengths
    )
    rows = torch.repeat_interleave(spans[:, 0], lengths) + offsets
    sums = torch.zeros(len(spans), states.shape[1], device=states.device).index_add_(0, owner, states[rows].float())
    vectors: FloatArray = torch.nn.functional.normalize(sums[:, :dimensions], dim=1).cpu().numpy()
    return vectors
