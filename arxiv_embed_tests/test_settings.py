"""Settings: read from the environment by one function, when it is called."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.settings import DEFAULT_MODEL, secret_values, settings_from_environment


def test_without_variables_everything_is_written_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_from_environment({})
    home = tmp_path / ".arxiv_embed"
    assert settings.home == home
    assert settings.store == str(home / "stores" / "papers")
    assert (settings.metadata_dir, settings.model, settings.devices) == (None, DEFAULT_MODEL, "auto")
    assert settings.postgres_url is None
    places = [settings.checkpoints, settings.runs, settings.index, settings.dagster, settings.stores]
    assert all(place.parent == home for place in places)
    assert list(tmp_path.iterdir()) == []


def test_each_variable_is_taken_and_an_empty_one_is_none(tmp_path: Path) -> None:
    settings = settings_from_environment(
        {
            "ARXIV_EMBED_HOME": str(tmp_path),
            "ARXIV_EMBED_METADATA_DIR": "~/metadata",
            "ARXIV_EMBED_STORE": "/data/store",
            "ARXIV_EMBED_MODEL": "",
            "ARXIV_EMBED_DEVICES": "cpu:2",
            "ARXIV_EMBED_POSTGRES_URL": "postgresql://host/db",
        }
    )
    assert settings.home == tmp_path
    assert settings.metadata_dir == Path.home() / "metadata"
    assert (settings.store, settings.model, settings.devices) == ("/data/store", DEFAULT_MODEL, "cpu:2")
    assert settings.postgres_url == "postgresql://host/db"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("", "127.0.0.1", None), ("9400", "127.0.0.1", 9400), ("0.0.0.0:0", "0.0.0.0", 0), ("[::1]:9400", "::1", 9400)],
)
def test_where_metrics_are_served_is_a_port_or_a_host_and_a_port(text: str, host: str, port: int | None) -> None:
    settings = settings_from_environment({"ARXIV_EMBED_METRICS": text})
    assert (settings.metrics_host, settings.metrics_port) == (host, port)


@pytest.mark.parametrize("text", ["localhost", "9400:", "-1", "65536", "http://here:94000"])
def test_another_address_of_metrics_is_refused(text: str) -> None:
    with pytest.raises(ArxivEmbedError, match=f"^ARXIV_EMBED_METRICS is '{text}': give a port"):
        settings_from_environment({"ARXIV_EMBED_METRICS": text})


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings_from_environment({}).devices = "cpu"  # type: ignore[misc]


def test_nothing_reads_the_environment_on_import(tmp_path: Path) -> None:
    code = (
        "import os, arxiv_embed.settings as s, arxiv_embed.plan, arxiv_embed.progress; "
        f"os.environ['ARXIV_EMBED_HOME'] = {str(tmp_path)!r}; print(s.settings_from_environment().home)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(tmp_path)


def test_secrets_are_known_by_the_names_of_their_variables_the_longest_first() -> None:
    variables = {
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtn",
        "AWS_ACCESS_KEY_ID": "AKIA123456",
        "PGPASSWORD": "hunter2",
        "HF_TOKEN": "hf_AbCdEfGhIjKl",
        "MY_API_KEY": "short",
        "PATH": "/usr/bin",
    }
    assert secret_values(variables) == ["hf_AbCdEfGhIjKl", "wJalrXUtn", "hunter2"]
