"""When runs have ended, as far as the store alone can tell: for a job that can ask no scheduler."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone

from cefr_batch import layout
from cefr_batch.errors import NotFound, StoreError
from cefr_batch.launch.base import State
from cefr_batch.launch.submission import parse_time, read_submission
from cefr_batch.store.base import Store

POLL_SECONDS = 5.0
# A failed job may be tried again: Kubernetes waits up to 6 minutes before it does, and then a node must be free.
FAILED_SECONDS = 900.0


def wait_until_ended(store: Store, runs: Sequence[str], limit_seconds: float) -> list[str]:
    """Block until each run is complete, cancelled, or failed and for a while not tried again. A store that is away is
    asked again. Returns the runs that had not ended at the limit."""
    left, deadline = list(runs), time.monotonic() + limit_seconds
    while left := [run for run in left if not _ended(store, run)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    return left


def _ended(store: Store, run: str) -> bool:
    try:
        if store.exists(layout.run_key(run, layout.MANIFEST)):
            return True
        submission = read_submission(store, run)
        return bool(submission and submission.cancelled_at) or _failed_for_good(store, run)
    except StoreError:
        return False


def _failed_for_good(store: Store, run: str) -> bool:
    try:
        status = store.get_json(layout.run_key(run, layout.STATUS))
        age = datetime.now(timezone.utc) - parse_time(status["updated_at"])
    except (NotFound, KeyError, TypeError, ValueError):
        return False
    return status.get("state") == State.FAILED and age.total_seconds() > FAILED_SECONDS
