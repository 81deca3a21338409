"""The text model of a Qwen2.5-VL, without vision and head, a task's adapter merged where the folder has one.

Two layouts are read: a checkpoint of `Qwen2_5_VLForConditionalGeneration`, and Jina v4's base repository, whose
adapter in `adapters/` holds a pair of matrices for each module and task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from arxiv_embed.encoding import config as configured
from arxiv_embed.encoding.jina import BASE_ARCHITECTURE
from arxiv_embed.encoding.recipe import read_json, weight_files
from arxiv_embed.encoding.weights import inner_name, is_of_another_part, text_name
from arxiv_embed.errors import ArxivEmbedError

ADAPTERS = "adapters"
PLAIN_LORA: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": None,
}
"""What an adapter's configuration may say here, and nothing else."""

_LORA_WEIGHT = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?:(?P<task>[^.]+)\.)?weight")


def load_text_model(folder: Path, task: str, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """transformers' own Qwen2.5-VL text model with the weights of `folder`, the task's adapter merged where there is
    one. Weights of vision, language-model head and projectors are not read; no weight is held twice.

    Raises `ArxivEmbedError` where a weight is missing, or the adapter has none for the task.
    """
    from transformers import Qwen2_5_VLTextConfig, Qwen2_5_VLTextModel

    config = json.loads((folder / "config.json").read_bytes())
    text = dict(configured.text_config(config))
    text.pop("model_type", None)
    with torch.device("meta"):
        model: torch.nn.Module = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**text)).to(dtype)
    adapted = BASE_ARCHITECTURE in (config.get("architectures") or ()) or (folder / ADAPTERS).is_dir()
    lora = _read_adapter(folder / ADAPTERS, task) if adapted else {}
    parameters = dict(model.named_parameters())
    weights: dict[str, torch.Tensor] = {}
    for name, weight in _text_weights(folder):
        if name not in parameters:
            raise ArxivEmbedError(f"The weights in {folder} have {name}, which a Qwen2.5-VL text model has not.")
        module = name.removesuffix(".weight")
        weight = weight.to(device)
        if module in lora:
            up, down = (half.to(device) for half in lora.pop(module))
            weight = weight.float() + up @ down
        weights[name] = weight.to(dtype)
    missing = [*sorted(parameters.keys() - weights.keys()), *sorted(lora)]
    if missing:
        raise ArxivEmbedError(f"The weights in {folder} lack {missing[0]}: fetch the model again.")
    model.load_state_dict(weights, strict=True, assign=True)
    # Made on no device, the rotary embedding has no numbers; it has no weights either.
    with torch.device(device):
        model.rotary_emb = type(model.rotary_emb)(model.config)
    return model


def _text_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The text model's weights by the names that transformers gives them in it, read one by one."""
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if inner := text_name(name):
                    yield inner, file.get_tensor(name)


def _read_adapter(folder: Path, task: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By module the two float32 matrices whose product the adapter adds to its weight for that task.

    LoRA (Hu et al. 2021, as PEFT saves it): alpha ÷ r × B·A. Raises `ArxivEmbedError` for an adapter that is not there,
    is not whole, or does more than that.
    """
    from safetensors import safe_open

    config = read_json(folder / "adapter_config.json", str(folder))
    others = [name for name, usual in PLAIN_LORA.items() if config.get(name, usual) not in (usual, None, [], {})]
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if others or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        what = ", ".join(others) or "its r or lora_alpha"
        raise ArxivEmbedError(f"The adapter in {folder} is no plain LoRA ({what}): merge it into the weights first.")
    scale = alpha / (rank ** (0.5 if config.get("use_rslora") else 1.0))
    halves: dict[str, dict[str, torch.Tensor]] = {}
    tasks = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if is_of_another_part(name):
                    continue
                match = _LORA_WEIGHT.fullmatch(name)
                if match is None:
                    raise ArxivEmbedError(
                        f"The adapter in {folder} has {name}, which is no plain LoRA's: merge it first."
                    )
                tasks.add(match["task"])
                if match["task"] in (task, None):
                    module = inner_name(match["module"])
                    halves.setdefault(module, {})[match["side"]] = file.get_tensor(name).float()
    if not halves or any(len(half) < 2 for half in halves.values()):
        known = ", ".join(sorted(str(one) for one in tasks)) or "none"
        raise ArxivEmbedError(f"The adapter in {folder} is not whole for the task '{task}' (it has {known}).")
    return {module: (scale * half["B"], half["A"]) for module, half in halves.items()}
