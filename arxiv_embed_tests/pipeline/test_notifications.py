"""Notifications: what is told of a failed run, where, and what happens where it cannot be told."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    RunFailureSensorContext,
    SkipReason,
    build_run_status_sensor_context,
    build_sensor_context,
)

import arxiv_embed.attempts
import arxiv_embed.pipeline.notifications as notifications
from arxiv_embed.pipeline.jobs import embed_pending
from arxiv_embed.pipeline.notifications import FILE, NotDelivered, notification_of, notify_of_failures, post
from arxiv_embed.settings import RunOptions, Settings
from arxiv_embed_tests.fake_pool import FakePool
from arxiv_embed_tests.pipeline.runs import execute

SECRET = "T012-do-not-tell"
NOTIFICATION = notifications.Notification("2026-01-02T03:04:05+00:00", "a-run", "embed_pending", "It failed.", 1)


class Webhook:
    """A server that keeps what is posted to it; it answers with `answers` in turn, then with 204."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.received: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.received.append(json.loads(body))
                status = hook.answers.pop(0) if hook.answers else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(autouse=True)
def surroundings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARXIV_EMBED_HOME", str(settings.home))
    monkeypatch.delenv("ARXIV_EMBED_WEBHOOK", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(notifications, "WAITS", (0.0, 0.0))


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook() as webhook:
        monkeypatch.setenv("ARXIV_EMBED_WEBHOOK", webhook.url)
        yield webhook


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> str:
    """A webhook where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:{SECRET}@127.0.0.1:{taken.getsockname()[1]}/services/{SECRET}?key={SECRET}"
    monkeypatch.setenv("ARXIV_EMBED_WEBHOOK", url)
    return url


def killed(instance: DagsterInstance, **tags: str) -> RunFailureSensorContext:
    """Of a run whose process is gone."""
    run = instance.create_run_for_job(embed_pending, status=DagsterRunStatus.STARTED, tags=tags)
    event = instance.report_run_failed(run, "The process of this run was killed.")
    return build_run_status_sensor_context("notify_of_failures", event, instance, run).for_run_failure()


def told(context: RunFailureSensorContext) -> tuple[SkipReason | None, list[str]]:
    """What the sensor returns for a failed run, and its lines in the log."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    context.log.addHandler(Lines())
    result = notify_of_failures(context)
    assert result is None or isinstance(result, SkipReason)
    return result, lines


def written(settings: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (settings.home / FILE).read_text().splitlines()]


def test_a_failed_run_is_told_in_the_home_in_the_log_and_by_the_webhook(
    options: RunOptions,
    instance: DagsterInstance,
    pool: FakePool,
    settings: Settings,
    webhook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arxiv_embed.attempts, "FIRST_WAIT", 0.0)
    pool.fail_on = "Sparsity-certifying"
    result = execute("embed_pending", options, instance)
    [failure] = [event for event in result.all_events if event.is_run_failure]
    context = build_run_status_sensor_context("notify_of_failures", failure, instance, result.dagster_run)
    _, lines = told(context.for_run_failure())
    [notification] = written(settings)
    assert webhook.received == [notification]
    assert notification.keys() == {"time", "run_id", "job", "text", "shards"}
    assert notification["run_id"] == result.run_id
    assert notification["job"] == "embed_pending"
    assert notification["shards"] == 1
    assert notification["text"].startswith("embed_pending failed: 1 of 2 shards failed: RuntimeError: the device fell")
    assert "\n" not in notification["text"]
    assert lines == [notification["text"]]


def test_a_run_whose_process_was_killed_is_told(instance: DagsterInstance) -> None:
    notification = notification_of(killed(instance))
    assert "The process of this run was killed." in notification.text
    assert notification.shards == 0


def test_a_run_of_a_backfill_is_named_by_it(instance: DagsterInstance) -> None:
    notification = notification_of(killed(instance, **{"dagster/backfill": "xyxlpumr"}))
    assert notification.text.startswith("a run of backfill xyxlpumr failed: ")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_webhook_that_is_busy_is_tried_three_times(webhook: Webhook, status: int) -> None:
    webhook.answers = [status, status]
    post(webhook.url, NOTIFICATION)
    assert len(webhook.received) == 3
    webhook.answers = [status] * 4
    with pytest.raises(NotDelivered, match=f"answered {status}"):
        post(webhook.url, NOTIFICATION)
    assert len(webhook.received) == 6


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_webhook_that_refuses_is_not_tried_again(webhook: Webhook, status: int) -> None:
    webhook.answers = [status]
    with pytest.raises(NotDelivered, match=f"answered {status}"):
        post(webhook.url, NOTIFICATION)
    assert len(webhook.received) == 1


def test_between_two_tries_there_is_a_wait(nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "WAITS", (1.0, 2.0))
    waits: list[float] = []
    with pytest.raises(NotDelivered):
        post(nobody, NOTIFICATION, sleep=waits.append)
    assert waits == [1.0, 2.0]


def test_a_webhook_that_is_away_is_a_line_of_the_log_without_its_secrets(
    instance: DagsterInstance, settings: Settings, nobody: str
) -> None:
    result, lines = told(killed(instance))
    assert result is None
    assert len(written(settings)) == 1
    assert "The webhook at 127.0.0.1 cannot be reached (ConnectError)" in lines[-1]
    assert SECRET not in "\n".join(lines)


@pytest.mark.parametrize("url", ["not a url", "ftp://example.org/x", "file:///etc/passwd", "http://[", "http:///x", ""])
def test_a_webhook_that_is_none_is_a_line_of_the_log(url: str) -> None:
    with pytest.raises(NotDelivered):
        post(url, NOTIFICATION)


def test_a_webhook_that_never_answers_is_given_up_and_the_tick_ends(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "TIMEOUT", httpx2.Timeout(0.1))
    monkeypatch.setattr(notifications, "SLOW_SECONDS", 0.25)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("ARXIV_EMBED_WEBHOOK", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        result, lines = told(killed(instance))
    assert result is not None
    assert "ReadTimeout" in lines[-1]


def test_a_home_that_cannot_be_written_to_keeps_nobody_from_being_told(
    instance: DagsterInstance, settings: Settings, webhook: Webhook
) -> None:
    (settings.home / FILE).mkdir(parents=True)
    _, lines = told(killed(instance))
    assert len(webhook.received) == 1
    assert any("cannot be written" in line for line in lines)


def test_secrets_of_the_reason_are_masked(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(embed_pending, status=DagsterRunStatus.STARTED)
    event = instance.report_run_failed(run, f"postgresql://me:{SECRET}@host/db is away")
    context = build_run_status_sensor_context("notify_of_failures", event, instance, run).for_run_failure()
    assert SECRET not in notification_of(context).to_json()


@pytest.mark.parametrize("slow", [False, True])
def test_each_failed_run_is_told_once_also_while_the_webhook_is_away(
    instance: DagsterInstance, settings: Settings, nobody: str, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    monkeypatch.setattr(notifications, "SLOW_SECONDS", -1.0 if slow else 60.0)

    def tick(cursor: str | None) -> str | None:
        with build_sensor_context(instance=instance, cursor=cursor) as context:
            return notify_of_failures.evaluate_tick(context).cursor

    cursor = tick(None)
    runs = [killed(instance).dagster_run.run_id for _ in range(3)]
    for _ in range(4):
        cursor = tick(cursor)
    assert [line["run_id"] for line in written(settings)] == runs
