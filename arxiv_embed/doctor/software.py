"""The software: Python, the packages that the project asks for, and the model."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from arxiv_embed.doctor.check import Check, Subject, fine, skipped, wrong
from arxiv_embed.encoding.model import ModelFiles, resolve_model
from arxiv_embed.encoding.recipe import weight_files
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer

OLDEST_PYTHON = (3, 11)
PACKAGE = "arxiv-embed"
SHOWN = ("torch", "transformers", "dagster", "lancedb", "pyarrow")
LARGE_WEIGHTS = 1_000_000_000
"""Bytes; larger ones are read through by a thorough look alone."""
TEXT = "Attention is all you need"

_SHA256 = re.compile(r"[0-9a-f]{64}")


def python(found: tuple[int, ...]) -> Check:
    text = f"{'.'.join(map(str, found))} ({sys.executable})"
    if found[:2] < OLDEST_PYTHON:
        return wrong("Python", text, "install 3.11 or newer, and run `make setup` with it")
    return fine("Python", f"{text}, {platform.system()} {platform.machine()}")


def this_python() -> Iterator[Check]:
    yield python(tuple(sys.version_info[:3]))


def packages(required: Iterable[str], installed: Callable[[str], str] = version) -> Check:
    """Whether what is installed is what is required (PEP 508)."""
    missing = []
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = installed(requirement.name)
        except PackageNotFoundError:
            missing.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            missing.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if missing:
        return wrong("packages", "; ".join(missing), "run `make setup` again, or pip install -e . -c constraints.txt")
    return fine("packages", ", ".join(f"{name} {installed(name)}" for name in SHOWN))


def these_packages() -> Iterator[Check]:
    try:
        required = requires(PACKAGE) or []
    except PackageNotFoundError:
        yield skipped("packages", f"{PACKAGE} is not installed here, so nothing says what it requires")
        return
    yield packages(required)


def model(subject: Subject) -> Iterator[Check]:
    """Its files, their checksums where the hub's cache has them, its tokenizer; thoroughly also its weights."""
    files = resolve_model(subject.model, local_only=True)
    space = space_of(files, "sentences:128")
    tokens = len(PaperTokenizer(files, space).tokenize([TEXT])[0].ids)
    broken = [path.name for path in weight_files(files.folder) if _is_broken(path, subject.thorough)]
    if broken:
        remedy = f"remove {files.folder} and run again, which fetches it anew"
        yield wrong("model", f"{', '.join(broken)} of {files.name} is not what the hub has", remedy)
        return
    size = sum(path.stat().st_size for path in weight_files(files.folder))
    text = f"{files.name} ({files.revision[:12]}), {size / 1e6:.0f} MB of weights, {files.dimensions} dimensions"
    yield fine("model", f"{text}; its tokenizer makes {tokens} tokens of {len(TEXT.split())} words")
    if subject.thorough:
        yield _embeds(files)


def _embeds(files: ModelFiles) -> Check:
    from arxiv_embed.encoding.encoder import TextEncoder

    vector = TextEncoder(files, space_of(files, "whole")).encode_queries([TEXT])[0]
    length = float((vector @ vector) ** 0.5)
    if not 0.99 < length < 1.01:
        return wrong("model's weights", f"a text's vector has length {length}, not 1", "fetch the model again")
    return fine("model's weights", f"loaded; a text is embedded in {len(vector)} dimensions")


def _is_broken(path: Path, thorough: bool) -> bool:
    """Whether a file of the hub's cache, which is named by its checksum there, is not that; others say none."""
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name) or (blob.stat().st_size > LARGE_WEIGHTS and not thorough):
        return False
    with blob.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != blob.name
