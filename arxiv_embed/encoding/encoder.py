"""Encoders: a model on one device of this process, from packed tokens to unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from arxiv_embed.encoding.batch import TokenBatch, pack
from arxiv_embed.encoding.bert import PackedBert
from arxiv_embed.encoding.model import ModelFiles
from arxiv_embed.encoding.space import Space
from arxiv_embed.encoding.tokens import PaperTokenizer
from arxiv_embed.settings import ArxivEmbedError

FloatArray = npt.NDArray[np.float32]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Encoder(Protocol):
    def encode(self, batch: TokenBatch) -> FloatArray:
        """float32 [spans, dimensions], each row of unit length."""

    def computed_tokens(self, batch: TokenBatch) -> int:
        """The tokens that `encode` computes for this batch, padding included."""


def choose_dtype(requested: str, device: str) -> str:
    """What "auto" means on a device: bfloat16 where its arithmetic has it, float32 elsewhere.

    Raises `ArxivEmbedError` for a type that is not one of auto, float32, bfloat16.
    """
    if requested in DTYPES:
        return requested
    if requested != "auto":
        raise ArxivEmbedError(f"Unknown --dtype '{requested}': write auto, float32 or bfloat16.")
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16"))


def load_encoder(files: ModelFiles, device: str, dtype: str) -> Encoder:
    """Loads the model's weights onto `device` ("cpu", "cuda:0"); `dtype` is one of DTYPES."""
    if device == "cpu" and dtype == "bfloat16" and PackedBert.fits(files):
        return PackedBert(files)
    return TransformersEncoder(files, device, dtype)


class TransformersEncoder:
    """Any encoder that transformers can load, padded, with its own attention."""

    def __init__(self, files: ModelFiles, device: str, dtype: str) -> None:
        from transformers import AutoModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        model: Any = AutoModel.from_pretrained(files.folder, dtype=DTYPES[dtype], use_safetensors=True)
        self._model = model.eval().to(device)
        self._device = torch.device(device)

    @torch.inference_mode()
    def encode(self, batch: TokenBatch) -> FloatArray:
        lengths = torch.from_numpy(batch.lengths.astype(np.int64))
        mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.from_numpy(batch.ids.astype(np.int64))
        mask = mask.to(self._device)
        states = self._model(input_ids=ids.to(self._device), attention_mask=mask.long()).last_hidden_state
        return _pooled(states[mask].float(), torch.from_numpy(batch.spans.astype(np.int64)).to(self._device))

    def computed_tokens(self, batch: TokenBatch) -> int:
        return len(batch.lengths) * int(batch.lengths.max())


def _pooled(states: torch.Tensor, spans: torch.Tensor) -> FloatArray:
    """Mean of packed `states` [tokens, width] over each span [n, 2], of unit length."""
    lengths = spans[:, 1] - spans[:, 0]
    owner = torch.repeat_interleave(torch.arange(len(spans), device=spans.device), lengths)
    offsets = torch.arange(len(owner), device=spans.device) - torch.repeat_interleave(
        lengths.cumsum(0) - lengths, lengths
    )
    rows = torch.repeat_interleave(spans[:, 0], lengths) + offsets
    sums = torch.zeros(len(spans), states.shape[1], device=states.device).index_add_(0, owner, states[rows])
    vectors: FloatArray = torch.nn.functional.normalize(sums, dim=1).cpu().numpy()
    return vectors


class TextEncoder:
    """A model in this process for a few texts at a time: search's queries."""

    def __init__(self, files: ModelFiles, space: Space, device: str = "cpu", dtype: str = "auto") -> None:
        self._tokenizer = PaperTokenizer(files, space, prompt=files.query_prompt)
        self._encoder = load_encoder(files, device, choose_dtype(dtype, device))

    def encode_queries(self, queries: Sequence[str]) -> FloatArray:
        """float32 [queries, dimensions], unit length; each query with the model's query prompt."""
        papers = self._tokenizer.tokenize(queries)
        vectors: FloatArray = self._encoder.encode(pack(papers))
        rows = np.cumsum([0, *(len(paper.spans) for paper in papers[:-1])])
        queries_only: FloatArray = vectors[rows]
        return queries_only
