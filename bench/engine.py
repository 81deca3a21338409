"""The engine: memory predicted, devices balanced, faults survived, on simulated devices in real worker processes.

The devices' laws of memory and speed are hidden from the engine (arxiv_embed_tests/gpu/simulated.py); what they compute
takes the time that it would, asleep. Lengths are those of real abstracts, or adversarial.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson

from arxiv_embed.encoding.model import resolve_model
from arxiv_embed.encoding.space import space_of
from arxiv_embed.encoding.tokens import PaperTokenizer, TokenizedPaper
from arxiv_embed.gpu.backlog import Piece
from arxiv_embed.gpu.batching import pieces
from arxiv_embed.gpu.lane import Patience
from arxiv_embed.gpu.outcomes import BatchReport, EncodedPaper, FailedPaper, Incident, Outcome
from arxiv_embed.metadata.paper import NotAPaper
from arxiv_embed.metadata.records import paper_of
from arxiv_embed.settings import DEFAULT_MODEL
from arxiv_embed_tests.gpu.simulated import GIB, Event, Simulation, paper, pieces_of, simulated_pool
from bench.abstract_lengths import abstract_lengths
from bench.data import real_data
from bench.metric import Metric

MOST_PAPERS = 256
EVER = 10**9

HIDDEN_LAWS = {
    "flash attention, 7.5 of 24 GiB weights": Simulation(
        weights=int(7.5 * GIB), law=(30e3, 150e3, 0.0), start=(10e3, 90e3, 1.0)
    ),
    "eager attention, 6 of 48 GiB weights": Simulation(
        total=48 * GIB, weights=6 * GIB, law=(0.0, 200e3, 400.0), start=(40e3, 80e3, 20.0)
    ),
    "a small model packed, 1.5 of 8 GiB weights": Simulation(
        total=8 * GIB, weights=int(1.5 * GIB), law=(50e3, 0.0, 0.0), start=(9e3, 2e3, 0.1), packed=True
    ),
}
FAST = 1e9
"""Tokens a second where the device's time is not what is measured."""


@dataclass
class Told:
    """One call of a pool: its outcomes, reports and incidents, and its seconds."""

    outcomes: list[Outcome]
    reports: list[BatchReport]
    incidents: list[Incident]
    seconds: float

    def count(self, what: str) -> int:
        return sum(incident.what == what for incident in self.incidents)

    @property
    def tokens(self) -> int:
        return sum(report.tokens for report in self.reports)

    def of(self, device: str) -> list[BatchReport]:
        return [report for report in self.reports if report.device == device]


def measure() -> list[Metric]:
    """Takes about six minutes on two cores."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        return [
            *_prediction(folder / "prediction"),
            *_adversarial(folder / "adversarial"),
            *_balance(folder / "balance"),
            _padding(folder / "padding"),
            *_faults(folder / "faults"),
            *_coordinator(folder / "coordinator"),
        ]


def run(
    folder: Path,
    simulations: Sequence[Simulation],
    papers: Iterator[Piece],
    *,
    batch_size: int = MOST_PAPERS,
    production: bool = True,
    patience: Patience | None = None,
) -> Told:
    """All the papers through a pool of its own."""
    told = Told([], [], [], 0.0)
    options = {"batch_size": batch_size, "production": production, "patience": patience}
    with simulated_pool(folder, simulations, **options) as pool:
        begun = time.perf_counter()
        told.outcomes += pool.encode_tokenized(papers, told.reports.append, told.incidents.append)
        told.seconds = time.perf_counter() - begun
    return told


def abstracts(count: int) -> list[TokenizedPaper]:
    """So many papers with the lengths of real abstracts."""
    lengths = abstract_lengths()
    return [paper(index, int(lengths[index % len(lengths)])) for index in range(count)]


def adversarial(count: int) -> list[TokenizedPaper]:
    """Lengths of 8 to 8,192 tokens, as many in each octave: shuffled, and in bursts that rise or fall."""
    lengths = np.exp(np.random.default_rng(5).uniform(np.log(8), np.log(8192), count)).astype(int)
    bursts = [
        np.sort(part)[:: 1 if number % 3 else -1] if number % 3 < 2 else part
        for number, part in enumerate(np.array_split(lengths, 50))
    ]
    return [paper(index, int(length)) for index, length in enumerate(np.concatenate(bursts))]


def _prediction(folder: Path) -> list[Metric]:
    errors: list[float] = []
    metrics = []
    for name, simulation in HIDDEN_LAWS.items():
        told = run(folder / name, [replace(simulation, rate=FAST)], pieces_of(abstracts(20_000)), batch_size=32)
        mine = [report.predicted_memory / report.peak_memory - 1 for report in told.reports[30:]]
        metrics.append(Metric(f"predictions within 8%: {name}", float(np.mean(np.abs(mine) <= 0.08)), "share"))
        errors += mine
    within, below = float(np.mean(np.abs(errors) <= 0.08)), float(np.mean(np.array(errors) < 0))
    return [
        *metrics,
        Metric("predictions within 8%, all laws", within, "share", 0.95),
        Metric("predictions below the measured peak", below, "share", 1 / 200, "at most"),
    ]


def _adversarial(folder: Path) -> list[Metric]:
    papers = adversarial(10_000)
    device = Simulation(weights=int(7.5 * GIB), law=(20e3, 60e3, 4.0), start=(10e3, 30e3, 1.0), rate=1e6)
    metrics = []
    for layout in ("packed", "padded"):
        alone = replace(device, packed=layout == "packed")
        told = run(folder / layout, [alone, alone], pieces_of(papers))
        peaks = [report.peak_memory / device.total for report in told.reports]
        metrics += [
            Metric(
                f"adversarial lengths, {layout}: out of memory", told.count("out of memory"), "events", 0, "at most"
            ),
            Metric(f"adversarial lengths, {layout}: mean peak use", float(np.mean(peaks)), "of the device", 0.62),
            Metric(f"adversarial lengths, {layout}: highest peak", max(peaks), "of the device", 0.9, "at most"),
        ]
    shared = replace(device, packed=True, script=[Event("tenant", 22, 40, amount=0.3 * device.total)])
    told = run(folder / "tenant", [shared, shared], pieces_of(papers))
    lost = len(papers) - len({o.index for o in told.outcomes if isinstance(o, EncodedPaper)})
    back = min(_budget_regained(told.of(name), device.total) for name in ("cuda:0", "cuda:1"))
    return [
        *metrics,
        Metric("a tenant takes 30%: out of memory", told.count("out of memory"), "events", 3, "at most"),
        Metric("a tenant takes 30%: papers lost", lost, "papers", 0, "at most"),
        Metric("a tenant takes 30%: budget when it has left ÷ before", back, "×", 0.95),
    ]


def _budget_regained(reports: Sequence[BatchReport], total: int) -> float:
    """The highest peak after the tenant has left, as a part of that before it came."""
    peaks = [report.peak_memory / total for report in reports]
    return max(peaks[42:], default=0.0) / max(peaks[:22])


def _balance(folder: Path) -> list[Metric]:
    papers = abstracts(40_000)
    work = sum(len(p.ids) for p in papers)
    metrics = []
    for speeds in ((1, 1), (1, 2), (1, 4)):
        rate = work / sum(speeds) / 8
        devices = [Simulation(rate=rate * speed, packed=True, law=(60e3, 0.0, 0.0)) for speed in speeds]
        name = f"speeds {speeds[0]}:{speeds[1]}"
        for production in (True, False):
            told = run(folder / f"{name} {production}", devices, pieces_of(papers), production=production)
            metrics.append(_makespan(name, told.seconds / (work / rate / sum(speeds)), production))
    rate = work / 2 / 8
    throttled = [
        Simulation(rate=rate, packed=True, law=(60e3, 0.0, 0.0), script=script)
        for script in ([], [Event("throttle", 45, EVER, amount=3.0)])
    ]
    for production in (True, False):
        told = run(folder / f"throttled {production}", throttled, pieces_of(papers), production=production)
        until = sum(report.tokens for report in told.of("cuda:1")[:45]) / rate
        ideal = until + (work - 2 * rate * until) / (rate + rate / 3)
        metrics.append(_makespan("1:1, one throttled to a third midway", told.seconds / ideal, production))
    return metrics


def _makespan(name: str, ratio: float, production: bool) -> Metric:
    if production:
        return Metric(f"makespan ÷ (work ÷ speed), {name}", ratio, "×", 1.05, "at most")
    return Metric(f"… dealt round robin, {name}", ratio, "×")


def _padding(folder: Path) -> Metric:
    """Real tokenization beside it, so that windows are as full as they are in a run."""
    files = resolve_model(DEFAULT_MODEL)
    tokenizer = PaperTokenizer(files, space_of(files, "whole"))

    def tokenized() -> Iterator[Piece]:
        texts = _texts()
        for piece in pieces(100_000):
            if some := list(islice(texts, len(piece))):
                yield tokenizer.tokenize(some, piece[: len(some)]), None

    device = Simulation(rate=130e3, law=(20e3, 100e3, 0.0))
    told = run(folder, [device, device], tokenized())
    computed = sum(report.padded_tokens for report in told.reports)
    return Metric("padding in arxiv_100k", (computed - told.tokens) / computed, "of computed tokens", 0.04, "at most")


def _texts() -> Iterator[str]:
    with gzip.open(real_data() / "arxiv_100k.jsonl.gz", "rb") as lines:
        for line in lines:
            with contextlib.suppress(NotAPaper):
                yield paper_of(orjson.loads(line)).text


def _faults(folder: Path) -> list[Metric]:
    lost = doubled = unexplained = failed = incidents = 0
    for seed in range(20):
        papers = [paper(index, len(p.ids)) for index, p in enumerate(abstracts(3000))]
        papers[1234] = paper(1234, 300, token=4242)
        chance = random.Random(seed)
        impatient = Patience(pause=0.05, longest_pause=0.5, first_batch=5.0, hang_floor=1.0, retired=1.0, look=0.05)
        devices = [_ill_device(chance), _ill_device(chance)]
        told = run(folder / str(seed), devices, pieces_of(papers), batch_size=32, patience=impatient)
        times = Counter(outcome.index for outcome in told.outcomes)
        lost += len(papers) - len(times)
        doubled += sum(count - 1 for count in times.values())
        failures = [outcome for outcome in told.outcomes if isinstance(outcome, FailedPaper)]
        failed += len(failures)
        unexplained += sum(not failure.reason for failure in failures)
        incidents += len(told.incidents)
    return [
        Metric("20 runs with faults: kills, hangs, out of memory", incidents, "incidents"),
        Metric("20 runs with faults: papers quarantined (20 are poisoned)", failed, "papers"),
        Metric("20 runs with faults: papers neither embedded nor failed", lost, "papers", 0, "at most"),
        Metric("20 runs with faults: papers more than once", doubled, "papers", 0, "at most"),
        Metric("20 runs with faults: failures without a reason", unexplained, "papers", 0, "at most"),
    ]


def _ill_device(chance: random.Random) -> Simulation:
    kinds = ["crash"] * 3 + ["hang"] + ["out of memory"] * 4
    numbers = [chance.randrange(50) for _ in kinds]
    script = [Event(kind, number, number) for kind, number in zip(kinds, numbers, strict=True)]
    return Simulation(rate=1e6, script=[*script, Event("crash", token=4242)])


def _coordinator(folder: Path) -> list[Metric]:
    """Workers that return at once, 4 × 2048 bfloat16 a paper; papers are made as they are asked for."""
    count, early = 1_000_000, 100_000
    lengths = abstract_lengths().astype(int)
    ids = np.arange(2000, dtype=np.int32)

    def endless_abstracts() -> Iterator[Piece]:
        for first in range(0, count, 1000):
            made = []
            for index in range(first, first + 1000):
                length = int(lengths[index % len(lengths)])
                third = length // 3
                spans = np.array([[0, length], [0, third], [third, 2 * third], [2 * third, length]], np.int32)
                made.append(TokenizedPaper(index, ids[:length], spans, spans[1:], 0))
            yield made, None

    device = Simulation(rate=1e12, packed=True, width=2048, vector_type="bfloat16", law=(2e4, 0.0, 0.0))
    done, held = 0, {}
    with simulated_pool(folder, [device, device], batch_size=MOST_PAPERS) as pool:
        begun = time.perf_counter()
        for outcome in pool.encode_tokenized(endless_abstracts()):
            assert isinstance(outcome, EncodedPaper)
            assert outcome.vectors.shape == (4, 2048)
            done += 1
            if done in (early, count):
                held[done] = _resident()
        seconds = time.perf_counter() - begun
    return [
        Metric("coordinator alone, 4 × 2048 bfloat16 a paper", count / seconds, "papers/s", 15_000),
        Metric("coordinator's memory, 1,000,000 papers ÷ 100,000", held[count] / held[early], "×", 1.05, "at most"),
    ]


def _resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
