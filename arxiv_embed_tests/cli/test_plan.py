"""`arxiv-embed plan`: the devices that a run would have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import arxiv_embed.equipment
from arxiv_embed.checkpoint.store import CheckpointStore
from arxiv_embed.cli.app import app
from arxiv_embed.encoding.weights import loaded_bytes
from arxiv_embed.gpu import devices
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.inventory import DeviceFacts, describe, inventory
from arxiv_embed.history import FailedShard, refresh_history
from arxiv_embed.metadata.shards import list_folder
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.encoding.tiny_jina import TinyJina
from arxiv_embed_tests.fake_pool import FakePool, run_shards
from arxiv_embed_tests.gpu.fake_nvml import FakeGpu, FakeNvml


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [FakeGpu("GPU-aa", bus=1, links=(2,) * 4), FakeGpu("GPU-bb", bus=2, links=(1,) * 4, milliwatts=350_000)]
    monkeypatch.setattr(devices, "_nvml", lambda: FakeNvml(gpus))
    monkeypatch.setattr(devices, "_torch_build", lambda: "cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def plan(folder: Path, home: Path, model: Path, *arguments: str) -> str:
    command = ["plan", "--metadata-dir", str(folder), "--model", str(model), *arguments]
    result = CliRunner(env={"ARXIV_EMBED_HOME": str(home)}).invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def in_words(text: str) -> str:
    return " ".join(text.split())


def test_a_plan_has_a_line_for_each_device(small_folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    shown = plan(small_folder, tmp_path / "home", tiny_model, "--devices", "cpu:2")
    [first, second] = [line for line in shown.splitlines() if "cpu:" in line]
    assert first.startswith("devices  cpu:0: ")
    assert second.strip().startswith("cpu:1: ")


@pytest.mark.usefixtures("two_gpus")
def test_a_plan_tells_gpus_that_differ_apart(small_folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    shown = in_words(plan(small_folder, tmp_path / "home", tiny_model, "--devices", "auto"))
    for facts in inventory(parse_devices("auto")):
        assert describe(facts) in shown
    assert "700 W at most, NVLinks: 4 to cuda:1" in shown
    assert "350 W at most, NVLinks: 4 to cuda:0" in shown


@pytest.mark.usefixtures("two_gpus")
def test_a_plan_in_json_has_the_facts(small_folder: Path, tmp_path: Path, tiny_model: Path) -> None:
    told = json.loads(plan(small_folder, tmp_path / "home", tiny_model, "--devices", "cuda:1", "--json"))
    assert [DeviceFacts(**facts) for facts in told["devices"]] == inventory(parse_devices("cuda:1"))
    assert told["devices"][0]["power_limit"] == 350


def test_a_plan_s_memory_is_that_of_the_weights_that_are_loaded_where_nothing_was_measured(
    small_folder: Path, tmp_path: Path
) -> None:
    jina = tmp_path / "jina-embeddings-v4"
    TinyJina().save_base(jina)
    told = json.loads(plan(small_folder, tmp_path / "home", jina, "--devices", "cpu:1", "--json"))
    assert told["memory_bytes_per_device"] == loaded_bytes(jina)
    assert told["memory_bytes_per_device"] < sum(path.stat().st_size for path in jina.glob("*.safetensors"))


def test_a_plan_tells_tokens_by_the_texts_once_a_run_has_read_them_and_learned(
    small_folder: Path, settings: Settings, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's tokenizer gives a token a word, which nobody could know before."""

    def tokens(*arguments: str) -> tuple[int, str]:
        told = json.loads(plan(small_folder, settings.home, tiny_model, "--devices", "cpu:1", "--json", *arguments))
        shown = in_words(plan(small_folder, settings.home, tiny_model, "--devices", "cpu:1", *arguments))
        return told["tokens"], shown.partition(" a paper, ")[2].partition(")")[0]

    pool = FakePool(dimensions=32)
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", pool)
    assert tokens()[1] == "typical of arXiv"
    options = RunOptions(small_folder, settings.store, settings.checkpoints, model=str(tiny_model), devices="cpu:1")
    run_shards(options, settings.home, "run")
    truth = sum(len(text.split()) for text in pool.embedded)
    told, basis = tokens("--chunker", "whole")  # another space: nothing is embedded there yet
    assert basis == "estimated by their texts"
    assert told == pytest.approx(truth, rel=0.1)
    for checkpoint in (settings.checkpoints / "papers").glob("**/*.arrow"):
        checkpoint.write_bytes(b"")  # planning does not count on it, and sets nothing aside
    told, basis = tokens("--chunker", "whole")
    assert basis == "learned here of this model"
    assert not (settings.checkpoints / "quarantine").exists()


def test_a_plan_tells_shards_that_were_read_from_those_that_were_not(
    small_folder: Path, settings: Settings, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arxiv_embed.equipment, "Pool", FakePool(dimensions=32))
    options = RunOptions(small_folder, settings.store, settings.checkpoints, model=str(tiny_model), devices="cpu:1")
    run_shards(options, settings.home, "run", steps=["read"])
    (small_folder / "third.jsonl").write_bytes((small_folder / "first.jsonl").read_bytes())
    shown = in_words(plan(small_folder, settings.home, tiny_model, "--devices", "cpu:1"))
    assert "estimated by their texts where they were read, otherwise taken to be alike" in shown


def test_a_plan_names_pending_shards_that_have_failed_and_what_it_takes_to_try_them(
    small_folder: Path, settings: Settings, tiny_model: Path
) -> None:
    shards = list_folder(small_folder, shard_papers=20_000, index=settings.index).shards
    signatures = {shard.key: shard.signature for shard in shards}

    def failed(shard: str, attempts: int, *, signature: str = "") -> FailedShard:
        signature = signature or signatures[shard]
        return FailedShard("It broke.", "transient", attempts, "2026-01-01", "r", signature, attempts >= 3)

    def told(failures: dict[str, FailedShard], *arguments: str) -> list[str]:
        refresh_history(
            settings,
            store_url=settings.store,
            checkpoints=CheckpointStore(settings.checkpoints),
            spaces=None,
            failed=failures,
        )
        shown = plan(small_folder, settings.home, tiny_model, "--devices", "cpu:1", *arguments)
        return [line for line in shown.splitlines() if "has failed" in line]

    both = {"first.jsonl": failed("first.jsonl", 3), "second.jsonl": failed("second.jsonl", 1)}
    assert told(both) == [
        "first.jsonl has failed 3 times (It broke.): not tried again without --resume",
        "second.jsonl has failed 1 time (It broke.)",
    ]
    assert told(both, "--resume")[0] == "first.jsonl has failed 3 times (It broke.)"
    assert told({"first.jsonl": failed("first.jsonl", 3, signature="of an older file")}) == []
