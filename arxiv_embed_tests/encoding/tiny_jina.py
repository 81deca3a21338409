"""A tiny Jina v4: the architecture and the layout of files of its base repository and of its merged checkpoints.

Names of weights and of the adapter's matrices are those of `jinaai/jina-embeddings-v4` and
`jinaai/jina-embeddings-v4-vllm-retrieval`; widths are not. The expected vectors are computed by transformers' whole
Qwen2.5-VL and by PEFT, in the way of its `encode_text`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from arxiv_embed_tests.tiny_models import bytepairs

TASKS = ("retrieval", "text-matching", "code")
WIDTH, CUTS = 32, [8, 16, 32]
RANK, ALPHA = 4, 8
TEXT_MODULES = r".*layers.*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*"

TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 1, 1]},
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
VISION_CONFIG: dict[str, Any] = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": WIDTH,
    "fullatt_block_indexes": [0],
}


class TinyJina:
    """Plain models of transformers and PEFT, made from a fixed seed, which can be saved in either layout."""

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = bytepairs()
        text = {**TEXT_CONFIG, "vocab_size": self.tokenizer.get_vocab_size()}
        # Token ids of images and videos must be within the small vocabulary; no text has them.
        ids = {"image_token_id": 2, "video_token_id": 3, "vision_start_token_id": 4, "vision_end_token_id": 5}
        self._config = Qwen2_5_VLConfig(text_config=dict(text), vision_config=dict(VISION_CONFIG), **ids)
        self._flat_config = {**text, **ids, "vision_config": VISION_CONFIG}
        torch.manual_seed(11)
        base = Qwen2_5_VLForConditionalGeneration(self._config).eval()
        _stir(base)
        self._plain = {name: value.clone() for name, value in base.state_dict().items()}
        self.adapted = self._with_adapters(base)

    @staticmethod
    def _with_adapters(base: Any) -> Any:
        lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TEXT_MODULES)
        adapted = peft.get_peft_model(base, lora, adapter_name=TASKS[0])
        for task in TASKS[1:]:
            adapted.add_adapter(task, lora)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if ".lora_" in name:
                    parameter.copy_(0.3 * torch.randn_like(parameter))
        return adapted.eval()

    def vectors(self, texts: Sequence[str], task: str, prefix: str, dimensions: int = WIDTH) -> torch.Tensor:
        """Unit vectors by PEFT and transformers: the last hidden states' mean over prefix and text, cut, L2."""
        self.adapted.set_adapter(task)
        vectors = []
        for text in texts:
            ids = torch.tensor([self.tokenizer.encode(prefix + text).ids])
            with torch.inference_mode():
                output = self.adapted(input_ids=ids, output_hidden_states=True)
            vectors.append(torch.nn.functional.normalize(output.hidden_states[-1][0].mean(0)[:dimensions], dim=0))
        return torch.stack(vectors)

    def save_base(self, folder: Path) -> None:
        """The base repository: two files of weights under their names of transformers 4, and one adapter for all
        tasks."""
        names = {name: _old_name(name) for name in self._plain if not name.startswith("lm_head.")}
        weights = {old: self._plain[name].contiguous() for name, old in names.items()}
        weights["multi_vector_projector.weight"] = torch.randn(8, WIDTH)
        weights["multi_vector_projector.bias"] = torch.randn(8)
        self._save_common(
            folder, {"architectures": ["JinaEmbeddingsV4Model"], "matryoshka_dims": CUTS, **self._flat_config}
        )
        halves = [dict(list(weights.items())[part::2]) for part in range(2)]
        for number, half in enumerate(halves, 1):
            save_file(half, folder / f"model-0000{number}-of-00002.safetensors", metadata={"format": "pt"})
        adapters = folder / "adapters"
        adapters.mkdir()
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": TEXT_MODULES}
        (adapters / "adapter_config.json").write_text(json.dumps(config))
        lora = {name: value.contiguous() for name, value in self.adapted.state_dict().items() if ".lora_" in name}
        for task in TASKS:
            lora[f"base_model.model.multi_vector_projector.lora_A.{task}.weight"] = torch.randn(RANK, WIDTH)
            lora[f"base_model.model.multi_vector_projector.lora_B.{task}.weight"] = torch.randn(8, RANK)
        save_file(lora, adapters / "adapter_model.safetensors", metadata={"format": "pt"})

    def save_merged(self, folder: Path, task: str, *, old_names: bool = True) -> None:
        """A checkpoint of stock architecture with a task's adapter merged by PEFT."""
        self.adapted.set_adapter(task)
        self.adapted.merge_adapter([task])
        merged = {
            name.removeprefix("base_model.model.").replace(".base_layer.", "."): value.contiguous().clone()
            for name, value in self.adapted.state_dict().items()
            if ".lora_" not in name
        }
        self.adapted.unmerge_adapter()
        config = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
        self._save_common(folder, {**config, **self._flat_config})
        weights = {_old_name(name) if old_names else name: value for name, value in merged.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def _save_common(self, folder: Path, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        self.tokenizer.save(str(folder / "tokenizer.json"))


def drop_weights(folder: Path, file: str, *names: str) -> None:
    """Takes weights out of a safetensors file."""
    weights = load_file(folder / file)
    for name in names:
        del weights[name]
    save_file(weights, folder / file, metadata={"format": "pt"})


def _old_name(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def _stir(model: torch.nn.Module) -> None:
    """Far from what weights begin as, so that no bias or norm can be left out unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
