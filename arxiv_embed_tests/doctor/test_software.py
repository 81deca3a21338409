"""The software: packages as they are required, and a model that can be loaded."""

from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from arxiv_embed.doctor import software
from arxiv_embed.doctor.check import Question, State, Subject, answers
from arxiv_embed.settings import Settings

INSTALLED = dict.fromkeys(software.SHOWN, "2.0")


def installed(name: str) -> str:
    if name not in INSTALLED:
        raise PackageNotFoundError(name)
    return INSTALLED[name]


def subject(settings: Settings, model: str, *, thorough: bool = False) -> Subject:
    return Subject(settings, None, settings.store, model, settings.checkpoints, thorough)


def test_packages_are_as_required_or_named() -> None:
    assert software.packages(["torch>=2", "lancedb; extra == 'none'"], installed).state is State.FINE
    found = software.packages(["torch>=2.1", "numba>=1", "pyarrow==2.0", "absent; extra == 'dev'"], installed)
    assert (found.state, found.text) == (State.WRONG, "torch is 2.0, not >=2.1; numba is missing")
    assert "make setup" in found.remedy


def test_the_packages_of_this_environment_are_as_required() -> None:
    [found] = software.these_packages()
    assert found.state in (State.FINE, State.SKIPPED), found.text


def test_an_old_python_is_wrong() -> None:
    assert software.python((3, 10, 4)).state is State.WRONG
    assert software.python((3, 11, 0)).state is State.FINE


def test_a_model_is_found_and_tokenizes_and_thoroughly_embeds(settings: Settings, tiny_model: Path) -> None:
    found, weights = software.model(subject(settings, str(tiny_model), thorough=True))
    assert found.state is weights.state is State.FINE
    assert "its tokenizer makes" in found.text
    assert weights.text.startswith("loaded; a text is embedded in")


def test_a_model_that_is_not_there_is_one_line(settings: Settings) -> None:
    examined = subject(settings, "./no-such-model")
    [found] = answers([Question("model", lambda: software.model(examined))])
    assert found.state is State.WRONG
    assert "There is no model folder ./no-such-model" in found.text


@pytest.mark.parametrize("whole", [True, False])
def test_weights_of_the_hub_s_cache_are_what_their_name_says(
    settings: Settings, tiny_model: Path, tmp_path: Path, whole: bool
) -> None:
    folder = tmp_path / "snapshot"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    content = (tiny_model / "model.safetensors").read_bytes()
    blob = tmp_path / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content if whole else content[:-1] + b"?")
    (folder / "model.safetensors").symlink_to(blob)
    [found] = software.model(subject(settings, str(folder)))
    assert found.state is (State.FINE if whole else State.WRONG)
    assert ("model.safetensors of" in found.text) != whole
