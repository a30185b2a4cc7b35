"""The attempt before, while it is still stopping: what it stores last must not be lost.

Some schedulers start the next job while the last one stores its checkpoint: Kubernetes before 1.28, when a pod is deleted.
The next attempt would take the run over, and the last one would have to stop without storing anything more.
"""

from __future__ import annotations

import logging
import threading
import time

from cefr_batch.errors import Damaged, Interrupted, NotFound
from cefr_batch.job.signals import StopSignals
from cefr_batch.records import layout
from cefr_batch.records.status import Status
from cefr_batch.store.base import Store

log = logging.getLogger(__name__)

SILENT_SECONDS = 20.0  # without a heartbeat, after which a job that was stopping was killed
_POLL_SECONDS = 1.0


def wait_until_stopped(store: Store, run: str) -> None:
    """Block while the attempt before says that it is stopping, and until it has not said so for 20 seconds. Main thread
    only. Raises ``Interrupted`` if this job is asked to stop meanwhile."""
    stop = threading.Event()
    heard, since = "", 0.0
    with StopSignals(stop.set):
        while status := _stopping(store, run):
            if not heard:
                log.info(
                    "attempt %d of %s is still storing its results; waiting until it has ended", status.attempt, run
                )
            if status.updated_at != heard:  # by this clock: that of another machine may be wrong
                heard, since = status.updated_at, time.monotonic()
            elif time.monotonic() - since > SILENT_SECONDS:
                return
            if stop.wait(_POLL_SECONDS):
                raise Interrupted("stopped on request before it began")


def _stopping(store: Store, run: str) -> Status | None:
    try:
        status = store.get_record(layout.run_key(run, layout.STATUS), Status)
    except (Damaged, NotFound):
        return None
    return status if status.state == "RUNNING" and status.stopping else None
