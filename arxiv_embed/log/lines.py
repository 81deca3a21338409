"""The log's lines: what is written of an event, and how much it matters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from arxiv_embed import events
from arxiv_embed.errors import Kind, masked
from arxiv_embed.gpu.health import DeviceHealth, Verdict
from arxiv_embed.gpu.inventory import DeviceFacts, describe
from arxiv_embed.settings import LOG_LEVELS

LONGEST_TEXT = 8_000
"""Characters of each value: an exception with its trace."""

DEBUG, INFO, WARNING, ERROR = LOG_LEVELS

LEVELS: Mapping[type[events.Event], str] = {
    events.BatchDone: DEBUG,
    events.TextsWaiting: DEBUG,
    events.ShardLeft: WARNING,
    events.DamageFound: WARNING,
    events.PaperFailed: ERROR,
    events.ShardFailed: ERROR,
    events.ShardGivenUp: ERROR,
}
"""Of what is not `INFO`, and does not depend on what the event says."""

ENDS = {"done": INFO, "unfinished": WARNING, "interrupted": WARNING}
WELL_AGAIN = ("back", "cool again", "grows again", "seen again")
"""Incidents that are none."""


@dataclass(frozen=True)
class LogLine:
    """`batch` counts a device's batches in its run; `more` is what else is known, by name."""

    level: str
    event: str
    message: str
    shard: str | None = None
    device: str | None = None
    batch: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, time: float, run_id: str, secrets: Iterable[str] = ()) -> bytes:
        """One line, without secrets; `time` is seconds since the epoch."""
        line = {
            "time": datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds"),
            "level": self.level,
            "event": self.event,
            "message": self.message,
            "run": run_id,
            "shard": self.shard or None,
            "device": self.device or None,
            "batch": self.batch,
        }
        secrets = list(secrets)
        kept = {name: value for name, value in self.more.items() if name not in line}
        content = {name: _without_secrets(value, secrets) for name, value in {**line, **kept}.items()}
        return json.dumps(content, separators=(",", ":"), default=str).encode()


def lines_of(event: events.Event) -> Iterator[LogLine]:
    """One for an event, but for those that tell of several devices: one for each."""
    fields = dict(vars(event))
    shard, device = fields.pop("shard", None), fields.pop("device", None)
    match event:
        case events.HealthReported():
            del fields["devices"]
            for health in event.devices:
                yield _of_health(event, fields, DeviceHealth(**health))
            return
        case events.DevicesFound():
            for facts in event.devices:
                found = DeviceFacts(**facts)
                yield LogLine(INFO, event.name, describe(found), device=found.name, more=facts)
            return
        case events.RunStarted():
            fields["shards"] = len(event.shards)  # a snapshot has hundreds, and each says itself that it is begun
    batch = fields.pop("number") if isinstance(event, events.BatchDone) else None
    yield LogLine(level_of(event), event.name, message_of(event), shard, device, batch, fields)


def level_of(event: events.Event) -> str:
    match event:
        case events.RunFinished():
            return ENDS.get(event.state, ERROR)
        case events.ErrorMet():
            return ERROR if event.kind == Kind.PERMANENT else WARNING
        case events.DeviceIncident():
            return INFO if event.what in WELL_AGAIN else WARNING
    return LEVELS.get(type(event), INFO)


def message_of(event: events.Event) -> str:
    """A few words for whoever reads the log as it is; the figures stand beside them."""
    match event:
        case events.RunStarted():
            return f"{len(event.shards)} shards, about {event.papers} papers, with {event.model} into {event.store}"
        case events.MetricsServed():
            return f"metrics are served at {event.url}"
        case events.PoolReady():
            return f"devices ready in {event.dtype} after {event.seconds:.1f} s"
        case events.PapersRead():
            return f"{event.papers} papers read, {event.rejects} records rejected"
        case events.TextsWaiting():
            return f"{event.papers} papers to embed, about {event.tokens} tokens"
        case events.BatchDone():
            return f"{event.papers} papers, {event.tokens} tokens in {event.seconds:.2f} s"
        case events.SegmentSaved():
            return f"{event.papers} papers saved"
        case events.ShardEmbedded():
            return f"{event.papers} papers embedded, {event.resumed} of them reused"
        case events.ShardStored():
            return f"{event.rows_written} of {event.rows} rows written"
        case events.StoreFinished():
            return f"the store holds {event.papers} papers, {event.rows} rows, its indexes up to date"
        case events.DeviceIncident():
            return f"{event.what}: {event.detail}"
        case events.PaperFailed():
            return f"paper {event.paper_id}: {event.reason}"
        case events.ErrorMet():
            return f"{event.message} ({event.kind}: {event.action})"
        case events.DamageFound():
            return f"{event.checkpoint}, {event.file}: {event.reason}; {event.remedy}"
        case events.ShardLeft():
            return f"left to {event.holder}"
        case events.ShardFailed():
            return event.error
        case events.ShardGivenUp():
            return f"failed {event.attempts} times and is not tried again: {event.error}"
        case events.RunFinished():
            return f"{event.state} after {event.seconds:.1f} s{f': {event.error}' if event.error else ''}"
    return event.name.replace("_", " ")


def _of_health(event: events.HealthReported, report: Mapping[str, Any], health: DeviceHealth) -> LogLine:
    level = {Verdict.OK: INFO, Verdict.FAILING: ERROR, Verdict.RETIRED: ERROR}.get(Verdict(health.verdict), WARNING)
    why = f" ({'; '.join(health.reasons)})" if health.reasons else ""
    follows = f": {health.action}" if health.action else ""
    of_pool = {"report": report["number"], "late": report["late"], "waiting": report["waiting"]}
    of_pool |= {"pool_cpu": report["cpu"], "pool_memory": report["memory"]}
    more = {name: value for name, value in {**vars(health), **of_pool}.items() if value is not None}
    return LogLine(level, event.name, f"{health.verdict}{why}{follows}", device=health.device, more=more)


def _without_secrets(value: Any, secrets: list[str]) -> Any:
    """Value by value: over a whole line, a password would take the rest of the line with it."""
    if isinstance(value, str):
        return masked(value.encode("utf-8", "replace").decode(), secrets)[:LONGEST_TEXT]
    if isinstance(value, Mapping):
        return {str(name): _without_secrets(one, secrets) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(one, secrets) for one in value]
    return value
