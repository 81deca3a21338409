"""The commands `checkpoint …`, and what `status` and `run` say of damage, failures and runs that were killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from arxiv_embed import equipment
from arxiv_embed.checkpoint.manifest import CheckpointKey
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.cli.app import app
from arxiv_embed.errors import Kind
from arxiv_embed.history import FailedShard, refresh_history
from arxiv_embed.run import Run
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.cli.commands import arxiv_embed
from arxiv_embed_tests.damage import flip
from arxiv_embed_tests.fake_pool import FakePool, run_shards

FIRST = "first.jsonl"


@pytest.fixture
def options(small_folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    """Of a home with two shards done."""
    monkeypatch.setattr(equipment, "Pool", FakePool())
    options = RunOptions(small_folder, settings.store, settings.checkpoints, devices="cpu:1")
    run_shards(options, settings.home, "first run")
    return options


def data_of(settings: Settings, name: str) -> Path:
    [path] = settings.checkpoints.glob(f"embeddings/*/{FIRST}/{name}")
    return path


@pytest.mark.usefixtures("options")
def test_show_lists_what_is_kept_and_its_json_is_the_history(settings: Settings) -> None:
    shown = arxiv_embed(settings.home, "checkpoint", "show", FIRST)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len([line for line in lines if line.startswith(FIRST)]) == 2
    assert "second.jsonl" not in shown.stdout
    history = json.loads(arxiv_embed(settings.home, "checkpoint", "show", "--json").stdout)
    assert history["metadata"]["version"] == "2.0"
    assert sorted(history["processed_files"]) == [FIRST, "second.jsonl"]
    assert history["gpu_stats"]["cpu:0"]["papers"] == 11


@pytest.mark.usefixtures("options")
def test_verify_reads_every_byte_and_changes_nothing_unless_it_is_asked_to(settings: Settings) -> None:
    whole = arxiv_embed(settings.home, "checkpoint", "verify")
    assert whole.returncode == 0
    assert "all whole" in whole.stdout
    path = data_of(settings, "g000001.vectors.arrow")
    flip(path)
    found = arxiv_embed(settings.home, "checkpoint", "verify")
    assert found.returncode == 1
    assert "1 damaged file" in found.stdout
    assert "--repair sets them aside" in found.stdout
    assert path.exists()

    repaired = arxiv_embed(settings.home, "checkpoint", "verify", "--repair")
    assert repaired.returncode == 1
    assert not path.exists()
    assert arxiv_embed(settings.home, "checkpoint", "verify").returncode == 0
    status = arxiv_embed(settings.home, "status")
    assert "1 damaged file set aside" in status.stdout.replace("\n", " ")
    [damage] = json.loads(arxiv_embed(settings.home, "status", "--json").stdout)["quarantine"]
    assert (damage["shard"], damage["asset"]) == (FIRST, "embeddings")
    assert "sha256" in damage["reason"]


def test_a_damaged_history_is_found_by_verify_and_made_again(options: RunOptions, settings: Settings) -> None:
    refresh_history(
        settings, store_url=options.store, checkpoints=CheckpointStore(options.checkpoints), spaces=None, failed={}
    )
    [path] = settings.history.glob("papers-*[0-9a-f].json")
    flip(path)
    assert arxiv_embed(settings.home, "checkpoint", "verify").returncode == 1
    assert arxiv_embed(settings.home, "checkpoint", "verify", "--repair").returncode == 1
    assert "1 damaged file set aside" in arxiv_embed(settings.home, "status").stdout
    assert arxiv_embed(settings.home, "checkpoint", "show").returncode == 0
    assert arxiv_embed(settings.home, "checkpoint", "verify").returncode == 0


@pytest.mark.usefixtures("options")
def test_whoever_looks_changes_nothing(settings: Settings) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in settings.home.rglob("*"))
    for command in (["status"], ["checkpoint", "show"], ["checkpoint", "verify"]):
        assert arxiv_embed(settings.home, *command).returncode == 0
    assert sorted((path, path.stat().st_mtime_ns) for path in settings.home.rglob("*")) == before


def test_what_is_exported_is_a_folder_of_checkpoints(options: RunOptions, settings: Settings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    exported = arxiv_embed(settings.home, "checkpoint", "export", copy, FIRST)
    assert exported.returncode == 0, exported.stderr
    assert "2 checkpoints of 1 shard" in exported.stdout
    keys = CheckpointStore(copy).keys()
    assert [key.asset for key in keys] == ["embeddings", "papers"]
    for key in keys:
        ours, theirs = CheckpointStore(options.checkpoints).load(key), CheckpointStore(copy).load(key)
        assert ours is not None
        assert theirs is not None
        assert ours.tables == theirs.tables
    again = arxiv_embed(settings.home, "checkpoint", "export", copy)
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_restore_brings_the_generation_before_back_and_a_second_time_undoes_it(
    options: RunOptions, settings: Settings
) -> None:
    refused = arxiv_embed(settings.home, "checkpoint", "restore", FIRST)
    assert refused.returncode == 2
    assert "no whole generation" in refused.stderr
    store = CheckpointStore(options.checkpoints)
    [key] = [key for key in store.keys() if (key.asset, key.shard) == ("embeddings", FIRST)]  # noqa: SIM118
    first = store.load(key)
    assert first is not None
    fewer = {name: table.slice(0, 3) for name, table in first.tables.items()}
    store.commit(key, fewer, source=first.manifest.source, counts=first.manifest.counts, run_id="second")
    restored = arxiv_embed(settings.home, "checkpoint", "restore", FIRST)
    assert restored.returncode == 0, restored.stderr
    assert "generation 3 is what generation 1 was" in restored.stdout
    assert rows(store, key) == first.tables["vectors"].num_rows
    assert arxiv_embed(settings.home, "checkpoint", "restore", FIRST).returncode == 0
    assert rows(store, key) == 3


def rows(store: CheckpointStore, key: CheckpointKey) -> int:
    loaded = store.load(key)
    assert loaded is not None
    return loaded.tables["vectors"].num_rows


@pytest.mark.usefixtures("options")
def test_a_shard_that_is_not_kept_is_one_sentence(settings: Settings) -> None:
    for command in (["show"], ["restore"], ["export", settings.home / "copy"]):
        result = arxiv_embed(settings.home, "checkpoint", *command, "nowhere.jsonl")
        assert result.returncode == 2
        assert "No checkpoint of a shard 'nowhere.jsonl' is kept" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_an_empty_home_is_shown_and_verified_too(tmp_path: Path) -> None:
    shown = arxiv_embed(tmp_path / "home", "checkpoint", "show")
    assert "No checkpoint is kept yet" in shown.stdout
    assert arxiv_embed(tmp_path / "home", "checkpoint", "verify").returncode == 0


def printed(settings: Settings, *arguments: str) -> str:
    result = CliRunner(env={"ARXIV_EMBED_HOME": str(settings.home)}).invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_failed_and_what_repeats_is_shown(options: RunOptions, settings: Settings) -> None:
    with Run(options, settings, "second run") as run:
        run.start([FIRST])
        run.journal.met(FIRST, ConnectionError("no answer"), Kind.TRANSIENT, "given up")
        run.journal.fail(FIRST, ConnectionError("no answer"))
        run.journal.give_up("second.jsonl", 3, "It broke.")
    failed = FailedShard("It broke.", "transient", 3, "2026-01-01", "r", "s", given_up=True)
    refresh_history(
        settings,
        store_url=options.store,
        checkpoints=CheckpointStore(options.checkpoints),
        spaces=None,
        failed={"second.jsonl": failed},
    )
    shown = printed(settings, "checkpoint", "show")
    assert "failed: second.jsonl: It broke. (3 attempts, given up)" in shown
    assert "transient: ConnectionError: no answer" in shown
    status = printed(settings, "status")
    assert "failed: first.jsonl: ConnectionError: no answer" in status
    assert "not tried again: second.jsonl: It broke. (tried 3 times): `arxiv-embed run --resume` tries it" in status


@pytest.mark.usefixtures("options")
def test_status_names_the_damaged_files_and_where_they_are(settings: Settings) -> None:
    flip(data_of(settings, "g000001.vectors.arrow"))
    CheckpointStore(settings.checkpoints).load(
        next(key for key in CheckpointStore(settings.checkpoints).keys() if key.asset == "embeddings")  # noqa: SIM118
    )
    status = printed(settings, "status")
    assert "g000001.vectors.arrow: its sha256 does not fit; set aside in " in status
