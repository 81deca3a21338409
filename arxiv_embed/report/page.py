"""The page of a report: one HTML file that needs nothing else, no script and no network."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from arxiv_embed.errors import masked
from arxiv_embed.gpu.health import Verdict
from arxiv_embed.metrics import DeviceMetrics
from arxiv_embed.report.advice import SHORT_RUN, advice_of
from arxiv_embed.report.series import shows_batches, shows_health
from arxiv_embed.report.timeline import RUNNING, ShardLine, Timeline
from arxiv_embed.wording import count, duration, plural, size

if TYPE_CHECKING:
    from arxiv_embed.report.pictures import Picture

SHARDS_SHOWN, TROUBLES_SHOWN, REASONS_SHOWN, FAILURES_SHOWN = 200, 60, 12, 40
_STEERS = [*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
"""Control characters, and those that turn the direction of what follows."""
_UNSEEN = dict.fromkeys(_STEERS, "?")
ORDER = ("failed", "given up", "left", "waiting", "read", "embedded", "stored")
"""Of shards: what asks for something first."""


def _with_code(text: str) -> Markup:
    """`arxiv-embed run` in a text as code; the rest is escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _seen(text: str) -> str:
    """Without secrets and what no page may hold: names and messages come from anywhere."""
    return text.translate(_UNSEEN) if isinstance(text, Markup) else masked(text).translate(_UNSEEN)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    finalize=lambda value: _seen(value) if isinstance(value, str) else value,
    auto_reload=False,
)
_environment.filters.update(
    clock=_clock, code=_with_code, count=count, duration=duration, masked=masked, plural=plural, size=size
)


def report_page(timeline: Timeline) -> str:
    """The whole page as HTML."""
    progress, metrics = timeline.progress, timeline.metrics
    shards = sorted(timeline.shards.values(), key=lambda shard: ORDER.index(shard.state))
    return _environment.get_template("template.html").render(
        timeline=timeline,
        progress=progress,
        metrics=metrics,
        title=_title(timeline),
        running=progress.state in RUNNING,
        short=computing_seconds(timeline) < SHORT_RUN,
        short_run=SHORT_RUN,
        figures=dict(_figures(timeline)),
        advice=advice_of(timeline),
        pictures=_pictures(timeline),
        devices=[_device(device, timeline) for device in metrics.devices],
        shards=shards[:SHARDS_SHOWN],
        more_shards=len(shards) - SHARDS_SHOWN,
        states={shard.state: _state_class(shard) for shard in shards},
        rejects=timeline.reject_reasons.most_common(REASONS_SHOWN),
        rejected_in=sorted((shard for shard in shards if shard.rejects), key=lambda shard: -shard.rejects),
        failures=metrics.failures[:FAILURES_SHOWN],
        failed_papers=list(progress.failed_papers.items())[:FAILURES_SHOWN],
        more_failed_papers=len(progress.failed_papers) - FAILURES_SHOWN,
        troubles=timeline.troubles[-TROUBLES_SHOWN:],
        more_troubles=len(timeline.troubles) - TROUBLES_SHOWN,
        verdicts=list(Verdict),
        now=timeline.now,
    )


def _pictures(timeline: Timeline) -> Sequence[Picture]:
    if not (shows_batches(timeline) or shows_health(timeline)):
        return ()
    from arxiv_embed.report.pictures import pictures  # with matplotlib, which takes its time

    return pictures(timeline)


def _title(timeline: Timeline) -> str:
    progress = timeline.progress
    embedded = f"{plural(progress.papers_embedded, 'paper')} embedded"
    return f"{embedded}, {count(progress.papers_reused)} reused" if progress.papers_reused else embedded


def _figures(timeline: Timeline) -> Iterator[tuple[str, tuple[str, str]]]:
    """Name → the figure and what is said of it."""
    progress, metrics = timeline.progress, timeline.metrics
    seconds = computing_seconds(timeline)
    if metrics.papers_embedded and seconds:
        yield "papers/s", (f"{metrics.papers_embedded / seconds:,.1f}", f"{duration(seconds)} of computing")
        yield "tokens/s", (count(metrics.tokens / seconds), f"{count(metrics.tokens)} tokens")
    yield "time", (duration(timeline.seconds), f"begun {_clock(progress.started)}" if progress.started else "")
    reused = f", {progress.papers_reused:,} of them reused" if progress.papers_reused else ""
    yield "papers done", (count(progress.papers_done), f"of {progress.papers:,}{reused}")
    unchanged = f", {progress.unchanged:,} more unchanged" if progress.unchanged else ""
    yield "shards done", (count(progress.shards_done), f"of {progress.shards:,}{unchanged}")
    yield "rows stored", (count(progress.rows), "chunks and whole papers")
    if timeline.batches:
        yield "padding", (f"{metrics.padding:.1%}", "of the tokens computed")
    if metrics.balance and len(metrics.devices) > 1:
        yield "balance", (f"{metrics.balance:.2f}", "busiest over mean")


def computing_seconds(timeline: Timeline) -> float:
    """How long the devices had work: of a run that is whole, as the shards told it; else from ready to last batch."""
    if timeline.progress.state == "done" and timeline.progress.embedding_seconds:
        return timeline.progress.embedding_seconds
    last = timeline.batches[-1].time if timeline.batches else 0.0
    return max(0.0, last - timeline.progress.ready) if timeline.progress.ready else 0.0


def _device(device: DeviceMetrics, timeline: Timeline) -> Mapping[str, Any]:
    health = [fields for _, fields in timeline.health_of(device.device)]
    hottest = max((fields["temperature"] for fields in health if fields.get("temperature") is not None), default=None)
    return {
        "metrics": device,
        "tokens_per_second": device.tokens / device.busy_seconds if device.busy_seconds else 0.0,
        "hottest": hottest,
        "verdict": device.health.get("verdict", ""),
    }


def _state_class(shard: ShardLine) -> str:
    return {"stored": "good", "failed": "bad", "given up": "bad"}.get(shard.state, "")
