"""Notifications: what is told of a run that failed, in the home and, where one is set, by a webhook.

Dagster reads the annotations of `context` as objects, so they are not postponed here.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from dagster import DagsterEvent, DagsterRun, RunFailureSensorContext, SkipReason, run_failure_sensor
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME
from dagster._core.storage.tags import BACKFILL_ID_TAG

from arxiv_embed.errors import LONGEST_MESSAGE, masked, sentence
from arxiv_embed.settings import settings_from_environment

FILE = "notifications.jsonl"
TIMEOUT = httpx2.Timeout(10.0, connect=5.0)
WAITS = (1.0, 2.0)
"""Seconds before the second and the third try."""

SLOW_SECONDS = 2.0
"""A tick has a minute for several runs: after a post that took longer, the others are left to the next tick."""

BUSY = (408, 425, 429)
FAILED = "failed"
"""Metadata of a step's failure: which shards failed, and why."""


@dataclass(frozen=True)
class Notification:
    """`text` is one sentence; `shards` is how many failed, 0 where the run was stopped as a whole. `time` is UTC, ISO
    8601."""

    time: str
    run_id: str
    job: str
    text: str
    shards: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class NotDelivered(Exception):
    """Says why, without the webhook's secrets."""


@run_failure_sensor(
    name="notify_of_failures",
    description="Writes what failed to notifications.jsonl in the home, and posts it to ARXIV_EMBED_WEBHOOK.",
)
def notify_of_failures(context: RunFailureSensorContext) -> SkipReason | None:
    """Whatever cannot be written or posted is a line of the log, so that the next run is told of all the same."""
    settings = settings_from_environment()
    notification = notification_of(context)
    context.log.warning(notification.text)
    try:
        append(settings.home / FILE, notification)
    except OSError as error:
        context.log.error(f"{settings.home / FILE} cannot be written: {sentence(error)}")
    if settings.webhook is None:
        return None
    begun = time.monotonic()
    try:
        post(settings.webhook, notification)
    except NotDelivered as error:
        context.log.error(str(error))
    if time.monotonic() - begun > SLOW_SECONDS:
        return SkipReason(f"The webhook is slow or away: the next tick goes on after run {notification.run_id}.")
    return None


def notification_of(context: RunFailureSensorContext) -> Notification:
    """What there is to say of a run that failed."""
    run = context.dagster_run
    steps = [_reason(event) for event in context.get_step_failure_events()]
    reasons = [reason for reason, _ in steps if reason] or [_first_line(context.failure_event.message or "")]
    return Notification(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        run_id=run.run_id,
        job=run.job_name,
        text=masked(f"{_name(run)} failed: {'; '.join(reasons) or 'no reason was given'}")[:LONGEST_MESSAGE],
        shards=sum(shards for _, shards in steps),
    )


def _name(run: DagsterRun) -> str:
    """What whoever launched it calls it."""
    if backfill := run.tags.get(BACKFILL_ID_TAG):
        return f"a run of backfill {backfill}"
    return "a materialization" if run.job_name == IMPLICIT_ASSET_JOB_NAME else run.job_name


def _reason(event: DagsterEvent) -> tuple[str, int]:
    """Why a step failed, and how many shards it says have."""
    data = event.step_failure_data
    said = data.user_failure_data
    if said is not None:
        failed = said.metadata[FAILED].value if FAILED in said.metadata else None
        return _first_line(said.description or ""), len(failed) if isinstance(failed, Mapping) else 0
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return _first_line(error.message) if error is not None else "", 0


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def append(path: Path, notification: Notification) -> None:
    """One line more, written at once, so that two writers do not mix theirs. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, notification.to_json().encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def post(url: str, notification: Notification, sleep: Callable[[float], object] = time.sleep) -> None:
    """Posts it as JSON; raises `NotDelivered` where the last try fails, or an answer says that no other would do."""
    place = _place(url)
    for wait in (*WAITS, None):
        try:
            with httpx2.stream("POST", url, json=asdict(notification), timeout=TIMEOUT) as response:
                status = response.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            problem = f"cannot be reached ({type(error).__name__})"
            is_passing = isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)
        else:
            if 200 <= status < 300:
                return
            problem, is_passing = f"answered {status}", status >= 500 or status in BUSY
        if wait is None or not is_passing:
            raise NotDelivered(f"The webhook at {place} {problem}: run {notification.run_id} was not told of.")
        sleep(wait)


def _place(url: str) -> str:
    """The host alone: path and query of a webhook are its secret."""
    try:
        return urlsplit(url).hostname or "ARXIV_EMBED_WEBHOOK"
    except ValueError:
        return "ARXIV_EMBED_WEBHOOK"
