"""Each event is recorded and sent once: to the log, or to a webhook on a real local server."""

import base64
import http.server
import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmctr_pipeline.monitoring.notify import (
    MAX_HEADLINE,
    Event,
    LogNotifier,
    WebhookNotifier,
    notifier_from_environment,
    notify,
    read_events,
)

SECRET = "secret-of-the-hook-5d1c"
HEADLINE = "auc_floor: 0.7335 < 0.75"


class Hook(http.server.ThreadingHTTPServer):
    """A server that answers each POST with the next of `statuses`, the last one again and again."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append((f"GET {self.path}", None, {}))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook(200) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def blocked(storage: Path | str = "", run_id: str = "1") -> Event:
    return Event("night_blocked", HEADLINE, "the whole story", run_id, storage=str(storage))


def webhook(address: str) -> WebhookNotifier:
    return WebhookNotifier(f"http://{address}/services/{SECRET}?token={SECRET}", 5.0, 0.01)


def test_the_log_is_the_default_and_its_first_line_has_the_figures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert notifier_from_environment() == LogNotifier()
    assert notify(blocked(tmp_path))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    first, *rest = record.message.splitlines()
    assert first == f"night blocked: {HEADLINE}"
    assert rest == ["the whole story", f"run 1, storage {tmp_path}"]


def test_a_webhook_gets_each_event_as_json(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCTR_NOTIFY_URL", f"http://user:{SECRET}@{hook.address}/hook?x=1")
    event = blocked(tmp_path)
    assert notify(event)
    ((path, authorization, body),) = hook.requests
    assert path == "/hook?x=1"
    assert authorization == "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
    assert body == {
        "text": event.text,
        "kind": "night_blocked",
        "headline": HEADLINE,
        "detail": "the whole story",
        "run_id": "1",
        "day": "",
        "storage": str(tmp_path),
        "time": event.time,
    }


def test_a_run_has_one_failure_and_one_rejection_at_most(tmp_path: Path) -> None:
    storage = str(tmp_path)
    rejected = Event("challenger_rejected", "worse", run_id="1", storage=storage)
    events = [
        (blocked(tmp_path), True),
        (Event("run_failed", "a step failed", run_id="1", storage=storage), False),
        (rejected, True),
        (rejected, False),
        (blocked(tmp_path, "2"), True),
        (Event("run_failed", "without a run", storage=storage), True),
        (Event("run_failed", "without a run", storage=storage), True),
    ]
    assert [notify(event) for event, _ in events] == [is_new for _, is_new in events]
    assert read_events(tmp_path) == [event for event, is_new in events if is_new]


def test_a_skipped_night_is_reported_once_for_each_day_and_reason(tmp_path: Path) -> None:
    told = [
        notify(Event("night_skipped", reason, day=day, storage=str(tmp_path)))
        for day, reason in (("5", "late"), ("5", "late"), ("5", "half written"), ("6", "late"))
    ]
    assert told == [True, False, True, True]
    assert len(read_events(tmp_path)) == 3


def test_processes_that_report_one_run_at_once_send_one_event(hook: Hook, tmp_path: Path) -> None:
    sent = []
    threads = [
        threading.Thread(
            target=lambda: sent.append(notify(blocked(tmp_path), webhook(hook.address)))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(sent) == [False] * 7 + [True]
    assert len(hook.requests) == len(read_events(tmp_path)) == 1


@pytest.mark.parametrize(
    ("statuses", "tries", "reason"),
    [
        ([503, 200], 2, None),
        ([503], 2, "status 503"),
        ([404], 1, "status 404"),
        ([302], 1, "status 302"),
    ],
)
def test_a_webhook_is_tried_again_once_if_that_may_help(
    statuses: list[int], tries: int, reason: str | None, hook: Hook
) -> None:
    hook.statuses = statuses
    if reason is None:
        webhook(hook.address).send(blocked())
    else:
        with pytest.raises(ConnectionError) as error:
            webhook(hook.address).send(blocked())
        assert reason in str(error.value)
    assert [path.startswith("/services/") for path, _, _ in hook.requests] == [True] * tries


def test_an_event_that_cannot_be_sent_is_logged_and_no_secret_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        address = f"user:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
        url = f"http://{address}/services/{SECRET}?token={SECRET}"
        notifier = WebhookNotifier(url, timeout_seconds=0.2, pause_seconds=0.01)
        assert notify(blocked(tmp_path), notifier)
    warning, event = (record.message for record in caplog.records)
    expected = "the webhook at 127.0.0.1 did not take the event: TimeoutError"
    assert warning == f"an event was not sent: {expected}"
    assert event.startswith(f"night blocked: {HEADLINE}")
    assert read_events(tmp_path)[0].headline == HEADLINE
    assert SECRET not in caplog.text + repr(notifier)


def test_an_unwritable_storage_folder_does_not_keep_an_event_from_being_sent(
    hook: Hook, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert notify(blocked(tmp_path / "file"), webhook(hook.address))
    assert len(hook.requests) == 1


def test_a_line_that_was_cut_off_does_not_hide_other_events(tmp_path: Path) -> None:
    notify(blocked(tmp_path, "1"))
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "run_fai')
    notify(blocked(tmp_path, "2"))
    assert [event.run_id for event in read_events(tmp_path)] == ["1", "2"]


def test_headlines_are_one_line_of_limited_length() -> None:
    assert Event("run_failed", "first\n  second\tthird").headline == "first second third"
    assert len(Event("run_failed", "x" * 1000).headline) == MAX_HEADLINE
    with pytest.raises(ValueError, match="unknown kind 'failed'"):
        Event("failed", "x")  # type: ignore[arg-type]
