"""Messages to people when a run ends: each once, and never in the way of the run.

Sent by apprise, to the addresses in an environment variable. What is sent is claimed in the store first: of several jobs
that see the same event one sends, and after a kill nobody sends again.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from concurrent import futures
from typing import Any, Literal

from pydantic import ValidationError

from cefr_batch.config.schema import NotifySpec
from cefr_batch.errors import AlreadyExists, StoreError
from cefr_batch.i18n.units import short_duration
from cefr_batch.records import layout
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.notices import Notice
from cefr_batch.records.timestamps import now
from cefr_batch.runner.submission import read_submission
from cefr_batch.schedulers.background import in_background
from cefr_batch.schedulers.sites import SITE_NOTIFY
from cefr_batch.store.base import Store

log = logging.getLogger(__name__)

_SECONDS = 10.0  # for all addresses together: a job that is preempted has little time left
_LONGEST = 500  # characters of a reason

Event = Literal["completed", "failed", "preempted"]


class Notices:
    """The messages about one run. No method raises; none takes longer than ten seconds and a few requests to the store."""

    def __init__(self, store: Store, run: str, settings: NotifySpec | None) -> None:
        """``settings``: the run's own; None: those of the site that started the job, if it has some."""
        self._store, self._run = store, run
        self._settings = settings or _of_site()

    def completed(self) -> None:
        """The run is complete."""
        self._tell("completed", "completed", None, lambda: _figures(self._store, self._run))

    def ended(self, state: Literal["PREEMPTED", "FAILED"], attempt: int, message: str) -> None:
        """The run's job ended otherwise. A failure is told once for each time that the run was submitted or resumed, however
        often its scheduler retries; a preemption when there were so many that it is a loop."""
        if self._settings is None:
            return
        try:
            submission = read_submission(self._store, self._run)
        except StoreError:
            submission = None
        if submission and submission.cancelled_at:
            return
        before = (submission.attempts_before or 0) if submission else 0
        reason = message.partition("\n")[0][:_LONGEST]
        if state == "FAILED":
            self._tell("failed", f"failed-after-{before}", attempt, lambda: [reason, f"cefr-batch logs {self._run}"])
        elif attempt - before >= self._settings.preemptions:
            loop = f"stopped {attempt - before} times since it was submitted; its scheduler may start it again"
            self._tell("preempted", f"preempted-after-{before}", attempt, lambda: [loop, reason])

    def _tell(self, event: Event, name: str, attempt: int | None, lines: Any) -> None:
        settings = self._settings
        if settings is None or event not in settings.events:
            return
        key = layout.run_key(self._run, layout.notice_name(name))
        notice = Notice(run=self._run, event=event, attempt=attempt, at=now(), outcome="sending")
        try:
            self._store.put_record(key, notice, if_absent=True)
        except AlreadyExists:
            return
        except StoreError as exc:
            log.warning("could not check whether this notification was already sent (%s), so none was sent", exc)
            return
        title = f"cefr-batch: {self._run} {'keeps being preempted' if event == 'preempted' else event}"
        reason = _sent(os.environ.get(settings.variable, ""), settings.variable, title, _text(self._store, lines))
        log.info("notification of %s: %s", event, reason or "sent")
        try:
            outcome: Literal["sent", "not sent"] = "not sent" if reason else "sent"
            self._store.put_record(key, notice.model_copy(update={"outcome": outcome, "reason": reason}))
        except StoreError as exc:
            log.warning("the outcome of a notification (%s) could not be recorded: %s", outcome, exc)


def _of_site() -> NotifySpec | None:
    text = os.environ.get(SITE_NOTIFY)
    try:
        return NotifySpec.model_validate_json(text) if text else None
    except ValidationError:
        log.warning("%s is not valid, so no notification is sent; check `notify` in the site file", SITE_NOTIFY)
        return None


def _text(store: Store, lines: Any) -> str:
    try:
        found: Sequence[str] = lines()
    except StoreError as exc:
        found = [f"its figures cannot be read: {exc}"]
    return "\n".join([*found, f"Store: {store.url}"])


def _figures(store: Store, run: str) -> list[str]:
    """The headline of a complete run: what the model learned, how long it took."""
    found = store.get_record(layout.run_key(run, layout.METRICS), Metrics)
    before, after, change = found.baseline.response.loss, found.tuned.response.loss, found.reduction.response
    took = short_duration(sum(found.stage_seconds.values()))
    return [
        f"Loss of the responses: {before:.3f} before, {after:.3f} after ({-change.loss_percent:+.1f} %)",
        f"Level {found.level}, {found.train.steps:,} steps, {took} in all",
    ]


def _sent(addresses: str, variable: str, title: str, body: str) -> str:
    """Send to all addresses; why not all were reached, without naming one; empty if all were."""
    if not addresses.strip():
        return f"the job has no environment variable {variable}"
    try:
        import apprise
    except ImportError:
        return "this Python has no apprise: pip install 'cefr-batch[notify]'"
    try:
        return str(in_background(lambda: _notified(apprise, addresses, title, body)).result(_SECONDS))
    except futures.TimeoutError:
        return f"no answer in {_SECONDS:g} s"
    except Exception as exc:  # its text may hold an address
        return f"apprise failed ({type(exc).__name__})"


def _notified(apprise: Any, addresses: str, title: str, body: str) -> str:
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it names addresses
    wrong, unknown = [], 0
    for address in split_addresses(addresses):
        service = apprise.Apprise.instantiate(address, suppress_exceptions=True)
        if not service:
            unknown += 1
        elif not service.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT):
            wrong.append(str(service.service_name))
    problems = [f"{', '.join(wrong)} did not accept it"] if wrong else []
    problems += [f"{unknown} of the addresses are of no kind that apprise knows"] if unknown else []
    return "; ".join(problems)


def split_addresses(text: str) -> list[str]:
    """The addresses in a variable: separated by white space, or by a comma where a new one begins."""
    return [one for one in re.split(r"\s+|,(?=[A-Za-z][A-Za-z0-9+.-]*://)", text.strip()) if one]
