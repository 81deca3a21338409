"""The exposition of a run: its metrics as the text that Prometheus reads, and the metrics back from that text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from datetime import datetime
from typing import Any, TypeAlias

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, StateSetMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from prometheus_client.registry import Collector

from arxiv_embed.error_patterns import as_iso, writable
from arxiv_embed.errors import ArxivEmbedError, masked
from arxiv_embed.exposed import DEVICE, HEALTH, RUN, Number
from arxiv_embed.gpu.health import Action, DeviceHealth, Verdict
from arxiv_embed.metrics import DeviceMetrics, Failure, RunMetrics

PREFIX = "arxiv_embed_"
STATES = ("starting", "running", "done", "failed", "unfinished", "interrupted", "killed")

Samples: TypeAlias = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]
"""Labels and value of each sample, by the sample's name without `PREFIX`."""


RENDER: Callable[[Collector], bytes] = generate_latest
RUN_TEXTS = ("run_id", "model", "dtype", "store", "metadata_dir")
"""What stays as it is while a run lives."""
HEALTH_LISTS = {
    "reasons": ("device_health_reason", "1 for each reason of the verdict."),
    "throttled_by": ("device_throttled", "1 for each reason why the driver slows the clocks."),
}
"""Lists of words, and the family that has a sample for each."""


class RunCollector(Collector):
    """What a registry asks at each scrape; `figures` are the run's as they are then."""

    def __init__(self, figures: Callable[[], RunMetrics]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        return list(families(self._figures()))


def openmetrics_of(run: RunMetrics) -> str:
    """The text in OpenMetrics, without the run's notices."""
    return RENDER(RunCollector(lambda: run)).decode()


# -- there


def families(run: RunMetrics) -> Iterator[Metric]:
    """Metric families of a run: each once, devices told apart by the label `device`."""
    yield _info("run", "The run.", [{name: getattr(run, name) for name in RUN_TEXTS}])
    yield _states("run_state", "What the run is at.", STATES, {"": run.state})
    yield _info("shard", "The shard last begun or gone on with.", [{"shard": run.shard}] if run.shard else [])
    yield _info("error", "Why the run was stopped.", [{"error": run.error}] if run.error else [])
    yield from _numbers(RUN, {"": vars(run)})
    reused = _gauge("papers_reused", "Papers whose vectors were there already, by where.", "origin")
    for origin, count in run.reused.items():
        reused.add_metric([origin], count)
    yield reused
    yield from _of_failures(run.failures)
    yield from _of_devices(run.devices)
    yield from _of_health({device.device: device.health for device in run.devices if device.health})


def _of_failures(failures: Sequence[Failure]) -> Iterator[Metric]:
    counts = CounterMetricFamily(f"{PREFIX}failures", "Errors, by pattern.", labels=["pattern", "kind"])
    last = _gauge("failure_last_timestamp_seconds", "When it was met last, since the epoch.", "pattern", "kind")
    for failure in failures:
        labels = [_label(failure.pattern), _label(failure.kind)]
        counts.add_metric(labels, failure.count)
        last.add_metric(labels, datetime.fromisoformat(failure.last).timestamp())
    yield counts
    yield last
    examples = [{"pattern": one.pattern, "kind": one.kind, "example": one.example} for one in failures]
    yield _info("failure", "An example of each pattern of errors.", examples)


def _of_devices(devices: Sequence[DeviceMetrics]) -> Iterator[Metric]:
    yield _info("device", "The device.", [{"device": one.device, "product": one.product} for one in devices])
    troubled = [{"device": one.device, "trouble": one.trouble} for one in devices if one.trouble]
    yield _info("device_trouble", "What keeps a device from working at present.", troubled)
    yield from _numbers(DEVICE, {one.device: vars(one) for one in devices})
    incidents = CounterMetricFamily(
        f"{PREFIX}device_incidents", "What happened on a device.", labels=["device", "what"]
    )
    for device in devices:
        for what, count in device.incidents.items():
            incidents.add_metric([_label(device.device), _label(what)], count)
    yield incidents


def _of_health(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Of the last report of each device."""
    verdicts = {device: health["verdict"] for device, health in reports.items()}
    yield _states("device_health", "How a device is.", list(Verdict), verdicts)
    actions = {device: health.get("action", "") for device, health in reports.items()}
    yield _states("device_action", "What was done about that.", [action for action in Action if action], actions)
    yield from _numbers(HEALTH, reports)
    for name, (family, what) in HEALTH_LISTS.items():
        words = _gauge(family, what, "device", "reason")
        for device, health in reports.items():
            for word in dict.fromkeys(health.get(name, ())):
                words.add_metric([_label(device), _label(word)], 1)
        yield words
    xid = CounterMetricFamily(f"{PREFIX}device_xid_errors", "NVIDIA's errors, by number.", labels=["device", "xid"])
    for device, health in reports.items():
        for number, count in Counter(health.get("xid", ())).items():
            xid.add_metric([_label(device), str(number)], count)
    yield xid


def _numbers(numbers: Sequence[Number], of: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """A family for each number, of each device, or of the run as ""; what is None, or not said, has no sample."""
    labels = [] if "" in of else ["device"]
    for number in numbers:
        kind = CounterMetricFamily if number.counts else GaugeMetricFamily
        family = kind(PREFIX + number.name, number.what, labels=labels, unit=_unit(number.name))
        for device, values in of.items():
            if (value := values.get(number.field)) is not None:
                family.add_metric([_label(device)] if labels else [], value * number.scale)
        yield family


def _unit(name: str) -> str:
    """What a name ends in, where that is a unit; a rate has none of its own."""
    last = name.rpartition("_")[2]
    units = ("seconds", "bytes", "ratio", "celsius", "watts", "hertz")
    return last if last in units else ""


def _gauge(name: str, what: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, what, labels=labels, unit=_unit(name))


def _info(name: str, what: str, texts: Iterable[Mapping[str, str]]) -> InfoMetricFamily:
    family = InfoMetricFamily(PREFIX + name, what, labels=[])
    for labels in texts:
        family.add_metric([], {label: _label(text) for label, text in labels.items()})
    return family


def _states(name: str, what: str, known: Collection[str], now: Mapping[str, str]) -> StateSetMetricFamily:
    """`now` is the present state of each device, or of the run as "", and "" for none of them."""
    family = StateSetMetricFamily(PREFIX + name, what, labels=[])
    for device, present in now.items():
        labels = {"device": _label(device)} if device else {}
        for state in [*known, *({present} - {*known, ""})]:
            family.add_sample(family.name, {**labels, family.name: _label(state)}, float(state == present))
    return family


def _label(text: str) -> str:
    return masked(writable(text))


# -- and back


def run_metrics_from(text: str) -> RunMetrics:
    """The metrics that a text of `openmetrics_of`, or the plain one of an endpoint, tells; of what does not travel the
    defaults: no notices. Raises `ArxivEmbedError` for a text that is something else."""
    try:
        samples = _samples(text)
        [(info, _)] = samples["run_info"]
        texts: dict[str, Any] = {name: info[name] for name in RUN_TEXTS}
        reused = {labels["origin"]: int(value) for labels, value in samples.get("papers_reused", ())}
        return RunMetrics(
            **texts,
            **_values(RunMetrics, RUN, samples, None),
            state=_state(samples, "run_state", None),
            shard=_text(samples, "shard", None),
            error=_text(samples, "error", None),
            reused=reused,
            papers_reused=sum(reused.values()),
            devices=[_device(labels, samples) for labels, _ in samples.get("device_info", ())],
            failures=_failures(samples),
            notices=(),
        )
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, OSError) as error:
        raise ArxivEmbedError(
            f"That is not what a run of arxiv-embed tells of its metrics ({type(error).__name__}: {error}): "
            "give the address that the run was told to serve them at (--metrics-port)."
        ) from error


def _samples(text: str) -> Samples:
    families = openmetrics_families if text.rstrip().endswith("# EOF") else plain_families
    found: dict[str, list[tuple[Mapping[str, str], float]]] = {}
    for family in families(text):
        for sample in family.samples:
            if sample.name.startswith(PREFIX):
                if not math.isfinite(sample.value):
                    raise ValueError(f"{sample.name} is {sample.value}")
                found.setdefault(sample.name.removeprefix(PREFIX), []).append((sample.labels, sample.value))
    return found


def _failures(samples: Samples) -> list[Failure]:
    last = {(one["pattern"], one["kind"]): value for one, value in samples.get("failure_last_timestamp_seconds", ())}
    examples = {(one["pattern"], one["kind"]): one["example"] for one, _ in samples.get("failure_info", ())}
    keys = [((one["pattern"], one["kind"]), count) for one, count in samples.get("failures_total", ())]
    return [Failure(*key, int(count), as_iso(last[key]), examples[key]) for key, count in keys]


def _device(info: Mapping[str, str], samples: Samples) -> DeviceMetrics:
    name = info["device"]
    incidents = _of(samples, "device_incidents_total", name)
    return DeviceMetrics(
        device=name,
        product=info["product"],
        **_values(DeviceMetrics, DEVICE, samples, name),
        incidents={labels["what"]: int(count) for labels, count in incidents},
        trouble=_text(samples, "device_trouble", name, "trouble"),
        health=_health(name, samples) if _of(samples, "device_health", name) else {},
    )


def _health(device: str, samples: Samples) -> dict[str, Any]:
    reasons = {
        name: [labels["reason"] for labels, _ in _of(samples, family, device)]
        for name, (family, _) in HEALTH_LISTS.items()
    }
    xid = [int(labels["xid"]) for labels, n in _of(samples, "device_xid_errors_total", device) for _ in range(int(n))]
    return {
        **asdict(DeviceHealth(device)),
        **_values(DeviceHealth, HEALTH, samples, device),
        **reasons,
        "xid": xid,
        "verdict": _state(samples, "device_health", device),  # of another version, perhaps, which has others
        "action": _state(samples, "device_action", device),
    }


def _values(kind: Any, numbers: Sequence[Number], samples: Samples, device: str | None) -> dict[str, Any]:
    """Fields of the dataclass `kind`, whole numbers where the field is one; None, or 0, for what was not told."""
    known = {field.name: field for field in fields(kind)}
    values: dict[str, Any] = {}
    for number in numbers:
        field = known[number.field]
        whole, optional = str(field.type).startswith("int"), str(field.type).endswith("None")
        found = _of(samples, number.sample, device)
        if found:
            value = found[0][1] / number.scale
            values[number.field] = round(value) if whole else value
        elif field.default is MISSING:
            values[number.field] = None if optional else 0
    return values


def _of(samples: Samples, name: str, device: str | None) -> list[tuple[Mapping[str, str], float]]:
    return [one for one in samples.get(name, ()) if device is None or one[0]["device"] == device]


def _state(samples: Samples, name: str, device: str | None) -> str:
    return next((labels[PREFIX + name] for labels, value in _of(samples, name, device) if value), "")


def _text(samples: Samples, name: str, device: str | None, label: str | None = None) -> str:
    return next((labels[label or name] for labels, _ in _of(samples, f"{name}_info", device)), "")
