"""A model of the Hugging Face hub: the one commit that its name stands for, and that commit's files in the hub's cache.

A name stands for what the cache has it stand for; only where the cache says nothing, or lacks files, is the hub asked.
`huggingface_hub` writes each file beside its place and renames it, so a cache can lack files but hold no half ones.
"""

from __future__ import annotations

import errno
import glob
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from arxiv_embed.errors import ArxivEmbedError

if TYPE_CHECKING:
    from httpx2 import Request

SMALL_FILES = ["*.json", "*.txt", "*.model"]
"""Configurations, tokenizers and indexes, in subfolders too."""
OTHER_RUNTIMES = ("onnx", "openvino", "original", "coreml", "gguf", "tflite")
"""Folders of a repository that hold its weights once more, for other programs."""
NEEDED = ("config.json", "tokenizer.json")
ANSWER_S = 20.0
"""How long the hub may be silent where `huggingface_hub` sets no limit of its own: for all but a file's contents."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!.*(\.\.|//))[\w.][\w./+-]{0,200}(?<![/.])")


@dataclass(frozen=True)
class HubFiles:
    """A model's files in the hub's cache."""

    folder: Path
    commit: str
    """All 40 hexadecimal digits."""


def hub_files(name: str, *, local_only: bool = False, code: bool = False) -> HubFiles:
    """The files of `owner/model` or `owner/model@revision` (a branch, tag or commit), fetched unless they were before;
    with `local_only` nothing is fetched, and with `code` the repository's Python files belong to them.

    Weights are those in safetensors that the repository's own files ask for, adapters included.
    Raises `ArxivEmbedError` where they cannot be had.
    """
    model, revision = _parsed(name)
    cached = _cached(model, revision)
    gap = ""
    if cached is not None:
        missing = _missing(model, cached, code=code)
        if not missing:
            return cached
        gap = f", of which {missing[0]} is missing in {cached.folder},"
    if local_only:
        raise ArxivEmbedError(f"Model '{name}'{gap} was not fetched yet: run anything that uses it.")
    return _fetched(model, cached.commit if cached else revision, f"Model '{name}'{gap}", code=code)


def cached_commit(name: str) -> str:
    """The commit that `owner/model@revision` had when it was last fetched; "" where it was not."""
    cached = _cached(*_parsed(name))
    return cached.commit if cached else ""


def _parsed(name: str) -> tuple[str, str]:
    if "://" in name:  # not repeated, as it may hold a password
        raise ArxivEmbedError("A model is not named by a URL: write it as owner/model.")
    model, at, revision = name.partition("@")
    if not model or (at and not _REVISION.fullmatch(revision)):
        raise ArxivEmbedError(
            f"'{name}' names no model's revision: write owner/model@ and a branch, a tag or a commit."
        )
    return model, revision or "main"


def _cached(model: str, revision: str) -> HubFiles | None:
    """What the cache holds of a revision, whole or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True, allow_patterns=[]))
    except HFValidationError:
        raise ArxivEmbedError(
            f"'{model}' is neither a folder nor a Hugging Face name: write it as owner/model."
        ) from None
    except LocalEntryNotFoundError:
        return None
    return HubFiles(folder, folder.name) if _COMMIT.fullmatch(folder.name) else None


def _missing(model: str, files: HubFiles, *, code: bool) -> list[str]:
    """The paths that the cache lacks by the commit's listing, or, where none came with the cache, of what every model
    needs."""
    listing = _listing(model, files.commit)
    if listing is not None:
        wanted = [*_small(listing, code=code), *_weights(files.folder, listing)]
        return [path for path in dict.fromkeys(wanted) if not (files.folder / path).is_file()]
    held = [path.relative_to(files.folder).as_posix() for path in files.folder.rglob("*")]
    wanted = [*NEEDED, *(_weights(files.folder, held) or [WEIGHTS])]
    missing = [path for path in wanted if not (files.folder / path).is_file()]
    return missing + (["its Python code"] if code and not any(path.endswith(".py") for path in held) else [])


def _listing(model: str, commit: str) -> list[str] | None:
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(model, revision=commit)]
    except CachedRepoTreeNotFoundError:
        return None


def _small(listing: Sequence[str], *, code: bool) -> list[str]:
    wanted = [path for path in listing if any(fnmatchcase(path, pattern) for pattern in _patterns(code=code))]
    return [path for path in wanted if not _elsewhere(path)]


def _patterns(*, code: bool) -> list[str]:
    return [*SMALL_FILES, *(["*.py"] if code else [])]


def _ignored() -> list[str]:
    return [f"{start}{folder}/*" for folder in OTHER_RUNTIMES for start in ("", "*/")]


def _weights(folder: Path, listing: Sequence[str]) -> list[str]:
    """The weights that the files in `folder` ask for, of a repository that holds the paths of `listing`."""
    holds = set(listing)
    wanted: list[str] = []
    for place in _places(folder, listing):
        index = _json(folder / place / INDEX)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if place + WEIGHTS in holds:  # what transformers looks for first
            wanted.append(place + WEIGHTS)
        elif isinstance(shards, dict):
            wanted += sorted({place + str(shard) for shard in shards.values()})
        else:
            wanted += [path for path in listing if re.fullmatch(re.escape(place) + r"[^/]+\.safetensors", path)]
    for path in listing:
        adapter = path.removesuffix("adapter_config.json") + "adapter_model.safetensors"
        if path.endswith("adapter_config.json") and adapter in holds and not _elsewhere(path):
            wanted.append(adapter)
    return wanted


def _places(folder: Path, listing: Sequence[str]) -> Iterator[str]:
    """Where weights are: the repository's root, and the folders of the modules that sentence-transformers names."""
    yield ""
    modules = _json(folder / "modules.json")
    for module in modules if isinstance(modules, list) else []:
        place = f"{module.get('path')}/" if isinstance(module, dict) and module.get("path") else ""
        if place and any(path.startswith(place) for path in listing):
            yield place


def _elsewhere(path: str) -> bool:
    return any(part in OTHER_RUNTIMES for part in path.split("/"))


def _json(path: Path) -> object:
    """None for what is not there or broken: whoever reads the model says so."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _fetched(model: str, revision: str, what: str, *, code: bool) -> HubFiles:
    """Two steps, as the small files say which weights there are; both of the commit that the first one was told.

    `what` begins the sentence of an error.
    """
    from httpx2 import HTTPError, InvalidURL
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, XetDownloadError

    try:
        _limit_silence()
        HfApi().model_info(model, revision=revision)
        folder = Path(
            snapshot_download(model, revision=revision, allow_patterns=_patterns(code=code), ignore_patterns=_ignored())
        )
        files = HubFiles(folder, folder.name)
        paths = [glob.escape(path) for path in _weights(folder, _listing(model, files.commit) or [])]
        if paths:
            snapshot_download(model, revision=files.commit, allow_patterns=paths)
    except (
        *(HfHubHTTPError, EntryNotFoundError, XetDownloadError, HTTPError, InvalidURL),
        *(OSError, ValueError, KeyError, TypeError, AssertionError, RuntimeError),  # answers that are not a hub's
    ) as error:
        raise ArxivEmbedError(_reason(error, model, revision, what)) from None
    missing = _missing(model, files, code=code)
    if missing:  # the hub is away and `huggingface_hub` gave what the cache holds, or an index names what is not there
        raise ArxivEmbedError(
            f"Model '{model}' could not be had whole, {missing[0]} is missing in {folder}: "
            "run again with network, or name another revision."
        )
    return files


def _limit_silence() -> None:
    """Has every request of this process to the hub end after `ANSWER_S` of silence, if it has no limit of its own."""
    from huggingface_hub import get_session

    session = get_session()
    hooks = session.event_hooks
    if _limit not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _limit]}


def _limit(request: Request) -> None:
    limits = request.extensions.get("timeout", {})
    own = {step: limit for step, limit in limits.items() if limit is not None}
    request.extensions["timeout"] = {**dict.fromkeys(("connect", "read", "write", "pool"), ANSWER_S), **own}


def _reason(error: BaseException, model: str, revision: str, what: str) -> str:
    """One sentence. What the error itself says is left out, as it may hold the hub's URL and a password in that."""
    from httpx2 import ProxyError, TimeoutException, TransportError
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, hub.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    login = "log in with `hf auth login` or set HF_TOKEN"
    could_not = f"{what} could not be had from the Hugging Face hub"
    number = getattr(error, "errno", None)
    if isinstance(error, hub.GatedRepoError):
        return f"Model '{model}' is gated: accept its terms on its page huggingface.co/{model}, and {login}."
    if isinstance(error, hub.RevisionNotFoundError):
        return f"Model '{model}' has no revision '{revision}' on the Hugging Face hub: name a branch, tag or commit."
    if isinstance(error, hub.RepositoryNotFoundError):
        return f"The Hugging Face hub has no model '{model}', or keeps it private: check the name, or {login}."
    if isinstance(error, hub.DisabledRepoError):
        return f"{could_not} (it is disabled there): choose another model."
    if isinstance(error, hub.HfHubHTTPError):
        return f"{could_not} ({_status(error.response.status_code, login)}."
    if constants.is_offline_mode() or isinstance(error, hub.OfflineModeIsEnabled):
        return f"{could_not} (HF_HUB_OFFLINE is set): unset it to fetch the model, or give a local folder."
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk of {constants.HF_HUB_CACHE} is full, where model '{model}' goes: free space, or set HF_HOME."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"Model '{model}' cannot be written to {constants.HF_HUB_CACHE}: give yourself the right, or set HF_HOME."
        )
    if isinstance(error, ProxyError):
        return f"{could_not} (the proxy did not let it through): check HTTPS_PROXY and NO_PROXY."
    if isinstance(error, TimeoutException):
        return f"{could_not} (it did not answer in time): run again, or give a local folder."
    if isinstance(error, TransportError):
        return f"{could_not} ({type(error).__name__}): check the network, or give a local folder."
    if "Consistency check failed" in str(error):
        return f"{could_not} (a file came with another size than announced): run again."
    if isinstance(error, hub.XetDownloadError | RuntimeError):
        return f"{could_not} ({type(error).__name__}): run again, or set HF_HUB_DISABLE_XET=1."
    if isinstance(error, OSError) and error.strerror:
        return f"{could_not} ({error.strerror}): check {constants.HF_HUB_CACHE} and the network."
    return f"{could_not} (what answers is not a hub): check the network and HF_ENDPOINT, or give a local folder."


def _status(status: int, login: str) -> str:
    """Ends the sentence's parenthesis."""
    if status == 401:
        return f"it does not know your token): {login} anew"
    if status == 403:
        return f"your token may not read it): {login} with one that may"
    if status == 429:
        return "it was asked too often): wait, and run again"
    if status >= 500:
        return f"it has a fault of its own, status {status}): run again later, or give a local folder"
    return f"status {status}): check the name and HF_ENDPOINT, or give a local folder"
