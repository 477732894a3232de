"""Tell people of a failed run, a blocked or skipped night, and a rejected challenger: once each.

Each event is one line of `events.jsonl` in the storage folder, and is sent by a notifier: to the
log, or to a webhook if MMCTR_NOTIFY_URL is set. An error here never fails a run.
"""

import base64
import contextlib
import dataclasses
import datetime
import json
import logging
import os
import time
import typing
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Literal, Protocol

from mmctr_pipeline.environment import notify_url
from mmctr_pipeline.files.locks import locked

Kind = Literal["run_failed", "night_blocked", "night_skipped", "challenger_rejected"]
KINDS: tuple[Kind, ...] = typing.get_args(Kind)

EVENTS = "events.jsonl"
"""Name of the file of events in the storage folder: one JSON object per line, newest last."""

MAX_HEADLINE = 300
"""Longest headline, in characters; the rest is only in the detail."""

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that people must know about a run.

    Parameters
    ----------
    kind
        `run_failed`: a run ended with an error. `night_blocked`: a blocking check stopped a run,
        or the data cannot be used. `night_skipped`: the day of a night is late.
        `challenger_rejected`: a trained model did not replace the champion.
    headline
        One line with the figures, such as "auc_floor: 0.7335 < 0.75". Line breaks become spaces.
    detail
        The full text, such as the explanation of each failed check.
    run_id
        Id of the run in Dagster, or empty if none was started.
    day
        The day of the data, as YYYY-MM-DD, if the run is of one day.
    storage
        The storage folder.
    time
        When the event was made: UTC, as ISO 8601.
    """

    kind: Kind
    headline: str
    detail: str = ""
    run_id: str = ""
    day: str = ""
    storage: str = ""
    time: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; known: {', '.join(KINDS)}")
        headline = " ".join(self.headline.split())
        if len(headline) > MAX_HEADLINE:
            headline = headline[: MAX_HEADLINE - 4] + " ..."
        object.__setattr__(self, "headline", headline)

    @property
    def text(self) -> str:
        """The event for people: kind and headline, then the detail, run, day and storage."""
        facts = {"run": self.run_id, "day": self.day, "storage": self.storage}
        known = ", ".join(f"{name} {value}" for name, value in facts.items() if value)
        lines = (f"{self.kind.replace('_', ' ')}: {self.headline}", self.detail, known)
        return "\n".join(line for line in lines if line)


class Notifier(Protocol):
    """A way to tell people about events."""

    def send(self, event: Event) -> None:
        """Send an event; may raise any exception."""


@dataclasses.dataclass(frozen=True)
class LogNotifier:
    """Logs events as errors."""

    log: logging.Logger = logger

    def send(self, event: Event) -> None:
        """Log an event."""
        self.log.error(event.text)


@dataclasses.dataclass(frozen=True)
class WebhookNotifier:
    """Posts events as JSON: the fields of `Event`, and the whole text in `text`.

    A user and password in the address are sent as HTTP basic authentication. The address is never
    printed, since its user, path or query may be a secret; messages name only the host.
    """

    url: str = dataclasses.field(repr=False)
    timeout_seconds: float = 10.0
    pause_seconds: float = 2.0

    def send(self, event: Event) -> None:
        """Post an event; try a second time after a failure that may be transient.

        Raises `ConnectionError`, which names the host and the reason, if both tries fail.
        """
        reason = self._post(event)
        if reason is not None and reason.may_pass:
            time.sleep(self.pause_seconds)
            reason = self._post(event)
        if reason is not None:
            host = urllib.parse.urlsplit(self.url).hostname
            raise ConnectionError(f"the webhook at {host} did not take the event: {reason.text}")

    def _post(self, event: Event) -> "_Refusal | None":
        body = json.dumps({"text": event.text, **dataclasses.asdict(event)}).encode()
        try:
            opener = urllib.request.build_opener(_NoRedirect)
            with opener.open(self._request(body), timeout=self.timeout_seconds) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            error.close()
            return _Refusal(f"status {error.code}", error.code >= 500 or error.code in (408, 429))
        except Exception as error:
            # Its message may hold the address.
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            return _Refusal(type(reason).__name__, True)
        return None

    def _request(self, body: bytes) -> urllib.request.Request:
        parts = urllib.parse.urlsplit(self.url)
        user, at, host = parts.netloc.rpartition("@")
        url = urllib.parse.urlunsplit(parts._replace(netloc=host))
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        if at:
            user = urllib.parse.unquote(user if ":" in user else f"{user}:")
            credentials = base64.b64encode(user.encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        return request


@dataclasses.dataclass(frozen=True)
class _Refusal:
    text: str
    may_pass: bool


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as a failure: following it would turn the POST into a GET."""

    def redirect_request(self, *_: Any) -> None:
        return None


def notifier_from_environment(log: logging.Logger = logger) -> Notifier:
    """Return a webhook if MMCTR_NOTIFY_URL is set, otherwise the log `log`.

    Raises `DeploymentError` if its value is no address.
    """
    url = notify_url(os.environ)
    return WebhookNotifier(url) if url else LogNotifier(log)


def notify(event: Event, notifier: Notifier | None = None) -> bool:
    """Record an event and send it, unless its run already has one; return whether it was sent.

    A run has at most one event that it failed or was blocked, and one of a rejected challenger. So
    several processes may report the same run, and the first one wins. A skipped night is reported
    once for each day and reason. Never raises.

    Parameters
    ----------
    event
        The event. It is recorded in `events.jsonl` of its storage folder, if it names one.
    notifier
        By default that of the environment.
    """
    try:
        is_new = _record(event)
    except Exception as error:
        logger.warning("the event below is not in %s: %s", EVENTS, error)
        is_new = True
    if not is_new:
        return False
    try:
        (notifier or notifier_from_environment()).send(event)
    except Exception as error:
        logger.warning("an event was not sent: %s", error)
        with contextlib.suppress(Exception):
            LogNotifier().send(event)
    return True


def read_events(storage: Path) -> list[Event]:
    """Return the events of a storage folder, oldest first; other lines are left out."""
    path = storage / EVENTS
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError):
            events.append(Event(**json.loads(line)))
    return events


def _record(event: Event) -> bool:
    """Append an event to the file of its storage folder; return False if its run has one."""
    if not event.storage:
        return True
    storage = Path(event.storage)
    with locked(storage / ".events.lock"):
        if _is_known(event, read_events(storage)):
            return False
        with (storage / EVENTS).open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the last line was cut off, by a full disk or a kill
                    file.write(b"\n")
            file.write(json.dumps(dataclasses.asdict(event)).encode() + b"\n")
    return True


def _is_known(event: Event, earlier: list[Event]) -> bool:
    if event.kind == "night_skipped":
        return any(
            (each.kind, each.day, each.headline) == (event.kind, event.day, event.headline)
            for each in earlier
        )
    if not event.run_id:
        return False
    is_rejection = event.kind == "challenger_rejected"
    return any(
        each.run_id == event.run_id and (each.kind == "challenger_rejected") == is_rejection
        for each in earlier
    )
