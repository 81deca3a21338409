"""`dagster job execute`: what a bare CI machine runs, with an empty DAGSTER_HOME and a file of configuration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from arxiv_embed.stores.protocol import open_store
from arxiv_embed_tests.cli.commands import environment

DAGSTER = Path(sys.executable).with_name("dagster")

FAIL = """
import json, sys
from dagster import DagsterInstance
from arxiv_embed.definitions import defs

for job, config, tags in json.load(sys.stdin):
    with DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def(job).execute_in_process(
            run_config={"resources": {"embedding": {"config": config}}},
            instance=instance,
            tags=tags,
            raise_on_error=False,
        )
    steps = [event.event_type_value for event in result.all_events if event.is_step_event]
    [failure] = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    said = failure.user_failure_data.description if failure.user_failure_data else failure.error.message
    print(json.dumps([said, "STEP_UP_FOR_RETRY" in steps]))
sys.exit("torch" in sys.modules)
"""


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


def test_an_unknown_key_is_answered_before_anything_runs(tmp_path: Path) -> None:
    result = job_execute(tmp_path, embedding={"metadata_dirr": str(tmp_path)})
    assert result.returncode == 1
    assert 'unexpected config entry "metadata_dirr" at path root:resources:embedding:config.' in last_line(
        result.stderr
    )
    assert not (tmp_path / "home").exists()


def test_a_wrong_folder_fails_with_one_sentence_and_is_not_retried(tmp_path: Path, tiny_model: Path) -> None:
    result = job_execute(tmp_path, embedding={"metadata_dir": str(tmp_path / "nowhere"), "model": str(tiny_model)})
    assert result.returncode == 1
    printed = result.stdout + result.stderr
    assert f"There is no metadata folder {tmp_path / 'nowhere'}: make it, or name another." in printed
    assert "STEP_RESTARTED" not in printed
    assert "resulted in failure" in last_line(result.stderr)


def test_what_cannot_be_done_is_answered_in_one_sentence_before_torch_is_loaded(
    tmp_path: Path, small_folder: Path
) -> None:
    """In one process for all: each `dagster job execute` would take seconds to begin."""
    (tmp_path / "empty").mkdir()
    folder = {"metadata_dir": str(small_folder)}
    sentences = {
        f"There is no metadata folder {tmp_path / 'nowhere'}: ": ("embed_pending", {"metadata_dir": "nowhere"}, {}),
        f"The metadata folder {tmp_path / 'empty'} is empty: ": ("embed_pending", {"metadata_dir": "empty"}, {}),
        "No metadata folder is named: ": ("embed_pending", {}, {}),
        f"There is no model folder {tmp_path / 'nowhere'}: ": (
            "embed_pending",
            {**folder, "model": str(tmp_path / "nowhere")},
            {},
        ),
        "--priority 'soon' is not understood: ": ("embed_pending", {**folder, "priority": ["soon"]}, {}),
        "There is no partition 'third.jsonl': ": ("embed_shards", folder, {"dagster/partition": "third.jsonl"}),
        "No partition is chosen: ": ("embed_shards", folder, {}),
    }
    result = subprocess.run(
        [sys.executable, "-c", FAIL],
        env=environment(tmp_path / "home"),
        cwd=tmp_path,
        input=json.dumps(list(sentences.values())),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [retried for _, retried in answers] == [False] * len(sentences)
    for beginning, (said, _) in zip(sentences, answers, strict=True):
        assert said.startswith(beginning)
        assert said.endswith(".")
        assert "\n" not in said


def last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]
