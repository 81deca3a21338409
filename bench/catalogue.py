"""The catalogue: which benches there are, the machine that they run on, and their figures as JSON."""

from __future__ import annotations

import ast
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path

from arxiv_embed.errors import ArxivEmbedError
from arxiv_embed.gpu.devices import usable_cores
from bench.metric import LeftOut, Metric

BENCHES: Mapping[str, str] = {
    "backfill": "bench.backfill",
    "embed": "bench.embed",
    "engine": "bench.engine",
    "faults": "bench.faults",
    "quality": "bench.quality",
    "reading": "bench.reading",
    "scale": "bench.scale",
    "sensor": "bench.sensor",
    "store": "bench.store",
    "watch": "bench.watch",
}

CPU_INFO = Path("/proc/cpuinfo")


def load(name: str) -> Callable[[], list[Metric | LeftOut]]:
    """The bench of that name, ready to be called; raises `ArxivEmbedError` where there is none."""
    if name not in BENCHES:
        raise ArxivEmbedError(f"There is no bench '{name}': choose {', '.join(BENCHES)}.")
    measure: Callable[[], list[Metric | LeftOut]] = import_module(BENCHES[name]).measure
    return measure


def describe(module: str) -> str:
    """The first line of the docstring of one of `BENCHES`, read without importing it."""
    source = Path(__file__).with_name(module.rpartition(".")[2] + ".py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def machine() -> dict[str, str | int | bool]:
    """What the figures depend on besides the code; memory in bytes."""
    from bench.baseline import has_bfloat16

    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "bfloat16": has_bfloat16(),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
    }


def to_json(name: str, metrics: Sequence[Metric | LeftOut]) -> dict[str, object]:
    """`{"bench", "machine", "metrics"}`; a metric without a target has null for `target` and `ok`, one left out for
    `value` too, and the reason as `left_out`."""
    return {"bench": name, "machine": machine(), "metrics": [metric.to_json() for metric in metrics]}


def _cpu_model() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
