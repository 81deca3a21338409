"""Weights: what lies in a model's safetensors files, and what of it is loaded, told without torch.

Of a Qwen2.5-VL that is its text model alone (`qwen_vl.py`), whatever its files call the parts; of others all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arxiv_embed.encoding.jina import BASE_ARCHITECTURE
from arxiv_embed.encoding.recipe import read_json, weight_files
from arxiv_embed.errors import ArxivEmbedError

TEXT_ARCHITECTURES = ("qwen2_5_vl", "qwen2_5_vl_text")
LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""

_PREFIX = re.compile(r"(?:base_model\.model\.)?(?:(?:model|language_model)\.)*")
_TEXT_WEIGHT = re.compile(r"embed_tokens\.weight|norm\.weight|layers\.\d+\..+")
_NOT_TEXT = re.compile(r"(?:^|\.)(?:visual|lm_head|multi_vector_projector|single_vector_projector)\.")


def is_text_of_qwen_vl(config: Mapping[str, Any]) -> bool:
    """Whether of a model of this configuration the text model alone is loaded."""
    return config.get("model_type") in TEXT_ARCHITECTURES or BASE_ARCHITECTURE in (config.get("architectures") or ())


def is_of_another_part(name: str) -> bool:
    """Whether a weight is of vision, language-model head or projector."""
    return _NOT_TEXT.search(name) is not None


def inner_name(name: str) -> str:
    """What a weight is called within its part, without what a file puts before it."""
    match = _PREFIX.match(name)
    return name[match.end() :] if match else name


def text_name(name: str) -> str | None:
    """What transformers calls a weight in the text model; None for one of another part."""
    inner = inner_name(name)
    return inner if _TEXT_WEIGHT.fullmatch(inner) and not is_of_another_part(name) else None


def loaded_bytes(folder: Path) -> int:
    """What the weights that are loaded take in the files of `folder`; an adapter is merged into them, and adds nothing.

    Raises `ArxivEmbedError` for a file that is broken.
    """
    if not is_text_of_qwen_vl(read_json(folder / "config.json", str(folder))):
        return sum(path.stat().st_size for path in weight_files(folder))
    weights = (weight for path in weight_files(folder) for weight in _sizes(path).items())
    return sum(size for name, size in weights if text_name(name))


def _sizes(path: Path) -> dict[str, int]:
    """The bytes of each weight in a safetensors file, by its header."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LONGEST_HEADER)))
        header.pop("__metadata__", None)
        return {name: int(entry["data_offsets"][1] - entry["data_offsets"][0]) for name, entry in header.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise ArxivEmbedError(f"The weights in {path} cannot be read: fetch the model again.") from None
