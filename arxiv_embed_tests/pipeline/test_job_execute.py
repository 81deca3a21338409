"""`dagster job execute`: what a bare CI machine runs, with an empty DAGSTER_HOME and a file of configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.cli.commands import environment

DAGSTER = Path(sys.executable).with_name("dagster")


def job_execute(place: Path, **config: dict[str, object]) -> subprocess.CompletedProcess[str]:
    """Runs `embed_pending` in an empty DAGSTER_HOME, with each resource's configuration; writes below `place` only."""
    dagster_home = place / "dagster-home"
    dagster_home.mkdir()
    run_file = place / "run.yaml"
    run_file.write_text(yaml.safe_dump({"resources": {name: {"config": fields} for name, fields in config.items()}}))
    return subprocess.run(
        [DAGSTER, "job", "execute", "-m", "arxiv_embed.definitions", "-j", "embed_pending", "-c", run_file],
        env={**environment(place / "home"), "DAGSTER_HOME": str(dagster_home)},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_folder_becomes_a_store_from_a_file_of_configuration(
    tmp_path: Path, small_folder: Path, tiny_model: Path
) -> None:
    store = tmp_path / "store"
    result = job_execute(
        tmp_path,
        gpus={"devices": "cpu:1"},
        embedding={"metadata_dir": str(small_folder), "model": str(tiny_model), "store": str(store)},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    with open_store(str(store)) as opened:
        [space] = opened.spaces()
        assert opened.count(space.fingerprint)[0] == 11


def test_a_wrong_folder_fails_with_one_sentence_and_is_not_retried(tmp_path: Path, tiny_model: Path) -> None:
    result = job_execute(tmp_path, embedding={"metadata_dir": str(tmp_path / "nowhere"), "model": str(tiny_model)})
    assert result.returncode == 1
    printed = result.stdout + result.stderr
    assert f"There is no metadata folder {tmp_path / 'nowhere'}: give one with --metadata-dir." in printed
    assert "STEP_RESTARTED" not in printed
