"""`arxiv-embed plan`: the devices that a run would have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from arxiv_embed.cli.app import app
from arxiv_embed.gpu import devices
from arxiv_embed.gpu.devices import parse_devices
from arxiv_embed.gpu.inventory import DeviceFacts, describe, inventory
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
