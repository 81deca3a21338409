"""Devices: what `--devices` may say."""

from __future__ import annotations

import pytest

from arxiv_embed.gpu import devices
from arxiv_embed.gpu.devices import Device, parse_devices
from arxiv_embed.settings import ArxivEmbedError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cuda_devices", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cuda_devices", lambda: 0)


def test_a_number_of_cpus_is_so_many_workers() -> None:
    assert parse_devices("cpu") == [Device("cpu:0", "cpu")]
    assert parse_devices("cpu:2") == [Device("cpu:0", "cpu"), Device("cpu:1", "cpu")]
    assert [device.torch_name for device in parse_devices("cpu:2")] == ["cpu", "cpu"]


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_named_one_by_one_and_each_is_used_once() -> None:
    gpus = [Device("cuda:1", "cuda"), Device("cuda:0", "cuda")]
    assert parse_devices("cuda:1,cuda:0") == gpus
    assert parse_devices("cuda:1,cuda:0,cuda:1,cuda:00") == gpus
    assert [gpu.torch_name for gpu in gpus] == ["cuda:1", "cuda:0"]


@pytest.mark.usefixtures("two_gpus")
def test_auto_is_every_gpu() -> None:
    assert parse_devices("auto") == [Device("cuda:0", "cuda"), Device("cuda:1", "cuda")]


@pytest.mark.usefixtures("no_gpu")
def test_auto_without_a_gpu_is_a_worker_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: 3)
    assert [device.name for device in parse_devices("auto")] == ["cpu:0", "cpu:1", "cpu:2"]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ArxivEmbedError, match="no device cuda:2 here"):
        parse_devices("cuda:0,cuda:2")


@pytest.mark.parametrize("spec", ["", "gpu", "cpu:0", "cpu:-1", "cpu:x", "cuda", "cuda:", "cuda:0,", "cpu:1,cuda:0"])
def test_anything_else_is_refused(spec: str) -> None:
    with pytest.raises(ArxivEmbedError, match="Unknown --devices"):
        parse_devices(spec)
