"""What is exposed of a run: each of its numbers, and the name and unit by which Prometheus knows it."""

from __future__ import annotations

from dataclasses import dataclass

HERTZ = 1e6
"""A megahertz."""


@dataclass(frozen=True)
class Number:
    """A field and the family that tells it, whose name without the prefix ends in its unit; a counter's samples end in
    `_total` besides. What is corrected as it is counted (papers of a shard that is tried again) is no counter. `scale`
    is how many of that unit the field's own unit is."""

    field: str
    name: str
    what: str
    counts: bool = False
    scale: float = 1

    @property
    def sample(self) -> str:
        return f"{self.name}_total" if self.counts else self.name


RUN = (
    Number("started", "started_timestamp_seconds", "When the run began, since the epoch."),
    Number("updated", "updated_timestamp_seconds", "When something was last recorded, since the epoch."),
    Number("elapsed_seconds", "elapsed_seconds", "How long the run has gone on."),
    Number("seconds_left", "remaining_seconds", "How long the run goes on, as far as can be told."),
    Number("shards", "shards", "Shards with work to do."),
    Number("shards_done", "shards_done", "Shards that are stored.", counts=True),
    Number("shards_failed", "shards_failed", "Shards that failed and have not been done since."),
    Number("papers", "papers", "Papers to embed; an estimate until all shards are read."),
    Number("papers_done", "papers_done", "Papers embedded, reused or failed."),
    Number("papers_embedded", "papers_embedded", "Papers that the devices embedded.", counts=True),
    Number("papers_failed", "papers_failed", "Papers that no device could embed.", counts=True),
    Number("rejects", "rejects", "Records rejected."),
    Number("duplicates", "duplicates", "Older records of papers that occur twice."),
    Number("rows", "rows", "Rows stored.", counts=True),
    Number("tokens", "tokens", "Tokens that the devices embedded, without padding.", counts=True),
    Number("papers_per_second", "papers_per_second", "Papers a second at present, of all devices."),
    Number("tokens_per_second", "tokens_per_second", "Tokens a second at present, of all devices."),
    Number("padding", "padding_ratio", "Share of the computed tokens that is padding."),
    Number("balance", "balance_ratio", "How long the busiest device computed over the mean of all; 1 is all alike."),
    Number("waiting", "waiting_papers", "Papers that wait tokenized."),
    Number("retries", "retries", "Batches tried again, whole or in halves.", counts=True),
    Number("out_of_memory", "out_of_memory", "Batches that did not fit.", counts=True),
    Number("cpu", "cpu_ratio", "Share of one core of the run's process."),
    Number("memory", "memory_bytes", "Memory of the run's process."),
    Number("report", "health_reports", "Reports of health.", counts=True),
    Number("report_late", "health_report_late_seconds", "How late the last report of health was."),
)

DEVICE = (
    Number("papers", "device_papers", "Papers embedded.", counts=True),
    Number("tokens", "device_tokens", "Tokens embedded, without padding.", counts=True),
    Number("papers_per_second", "device_papers_per_second", "Papers a second at present."),
    Number("tokens_per_second", "device_tokens_per_second", "Tokens a second at present."),
    Number("batches", "device_batches", "Batches computed.", counts=True),
    Number("batch_seconds", "device_batch_mean_seconds", "How long a batch takes in the mean."),
    Number("longest_batch_seconds", "device_batch_longest_seconds", "How long the slowest batch took."),
    Number("busy_seconds", "device_busy_seconds", "How long it computed.", counts=True),
    Number("computing", "device_computing_ratio", "Share of the time since the devices were ready that it computed."),
    Number("padding", "device_padding_ratio", "Share of the computed tokens that is padding."),
    Number("predicted_memory", "device_batch_memory_predicted_bytes", "Memory predicted for the last batch."),
    Number("measured_memory", "device_batch_memory_measured_bytes", "Memory that the last batch took."),
    Number("peak_memory", "device_batch_memory_peak_bytes", "Memory that a batch took at most."),
    Number("out_of_memory", "device_out_of_memory", "Batches that did not fit.", counts=True),
    Number("retries", "device_retries", "Batches tried again, whole or in halves.", counts=True),
)

HEALTH = (
    Number("memory_used", "device_memory_used_bytes", "Memory of the device in use, whoever uses it."),
    Number("memory_total", "device_memory_total_bytes", "Memory of the device."),
    Number("memory_allocated", "device_memory_allocated_bytes", "Memory that the run's worker holds."),
    Number("memory_target", "device_memory_target_bytes", "Memory that batches are planned for."),
    Number("memory_critical", "device_memory_critical_bytes", "Memory in use above which it gets no batch."),
    Number("utilization", "device_utilization_ratio", "Share of the time that the device was busy."),
    Number("temperature", "device_temperature_celsius", "Temperature."),
    Number("power", "device_power_watts", "Power."),
    Number("power_limit", "device_power_limit_watts", "Power at most."),
    Number("clock", "device_clock_hertz", "Clock.", scale=HERTZ),
    Number("clock_limit", "device_clock_limit_hertz", "Clock at most.", scale=HERTZ),
    Number("ecc_corrected", "device_ecc_corrected_errors", "Errors of memory put right.", counts=True),
    Number("ecc_uncorrected", "device_ecc_uncorrected_errors", "Errors of memory not put right.", counts=True),
    Number("links_up", "device_links_up", "NVLinks that are up."),
    Number("links_down", "device_links_down", "NVLinks that are down."),
    Number("cpu", "device_cpu_ratio", "Share of one core of its worker's process."),
    Number("process_memory", "device_process_memory_bytes", "Memory of its worker's process."),
    Number("queue", "device_queue_batches", "Batches that it has."),
    Number("computing", "device_batch_running_seconds", "How long it has computed the present batch."),
    Number("expected", "device_batch_expected_seconds", "How long the present batch should take."),
)
