"""Waiting for runs: by what their schedulers and the store say, or by the store alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

from cefr_batch.errors import StoreError, WaitTimeout
from cefr_batch.records import layout
from cefr_batch.records.status import Status
from cefr_batch.records.timestamps import age_seconds
from cefr_batch.runner.clock import Clock
from cefr_batch.runner.evaluations import evaluation_submission, open_tasks
from cefr_batch.runner.status import RunState
from cefr_batch.runner.submission import read_submission
from cefr_batch.schedulers.base import QUEUED_SECONDS, State
from cefr_batch.store.base import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
# A failed job may be retried: Kubernetes waits up to 6 minutes before it does, and then a node must be free.
FAILED_SECONDS = 900.0
SILENT_SECONDS = 3 * 3600.0  # a job writes its status every two seconds; one that is gone without a word may be retried


def watch_states(
    look: Callable[[], list[RunState]], *, poll_seconds: float, unknown_seconds: float, clock: Clock
) -> Iterator[list[RunState]]:
    """The states that ``look`` gives, every ``poll_seconds``, until none will change unless the user does something.

    Blocks in between. A run that stays UNKNOWN for ``unknown_seconds`` is no longer waited for; if there is one, this
    raises ``WaitTimeout`` after the last states.
    """
    unknown_since: dict[str, float] = {}
    while True:
        states, now = look(), clock.monotonic()
        yield states
        open_states = [state for state in states if not state.settled]
        unknown_since = {s.run: unknown_since.get(s.run, now) for s in open_states if s.state is State.UNKNOWN}
        lost = [state for state in open_states if now - unknown_since.get(state.run, now) >= unknown_seconds]
        if len(lost) == len(open_states):
            break
        clock.sleep(poll_seconds)
    if lost:
        raise WaitTimeout(_lost(lost, unknown_seconds))


def _lost(states: Sequence[RunState], seconds: float) -> str:
    lines = [f"  {state.run}: {state.reason}" for state in states]
    heading = f"stopped waiting: the state of {len(states)} run(s) could not be learned for {seconds / 60:.0f} minutes:"
    then = (
        "Ask again later with `cefr-batch status`; if a job is surely gone, `cefr-batch resume --force RUN` restarts it"
    )
    return "\n".join([heading, *lines, then])


def wait_until_ended(
    store: Store,
    runs: Sequence[str],
    limit_seconds: float,
    *,
    look: Callable[[list[str]], list[RunState]] = lambda runs: [],
    queued_seconds: float = QUEUED_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    clock: Clock | None = None,
) -> list[str]:
    """Block until each run has ended, with the evaluations that were asked of it. Returns the runs that had not in time.

    Of the states that ``look`` gives, those count for which a scheduler was asked: such a run has ended if it is settled,
    and else has all the time that its scheduler gives it. For the others the store alone tells: a run has ended when it is
    complete, cancelled, paused, failed and for 15 minutes not retried, or without a sign of life for three hours. It gets
    ``limit_seconds`` from when it is first seen to have started, or its scheduler last answered; as long as none starts or
    ends, those that have not started get ``queued_seconds``, a week if they may stand in a queue. While the store is
    unavailable, it is asked again.
    """
    clock = clock or Clock()
    left, given_up, unasked = list(runs), set[str](), set[str]()
    started: dict[str, float] = {}
    last_news = clock.monotonic()
    while waiting := [run for run in left if run not in given_up]:
        states = look(waiting)
        for lost in (one for one in states if one.state is State.UNKNOWN and one.run not in unasked):
            unasked.add(lost.run)
            log.warning("%s: %s; the store will show when it has ended", lost.run, lost.reason)
        known = {one.run: one.settled for one in states if one.observed and one.state is not State.UNKNOWN}
        ended = {run for run in waiting if known.get(run, False) or (run not in known and _ended(store, run))}
        new = {run for run in waiting if run not in started and run not in ended and _has_started(store, run)}
        now = clock.monotonic()
        last_news = now if ended or new or known else last_news
        started |= dict.fromkeys(new | (started.keys() & known.keys()), now)
        left = [run for run in left if run not in ended]
        since = {run: (started[run], limit_seconds) if run in started else (last_news, queued_seconds) for run in left}
        given_up |= {run for run, (begin, limit) in since.items() if run not in known and now - begin >= limit}
        if set(left) - given_up:
            clock.sleep(poll_seconds)
    return left


def _has_started(store: Store, run: str) -> bool:
    try:
        return store.exists(layout.run_key(run, layout.STATUS))
    except StoreError:
        return False


def _ended(store: Store, run: str) -> bool:
    try:
        complete = store.exists(layout.run_key(run, layout.MANIFEST))
        if complete and not open_tasks(store, run):
            return True
        submission = evaluation_submission(store, run) if complete else read_submission(store, run)
        if submission and submission.cancelled_at:
            return True
        name = layout.EVALUATION_STATUS if complete else layout.STATUS
        status = store.get_record(layout.run_key(run, name), Status)
        if status.paused:
            return True
        limit = {"FAILED": FAILED_SECONDS, "RUNNING": SILENT_SECONDS}.get(status.state, float("inf"))
        return age_seconds(status.updated_at) > limit
    except StoreError:
        return False
