"""The engine on real GPUs: `python -m bench.gpu`, against the matrix product's rate and sentence-transformers.

A model of Jina v4's text shape with random weights, in bfloat16, embeds random tokens in the lengths of real abstracts
(`bench.gpu_model` says how FLOP are counted). It is the real pool, planner and worker that are measured; tokenization
and stores are not: `bench.embed` measures those. Torch, transformers, NumPy and pynvml are enough, and the package need
not be installed: run it in the repository root.

Each device is measured alone, with the matrix product before and after, and then all of them together. Figures go to
`bench/results/`, in a file named by the devices; where there is no GPU nothing is measured. The exit code is 1 where a
target is missed or a device fails, 2 where the arguments are not right.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from arxiv_embed.encoding.tokens import TokenizedPaper
from arxiv_embed.errors import ArxivEmbedError, FatalError
from arxiv_embed.gpu.batching import pieces
from arxiv_embed.gpu.devices import Device, ask, nvml_session, parse_devices, usable_cores
from arxiv_embed.gpu.inventory import cpu_model, describe, inventory
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, Incident
from arxiv_embed.gpu.pool import Pool
from arxiv_embed.gpu.process import WorkerProcess
from bench.gpu_beside import ROWS, Timed, matrix_rates, memory_of_a_token, sentence_transformers
from bench.gpu_model import JINA_V4, TextShape, model_files, random_papers, space
from bench.gpu_worker import command
from bench.metric import LeftOut, Metric

RESULTS = Path(__file__).with_name("results")
NO_GPU = "There is no GPU here: nothing was measured."

SHARE_OF_THE_LIMIT, TIMES_SENTENCE_TRANSFORMERS = 0.65, 2.5
MOST_FOR_LATE_CHUNKING = 1.05
MEMORY_TOKENS = 16_384

WARMING_PAPERS = 2048
LEARNING_BATCHES = 30
"""Predictions of memory are held against what was measured once so many batches have taught the law."""

MATRIX_SHARE = 0.05
"""How long the matrix product is measured, before and again after, as a part of the engine's seconds."""


@dataclass
class Results:
    metrics: list[Metric] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)


@dataclass(frozen=True)
class EngineRun:
    """A warm pool's run over papers, of which those that got vectors have these `lengths` in tokens and `failed` got
    none; `learning` are the batches of the same pool before it."""

    devices: int
    lengths: Sequence[int]
    failed: int
    seconds: float
    batches: Sequence[BatchReport]
    learning: Sequence[BatchReport]
    incidents: Sequence[Incident]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    @property
    def rate(self) -> float:
        """Tokens/s, padding not counted."""
        return self.tokens / self.seconds


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    """Measures, prints a table and writes JSON into the folder `results`; returns the exit code."""
    parser = argparse.ArgumentParser("python -m bench.gpu", description="Measure the engine on this machine's GPUs.")
    parser.add_argument("--papers", type=int, default=20_000, help="so many at most (default: %(default)s)")
    parser.add_argument("--devices", default="auto", help="auto, or cuda:0,cuda:1 (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="about so long for each figure (default: %(default)g)"
    )
    options = parser.parse_args(arguments)
    if options.papers < 1 or options.seconds <= 0:
        parser.error("--papers and --seconds must be more than 0")
    if not any(device.kind == "cuda" for device in parse_devices("auto")):
        print(NO_GPU)
        return 0
    try:
        devices = parse_devices(options.devices)
        if any(device.kind != "cuda" for device in devices):
            raise ArxivEmbedError(f"--devices {options.devices} names no GPU: write auto or cuda:0,cuda:1.")
        facts = machine(devices)
        measured = measure(devices, JINA_V4, "bfloat16", options.papers, options.seconds)
    except ArxivEmbedError as error:
        print(error, file=sys.stderr)
        return 1 if isinstance(error, FatalError) else 2
    print(table(measured))
    results.mkdir(exist_ok=True)
    file = results / file_name(devices)
    file.write_text(json.dumps(to_json(facts, measured), indent=1) + "\n")
    print(f"Written to {file}.")
    return int(any(metric.ok is False for metric in measured.metrics))


def measure(
    devices: Sequence[Device], shape: TextShape, dtype: str, papers: int, seconds: float, rows: int = ROWS
) -> Results:
    """Every device alone, then all together; `rows` are the matrix product's. Raises `FatalError` where a device cannot
    be used at all."""
    results = Results()
    given = random_papers(papers, shape.vocabulary)
    alone = []
    for device in devices:
        prefix = f"{device.name}: " if len(devices) > 1 else ""
        rates = _matrix(device, shape, dtype, seconds, rows)
        run = run_engine([device], shape, dtype, given, seconds)
        rates += _matrix(device, shape, dtype, seconds, rows)
        alone.append(run)
        _add_run(results, prefix, run)
        _add_limit(results, prefix, run, shape, median(rates), rows)
        padded = run_engine([device], shape, dtype, given, seconds, layout="padded")
        plain = run_engine([device], shape, dtype, random_papers(papers, shape.vocabulary, chunked=False), seconds)
        results.metrics += [
            Metric(f"{prefix}packed ÷ padded", run.rate / padded.rate, "×"),
            Metric(
                f"{prefix}late chunking ÷ plain, seconds", plain.rate / run.rate, "×", MOST_FOR_LATE_CHUNKING, "at most"
            ),
        ]
        _say(f"{device.name}: memory")
        ours, inner = memory_of_a_token(device, shape, dtype, MEMORY_TOKENS)
        results.metrics += [
            Metric(f"{prefix}memory of a token, encoder", ours, "bytes"),
            Metric(f"{prefix}memory of a token, inner model", inner, "bytes"),
        ]
        _say(f"{device.name}: sentence-transformers")
        _add_baseline(results, prefix, run, lambda on=device: sentence_transformers(on, shape, dtype, papers, seconds))
    if len(devices) > 1:
        together = run_engine(devices, shape, dtype, given, seconds)
        _add_run(results, f"{' + '.join(device.name for device in devices)}: ", together)
        scaling = together.rate / sum(run.rate for run in alone)
        results.metrics.append(Metric("all devices ÷ sum of each alone", scaling, "×"))
    return results


def run_engine(
    devices: Sequence[Device],
    shape: TextShape,
    dtype: str,
    papers: Sequence[TokenizedPaper],
    seconds: float,
    layout: str = "packed",
) -> EngineRun:
    """Warms a pool up, then gives it as many of the papers as it will do in about so many seconds.

    Raises `FatalError` where the devices cannot be used, or no paper gets a vector.
    """
    batches: list[BatchReport] = []
    incidents: list[Incident] = []

    def encode(some: Sequence[TokenizedPaper]) -> tuple[list[int], float]:
        given = ((some[piece.start : piece.stop], None) for piece in pieces(len(some)))
        begun = time.perf_counter()
        outcomes = pool.encode_tokenized(given, batches.append, incidents.append)
        lengths = [outcome.tokens for outcome in outcomes if isinstance(outcome, EncodedPaper)]
        if not lengths:
            raise FatalError(f"No paper got a vector: {incidents[-1].detail.rstrip('.')}.")
        return lengths, time.perf_counter() - begun

    _say(f"{', '.join(device.name for device in devices)}: the engine, {layout}")
    hire = partial(WorkerProcess, command=command(shape, layout))
    with Pool(model_files(shape), space(shape), devices, dtype=dtype, hire=hire) as pool:
        warming = papers[:WARMING_PAPERS]
        _, warmed = encode(warming)
        learning = len(batches)
        measured = papers[: max(1, round(seconds * len(warming) / warmed))]
        lengths, taken = encode(measured)
    return EngineRun(
        devices=len(devices),
        lengths=lengths,
        failed=len(measured) - len(lengths),
        seconds=taken,
        batches=batches[learning:],
        learning=batches[:learning],
        incidents=incidents,
    )


def _matrix(device: Device, shape: TextShape, dtype: str, seconds: float, rows: int) -> list[float]:
    _say(f"{device.name}: the matrix product")
    return matrix_rates(device, shape, dtype, MATRIX_SHARE * seconds, rows)


def _add_run(results: Results, prefix: str, run: EngineRun) -> None:
    computed = sum(report.padded_tokens for report in run.batches)
    tokens = sum(report.tokens for report in run.batches)
    busy = sum(report.seconds for report in run.batches) / (run.seconds * run.devices)
    out_of_memory = sum(incident.what == "out of memory" for incident in run.incidents)
    results.incidents += run.incidents
    results.metrics += [
        Metric(f"{prefix}papers with vectors", len(run.lengths), "papers"),
        Metric(f"{prefix}tokens of a paper, mean", run.tokens / len(run.lengths), "tokens"),
        Metric(f"{prefix}engine, papers", len(run.lengths) / run.seconds, "papers/s"),
        Metric(f"{prefix}engine, tokens", run.rate, "tokens/s"),
        Metric(f"{prefix}time in the encoder ÷ time", busy, "×"),
        Metric(f"{prefix}padding ÷ tokens", computed / tokens - 1, "×"),
        Metric(f"{prefix}batches", len(run.batches), "batches"),
        Metric(f"{prefix}out of memory", out_of_memory, "batches"),
        Metric(f"{prefix}papers without vectors", run.failed, "papers"),
    ]
    predicted = [*run.learning, *run.batches][LEARNING_BATCHES:]
    if not predicted:
        reason = f"there were no more than {LEARNING_BATCHES} batches"
        results.left_out.append(LeftOut(f"{prefix}prediction of memory", reason))
        return
    errors = [abs(report.predicted_memory / report.peak_memory - 1) for report in predicted]
    exceeded = sum(report.peak_memory > report.predicted_memory for report in predicted) / len(predicted)
    results.metrics += [
        Metric(f"{prefix}prediction of memory, 95th percentile of |error|", float(np.quantile(errors, 0.95)), "×"),
        Metric(f"{prefix}batches that took more than predicted ÷ batches", exceeded, "×"),
    ]


def _add_limit(results: Results, prefix: str, run: EngineRun, shape: TextShape, matrix: float, rows: int) -> None:
    flop = shape.flop(run.lengths)
    product = f"{rows} × {shape.width} by {shape.width} × {shape.inner}"
    results.metrics += [
        Metric(f"{prefix}matrix product, {product}", matrix / 1e12, "TFLOP/s"),
        Metric(f"{prefix}FLOP of a token, mean", flop / run.tokens / 1e9, "GFLOP"),
        Metric(f"{prefix}limit by the matrix product", matrix / (flop / run.tokens), "tokens/s"),
        Metric(f"{prefix}engine ÷ limit", flop / run.seconds / matrix, "×", SHARE_OF_THE_LIMIT),
    ]


def _add_baseline(results: Results, prefix: str, run: EngineRun, measured: Callable[[], Timed]) -> None:
    name = f"{prefix}engine ÷ sentence-transformers"
    if importlib.util.find_spec("sentence_transformers") is None:
        results.left_out.append(LeftOut(name, "sentence-transformers is not installed"))
        return
    try:
        theirs = measured()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs, and what else was measured stands
        line = next(iter(str(error).strip().splitlines()), "no reason given")
        results.left_out.append(LeftOut(name, f"sentence-transformers failed: {line} ({type(error).__name__})"))
        return
    rate = theirs.tokens / theirs.seconds
    release = version("sentence-transformers")
    results.metrics += [
        Metric(f"{prefix}sentence-transformers {release}, papers with vectors", theirs.papers, "papers"),
        Metric(f"{prefix}sentence-transformers {release}, tokens", rate, "tokens/s"),
        Metric(name, run.rate / rate, "×", TIMES_SENTENCE_TRANSFORMERS),
    ]


def machine(devices: Sequence[Device]) -> dict[str, Any]:
    """What the figures depend on besides the code; memory in bytes."""
    import torch

    facts = inventory(devices)
    for device in facts:
        _say(describe(device))
    with nvml_session() as nvml:
        driver = None if nvml is None else ask(nvml, "nvmlSystemGetDriverVersion")
    return {
        "devices": [asdict(device) for device in facts],
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores": usable_cores(),
    }


def to_json(facts: dict[str, Any], results: Results) -> dict[str, Any]:
    """`{"bench", "machine", "metrics", "left_out", "incidents"}`."""
    return {
        "bench": "gpu",
        "machine": facts,
        "metrics": [metric.to_json() for metric in results.metrics],
        "left_out": [{"name": one.name, "reason": one.reason} for one in results.left_out],
        "incidents": [asdict(incident) for incident in results.incidents],
    }


def file_name(devices: Sequence[Device]) -> str:
    """`gpu-nvidia-h100-80gb-hbm3.json`, `gpu-2x-nvidia-l4.json`."""
    products = Counter(facts.product or facts.kind for facts in inventory(devices))
    names = [f"{count}x {product}" if count > 1 else product for product, count in products.items()]
    return f"gpu-{re.sub(r'[^a-z0-9]+', '-', ' '.join(names).lower()).strip('-')}.json"


def table(results: Results) -> str:
    """Metric, measured value, unit, target and verdict, a line each; then what was left out, and why."""
    rows = [("metric", "measured", "unit", "target", "verdict")]
    rows += [(metric.name, *metric.cells) for metric in results.metrics]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, value, unit, target, verdict in rows:
        cells = (
            name.ljust(widths[0]),
            value.rjust(widths[1]),
            unit.ljust(widths[2]),
            target.rjust(widths[3]),
            verdict,
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *(f"{one.name}: left out, {one.reason}" for one in results.left_out)])


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
