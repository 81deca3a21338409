"""The asset `gpu_health`: how the devices of a run are, as observations whose numbers Dagster plots."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from dagster import AssetObservation, AssetSpec, MetadataValue, OpExecutionContext
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.events import AssetObservationData, DagsterEvent, DagsterEventType

from arxiv_embed.events import HealthReported
from arxiv_embed.gpu.health import Verdict

GPU_HEALTH = "gpu_health"

EVERY_ONE_OF = 40
"""The distance of two reports that are told grows by one with every so many."""

MOST_CHANGES = 240
"""Verdicts that change for ever, as those of a device at the edge of being hot, do not fill the log."""

MOST_WAITING = 20
"""Observations that wait for a database that is away; the oldest go."""

CLOSING_SECONDS, AGAIN_SECONDS = 5.0, 5.0

gpu_health = AssetSpec(
    GPU_HEALTH,
    group_name="health",
    description=(
        "How each device of a run is, told by the run while it goes on: temperature, power, utilization, memory and "
        "clock, and a verdict with its reasons. Every report at first, then fewer; a change of verdict at once."
    ),
)

NUMBERS = {
    "temperature": "temperature, °C",
    "power": "power, W",
    "utilization": "utilization",
    "memory_used": "memory used, bytes",
    "memory_allocated": "memory allocated, bytes",
    "clock": "clock, MHz",
    "cpu": "CPU, cores",
    "process_memory": "process memory, bytes",
    "queue": "queue, batches",
}
"""What is told of a device, by the name of its field."""


class Thinning:
    """Which reports of a run are told: some 240 in a day of one every 30 s, and each that changes a verdict."""

    def __init__(self) -> None:
        self._last_told = 0
        self._verdicts: dict[str, str] = {}
        self._changes = 0

    def tells(self, report: HealthReported) -> bool:
        """To be asked of each report once, in order."""
        verdicts = {device["device"]: str(device["verdict"]) for device in report.devices}
        changed, self._verdicts = verdicts != self._verdicts and self._changes < MOST_CHANGES, verdicts
        if not changed and not is_due(report.number, self._last_told):
            return False
        self._changes += changed
        self._last_told = report.number
        return True


def is_due(number: int, last_told: int) -> bool:
    """Whether a report is to be told, whatever it says, as it comes long enough after the one told last."""
    return number - last_told >= max(1, number // EVERY_ONE_OF)


def observation_of(report: HealthReported) -> AssetObservation:
    """A report's numbers, as floats under keys that stay the same, and its verdicts."""
    numbers: dict[str, RawMetadataValue] = {"papers waiting": float(report.waiting), "late, s": round(report.late, 3)}
    if report.cpu is not None:
        numbers["CPU, cores"] = round(report.cpu, 3)
    if report.memory is not None:
        numbers["memory, bytes"] = float(report.memory)
    for device in report.devices:
        numbers |= _of_device(device)
    worst = max((Verdict(device["verdict"]) for device in report.devices), key=list(Verdict).index, default=Verdict.OK)
    return AssetObservation(GPU_HEALTH, description=f"report {report.number}: {worst}", metadata=numbers)


def _of_device(device: Mapping[str, Any]) -> dict[str, RawMetadataValue]:
    name = device["device"]
    told: dict[str, RawMetadataValue] = {
        f"{name} {label}": round(float(device[field]), 3)
        for field, label in NUMBERS.items()
        if device.get(field) is not None
    }
    reasons = [*device.get("reasons", ()), *([f"to do: {device['action']}"] if device.get("action") else [])]
    verdict = ": ".join([str(device["verdict"]), *(["; ".join(map(str, reasons))] if reasons else [])])
    return {**told, f"{name} verdict": MetadataValue.text(verdict)}


class HealthTeller:
    """A context manager: takes a run's reports from whatever thread, and tells Dagster by a thread of its own, so that
    a database that is slow or away holds up neither the watch nor the work."""

    def __init__(self, context: OpExecutionContext) -> None:
        self._instance, self._run_id, self._job = context.instance, context.run_id, context.job_name
        self._step = context.get_step_execution_context().step.key
        self._thinning = Thinning()
        self._waiting: queue.Queue[tuple[float, AssetObservation] | None] = queue.Queue(MOST_WAITING)
        self._closing = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._tell_all, name="health-teller", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._put(None)
        self._thread.join(CLOSING_SECONDS)

    def tell(self, report: HealthReported) -> None:
        """Returns at once."""
        if self._thinning.tells(report):
            self._put((time.time(), observation_of(report)))

    def _put(self, told: tuple[float, AssetObservation] | None) -> None:
        while True:
            try:
                return self._waiting.put_nowait(told)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._waiting.get_nowait()

    def _tell_all(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            while not self._told(*waiting):
                if self._is_over:
                    return  # and the database is away: the run's record has all of this
                self._is_over = self._closing.wait(AGAIN_SECONDS)

    def _told(self, when: float, observation: AssetObservation) -> bool:
        event = DagsterEvent(
            event_type_value=DagsterEventType.ASSET_OBSERVATION.value,
            job_name=self._job,
            message=observation.description,
            event_specific_data=AssetObservationData(observation),
            step_key=self._step,
        )
        try:
            self._instance.report_dagster_event(event, self._run_id, timestamp=when)
        except Exception:  # noqa: BLE001 - whatever a database raises: told again, or not
            return False
        return True
