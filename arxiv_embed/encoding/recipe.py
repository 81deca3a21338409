"""Recipes: how a model is to be used, as its own files say, a model file of a user's, or what is known of it by name.

Only JSON and TOML are read here. A recipe says what it says and leaves the rest open, so that one can be laid over
another.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from arxiv_embed.errors import ArxivEmbedError

POOLINGS = ("mean", "cls", "last")
POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
MODULES = ("Transformer", "Pooling", "Normalize")
"""What a model of sentence-transformers may consist of here."""

LENGTH_OF_VECTORS_COUNTS = ("dot", "dot_product", "euclidean", "manhattan")
RETRIEVAL = "retrieval"
QUERY, DOCUMENT = "query", "document"
ROLES = (QUERY, DOCUMENT, "passage", "corpus")
"""Of a text; the last two are other names of a document."""
MISSPELT = 0.78
"""So alike (`difflib`'s ratio) to a role that it is meant: "qurey" is, and "qa_query", a task's, is not."""
MODEL_FILE_SHOWN = "docs/models.md"


@dataclass(frozen=True)
class Recipe:
    """How a model is to be used; None is what is not said.

    `prompts` by the name of a task, a role ("query", "document") or both ("code.query"); `dimensions` to which vectors
    may be cut; `max_tokens` that the mean of a whole text is taken of; `positions` that the model has; `licence` what
    of it is to be said to whoever chooses the model.
    """

    pooling: str | None = None
    normalize: bool | None = None
    prompts: Mapping[str, str] | None = None
    tasks: tuple[str, ...] | None = None
    dimensions: tuple[int, ...] | None = None
    max_tokens: int | None = None
    positions: int | None = None
    causal: bool | None = None
    licence: str | None = None

    def over(self, other: Recipe) -> Recipe:
        """What this one says, and of the rest what the other does."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.prompts is not None and other.prompts is not None:
            said["prompts"] = {**other.prompts, **self.prompts}
        return replace(other, **{name: value for name, value in said.items() if value is not None})

    @property
    def named_tasks(self) -> tuple[str, ...]:
        """What the model can be asked to do, the usual first; where it is not said, what it has prompts for."""
        prompts = [name.partition(".")[0] for name in self.prompts or {} if name not in ROLES]
        return self.tasks or tuple(dict.fromkeys([RETRIEVAL, *prompts]))


@dataclass(frozen=True)
class ModelFile:
    """A user's own TOML file about a model; docs/models.md lists its keys."""

    path: Path
    model: str
    revision: str | None
    recipe: Recipe
    remote_code: bool | None
    fallback: str | None


KEYS: Mapping[str, type] = {
    "model": str,
    "revision": str,
    "pooling": str,
    "normalize": bool,
    "prompts": dict,
    "dimensions": list,
    "max_tokens": int,
    "positions": int,
    "causal": bool,
    "remote_code": bool,
    "fallback": str,
}


def read_model_file(path: Path) -> ModelFile:
    """Raises `ArxivEmbedError` for a file that is no TOML, lacks `model`, or holds what does not belong there."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArxivEmbedError(f"The model file {path} cannot be read ({error}): mend it.") from None
    for key, value in said.items():
        kind = KEYS.get(key)
        if kind is None:
            raise ArxivEmbedError(f"The model file {path} has an unknown key '{key}': it may have {', '.join(KEYS)}.")
        if type(value) is not kind:
            raise ArxivEmbedError(f"'{key}' in the model file {path} is not of type {kind.__name__}: mend it.")
    if "model" not in said:
        raise ArxivEmbedError(f"The model file {path} names no model: add a line model = with a name or folder.")
    _check(path, said)
    for name in said.get("prompts", {}):
        if _names_no_role(name):
            raise ArxivEmbedError(
                f"The model file {path} has a prompt for an unknown role, '{name}': it may be for {', '.join(ROLES)}, "
                'a task, or both as in "code.query".'
            )
    if said.get("remote_code") and "revision" not in said:
        raise ArxivEmbedError(
            f"The model file {path} asks for remote code without a pinned revision: add revision = with the full "
            "commit whose code you have read."
        )
    recipe = Recipe(
        pooling=said.get("pooling"),
        normalize=said.get("normalize"),
        prompts=by_role(said["prompts"]) if "prompts" in said else None,
        dimensions=tuple(sorted(said["dimensions"])) if "dimensions" in said else None,
        max_tokens=said.get("max_tokens"),
        positions=said.get("positions"),
        causal=said.get("causal"),
    )
    folder = path.parent / Path(said["model"]).expanduser()
    model = str(folder) if folder.is_dir() else said["model"]
    return ModelFile(path, model, said.get("revision"), recipe, said.get("remote_code"), said.get("fallback"))


def _check(path: Path, said: Mapping[str, Any]) -> None:
    problems = {
        f"pooling = '{said.get('pooling')}' is none of {', '.join(POOLINGS)}": said.get("pooling", "mean")
        not in POOLINGS,
        "a prompt is no text": not all(isinstance(text, str) for text in said.get("prompts", {}).values()),
        "dimensions are no whole numbers above 0": not all(
            type(number) is int and number > 0 for number in said.get("dimensions", [])
        ),
        "max_tokens and positions must be above 0": min(said.get("max_tokens", 1), said.get("positions", 1)) < 1,
        "normalize = false is not supported, as search is by cosine": said.get("normalize") is False,
    }
    for problem, is_so in problems.items():
        if is_so:
            raise ArxivEmbedError(f"In the model file {path} {problem}: mend it.")


def by_role(prompts: Mapping[str, str]) -> dict[str, str]:
    """With one name for the role of a document; a prompt that has that name already stands."""
    named: dict[str, str] = {}
    for name, text in sorted(prompts.items(), key=lambda item: ROLES.index(role_of(item[0]) or QUERY)):
        role = role_of(name)
        task = name.removesuffix(role)
        named.setdefault(task + (DOCUMENT if role in ROLES[1:] else role), text)
    return named


def role_of(name: str) -> str:
    """The role in a prompt's name, "role" or "task.role"; "" where it is a task's for both."""
    last = name.rpartition(".")[2]
    return last if last in ROLES else ""


def _names_no_role(name: str) -> bool:
    """Whether a prompt's name is a role misspelt, or a task's with a role that there is not; tasks have any name."""
    task, dot, role = name.partition(".")
    if dot or not task:
        return not task or role not in ROLES
    return task not in ROLES and bool(get_close_matches(task.lower(), ROLES, 1, MISSPELT))


def recipe_of_files(name: str, folder: Path) -> Recipe:
    """What a model's sentence-transformers files say. Raises `ArxivEmbedError` where they say what is not supported."""
    modules = read_json(folder / "modules.json", name, [])
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    for kind in kinds:
        if kind not in MODULES:
            raise ArxivEmbedError(f"Model '{name}' ends in a {kind} layer, which is not supported: choose another.")
    said = read_json(folder / "config_sentence_transformers.json", name, {})
    limits = read_json(folder / "sentence_bert_config.json", name, {})
    if limits.get("do_lower_case"):
        raise ArxivEmbedError(
            f"Model '{name}' wants its texts in small letters (do_lower_case), which is not supported."
        )
    named = {key: text or "" for key, text in (said.get("prompts") or {}).items()}
    prompts = by_role(named)
    if default := named.get(said.get("default_prompt_name") or ""):
        prompts = {QUERY: default, DOCUMENT: default, **prompts}
    normalize: bool | None = True
    if "Normalize" not in kinds and said.get("similarity_fn_name") in LENGTH_OF_VECTORS_COUNTS:
        normalize = False
    return Recipe(
        pooling=_pooling(name, folder, modules),
        normalize=normalize,
        prompts=prompts,
        max_tokens=limits.get("max_seq_length"),
    )


def _pooling(name: str, folder: Path, modules: list[dict[str, Any]]) -> str | None:
    place = next((m["path"] for m in modules if str(m.get("type", "")).endswith("Pooling")), "1_Pooling")
    config = read_json(folder / place / "config.json", name, {})
    if not config:
        return None
    if config.get("include_prompt") is False:
        raise ArxivEmbedError(f"Model '{name}' leaves its prompt out of the pooling, which is not supported.")
    if "pooling_mode" in config:
        chosen = [{"lasttoken": "last"}.get(config["pooling_mode"], config["pooling_mode"])]
    else:
        chosen = [
            POOLING_MODES.get(key, key) for key, is_set in config.items() if key.startswith("pooling_") and is_set
        ]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ArxivEmbedError(f"Model '{name}' pools in a way that is not supported ({place}/config.json).")
    return str(chosen[0])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a folder's model is made of, as transformers chooses: the one, or those that an index
    names; where there is neither, all but an adapter's."""
    one, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if one.is_file():
        return [one]
    if index.is_file():
        return sorted({folder / name for name in read_json(index, str(folder)).get("weight_map", {}).values()})
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))


def read_json(path: Path, name: str, default: Any = None) -> Any:
    """A JSON file's object (or list, where the default is one); the default where there is no such file.

    Raises `ArxivEmbedError` for model `name` where there is none and no default, or it is broken.
    """
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
