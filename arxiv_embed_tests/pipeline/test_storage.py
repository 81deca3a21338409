"""Dagster's storage: where it lies, and that `dagster dev` and the command line mean the same place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, job, op
from dagster._core.instance.ref import InstanceRef

from arxiv_embed.pipeline.instance import PROJECT_INSTANCE, open_instance
from arxiv_embed.pipeline.storage import sqlalchemy_url
from arxiv_embed.settings import settings_from_environment
from arxiv_embed_tests.conftest import REPOSITORY


@op
def give() -> int:
    return 1


@op
def take(number: int) -> None:
    assert number == 1


@job
def hands_a_value_on() -> None:
    take(give())


def test_dagster_yaml_says_what_the_command_line_uses() -> None:
    written = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    assert {name: written[name] for name in PROJECT_INSTANCE} == PROJECT_INSTANCE


def test_dagster_dev_in_the_repository_sees_what_the_command_line_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / "home"))
    with open_instance(settings_from_environment()) as of_command_line:
        of_command_line.add_dynamic_partitions("metadata_files", ["a.jsonl"])
    # What `dagster dev` does without DAGSTER_HOME: a throw-away folder, configured by the repository's dagster.yaml.
    thrown_away = tmp_path / "thrown-away"
    thrown_away.mkdir()
    reference = InstanceRef.from_dir(str(thrown_away), config_dir=str(REPOSITORY))
    with DagsterInstance.from_ref(reference) as of_dagster_dev:
        assert of_dagster_dev.get_dynamic_partitions("metadata_files") == ["a.jsonl"]
    assert (tmp_path / "home" / "dagster" / "storage").is_dir()


def test_whatever_dagster_writes_lies_in_the_home_and_not_beside_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise DAGSTER_HOME could be neither the repository nor a folder of an image."""
    dagster_home = tmp_path / "dagster-home"
    dagster_home.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", dagster_home)
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / "home"))
    with DagsterInstance.get() as instance:
        result = hands_a_value_on.execute_in_process(instance=instance)
        assert result.success
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        places = [instance.storage_directory(), instance.schedules_directory(), instance.file_manager_directory("run")]
    assert all(Path(place).is_relative_to(tmp_path / "home" / "dagster") for place in places)
    assert [path.name for path in dagster_home.iterdir()] == ["dagster.yaml"]


def test_dagster_home_is_used_where_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(tmp_path / "home"))
    (tmp_path / "dagster.yaml").touch()
    with open_instance(settings_from_environment()) as instance:
        assert instance.root_directory == str(tmp_path)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_postgresql_url_is_given_the_driver_that_dagster_postgres_works_with(scheme: str) -> None:
    assert sqlalchemy_url(f"{scheme}://user@host/name") == "postgresql+psycopg2://user@host/name"
    assert sqlalchemy_url("postgresql+psycopg2://user@host/name") == "postgresql+psycopg2://user@host/name"
