"""Events: what happens in a run, one class each; a class's fields are what is written of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

NOT_PACKED = "computed padded, or text by text, as this model cannot be packed here"
"""What is said of a pool that is not `packed`."""


@dataclass(frozen=True)
class Event:
    """What happened; a subclass's fields are what is written."""

    name: ClassVar[str]


@dataclass(frozen=True)
class RunStarted(Event):
    """`shards` are the keys with work to do, `papers` an estimate of theirs, `unchanged` how many need nothing;
    `process` is the fields of the `ProcessId` whose end is the run's."""

    name = "run_started"
    run_id: str
    metadata_dir: str
    shards: Sequence[str]
    papers: int
    unchanged: int
    model: str
    space: str
    devices: Sequence[str]
    store: str
    process: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DevicesFound(Event):
    """The devices that the run has taken for itself: the fields of `DeviceFacts` of each."""

    name = "devices_found"
    devices: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class MetricsServed(Event):
    """Where the run's metrics are served while it lives."""

    name = "metrics_served"
    url: str


@dataclass(frozen=True)
class PoolReady(Event):
    """`packed` is whether all devices compute their batches without padding."""

    name = "pool_ready"
    dtype: str
    seconds: float
    packed: bool = True


@dataclass(frozen=True)
class ShardStarted(Event):
    """`records` is the estimate that the run's `papers` counted for this shard."""

    name = "shard_started"
    shard: str
    records: int


@dataclass(frozen=True)
class PapersRead(Event):
    name = "papers_read"
    shard: str
    papers: int
    rejects: int
    duplicates: int
    withdrawn: int
    seconds: float
    urgent: int = 0
    """Papers that `--priority` marks."""


@dataclass(frozen=True)
class TextsWaiting(Event):
    """What a shard has to embed is about to be; `tokens` is an estimate."""

    name = "texts_waiting"
    shard: str
    papers: int
    tokens: int


@dataclass(frozen=True)
class BatchDone(Event):
    """`tokens` are real ones; `padded_tokens` are what was computed; bytes that the device's worker held at most, as
    predicted and as measured. `number` counts the batches of the device in this run, `longest` is the tokens of its
    longest paper, `waiting` how many papers waited tokenized when it was done."""

    name = "batch"
    shard: str
    device: str
    papers: int
    tokens: int
    padded_tokens: int
    seconds: float
    predicted_memory: int
    peak_memory: int
    number: int = 0
    longest: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class HealthReported(Event):
    """How the run's devices are; `number` counts the reports of the run, `late` is seconds after it was due.

    `waiting` is how many papers wait tokenized; `cpu` the share of one core and `memory` the bytes of the process that
    has the pool (None where the system does not tell); `devices` the fields of `gpu.health.DeviceHealth` of each.
    """

    name = "health"
    number: int
    late: float
    waiting: int
    cpu: float | None
    memory: int | None
    devices: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class DeviceIncident(Event):
    """Something went wrong on a device, or came right again (`gpu.outcomes.Incident`)."""

    name = "device_incident"
    shard: str
    device: str
    what: str
    detail: str


@dataclass(frozen=True)
class PaperFailed(Event):
    """No device could embed the paper; the others of its shard are not touched by that."""

    name = "paper_failed"
    shard: str
    paper_id: str
    reason: str


@dataclass(frozen=True)
class SegmentSaved(Event):
    name = "segment"
    shard: str
    papers: int


@dataclass(frozen=True)
class ShardEmbedded(Event):
    """`resumed` papers had vectors of their very text already and took no time of a device: `from_checkpoints` of other
    shards or earlier content, `from_store`, of the `same_text` as one that was embedded with them, and the others from
    the shard's own last checkpoint and segments. `tokens` counts all papers', `embedded_tokens` those done in
    `seconds`, `padded_tokens` what was computed for them. `cut_tokens` lay beyond the token limit, in `cut_papers`
    papers; `long_papers` have their own vector from their first tokens only (`Space.paper_reach`)."""

    name = "shard_embedded"
    shard: str
    papers: int
    resumed: int
    chunks: int
    tokens: int
    embedded_tokens: int
    padded_tokens: int
    long_papers: int
    cut_papers: int
    cut_tokens: int
    seconds: float
    failed: int = 0
    from_checkpoints: int = 0
    from_store: int = 0
    same_text: int = 0


@dataclass(frozen=True)
class ShardStored(Event):
    """`rows` are the shard's, `rows_written` none where the store held them already; `skipped_papers` are held by the
    store in a newer record, from another shard."""

    name = "shard_stored"
    shard: str
    rows: int
    rows_written: int
    skipped_papers: int
    seconds: float


@dataclass(frozen=True)
class ShardFailed(Event):
    name = "shard_failed"
    shard: str
    error: str


@dataclass(frozen=True)
class ErrorMet(Event):
    """Something went wrong with a shard, or around it; `kind` is an `errors.Kind`, `action` what is done about it.
    What a device met stands in `DeviceIncident`, a paper's failure in `PaperFailed`."""

    name = "error"
    shard: str
    kind: str
    message: str
    action: str


@dataclass(frozen=True)
class DamageFound(Event):
    """A file of a checkpoint did not verify (`checkpoint.quarantine.Damage`)."""

    name = "damage"
    checkpoint: str
    file: str
    reason: str
    remedy: str
    place: str


@dataclass(frozen=True)
class ShardLeft(Event):
    """Another process is at work on the shard; this run leaves it to that."""

    name = "shard_left"
    shard: str
    holder: str


@dataclass(frozen=True)
class ShardGivenUp(Event):
    """The shard has failed so often before that this run does not try it."""

    name = "shard_given_up"
    shard: str
    attempts: int
    error: str


@dataclass(frozen=True)
class StoreFinished(Event):
    """The store's indexes are up to date; what it holds of the run's space."""

    name = "store_finished"
    papers: int
    rows: int


@dataclass(frozen=True)
class RunFinished(Event):
    """`state` is done, failed, unfinished (others are at work on some shards), interrupted or, as whoever came after
    it found out, killed."""

    name = "run_finished"
    state: str
    error: str
    seconds: float
