"""The attempt before, while it is still stopping: what it stores last must not be lost.

Some schedulers start the next job while the last one stores its checkpoint: Kubernetes before 1.28, when a pod is deleted.
The next attempt would take the run over, and the last one would have to stop without storing anything more.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from cefr_batch.errors import Damaged, Interrupted, NotFound
from cefr_batch.job.signals import StopSignals
from cefr_batch.records import layout
from cefr_batch.records.status import Status
from cefr_batch.records.timestamps import age_seconds
from cefr_batch.store.base import Store

log = logging.getLogger(__name__)

SILENT_SECONDS = 20.0  # without a heartbeat, after which a job that was stopping was killed
NOTICE_SECONDS = 20.0  # in which a pod that is deleted hears of it: its successor may be there before
_ALIVE_SECONDS = 6.0  # three heartbeats
_POLL_SECONDS = 1.0


def wait_until_stopped(store: Store, run: str) -> None:
    """Block while the attempt before says that it is stopping, and until it has not said so for 20 seconds; on Kubernetes
    also for up to 20 seconds while it is alive and may not have heard yet that it is to stop. Main thread only. Raises
    ``Interrupted`` if this job is asked to stop meanwhile."""
    stop = threading.Event()
    begin = time.monotonic()
    heard, since, told = "", 0.0, False
    with StopSignals(stop.set):
        while status := _alive(store, run, may_not_know=time.monotonic() - begin < NOTICE_SECONDS):
            if status.stopping and not told:
                told = True
                log.info(
                    "attempt %d of %s is still storing its results; waiting until it has ended", status.attempt, run
                )
            if status.updated_at != heard:  # by this clock: that of another machine may be wrong
                heard, since = status.updated_at, time.monotonic()
            elif time.monotonic() - since > (SILENT_SECONDS if status.stopping else _ALIVE_SECONDS):
                return
            if stop.wait(_POLL_SECONDS):
                raise Interrupted("stopped on request before it began")


def _alive(store: Store, run: str, *, may_not_know: bool) -> Status | None:
    """The status of an attempt that is stopping or, on Kubernetes, may be about to."""
    try:
        status = store.get_record(layout.run_key(run, layout.STATUS), Status)
    except (Damaged, NotFound):
        return None
    soon = may_not_know and "KUBERNETES_SERVICE_HOST" in os.environ and age_seconds(status.updated_at) < SILENT_SECONDS
    return status if status.state == "RUNNING" and (status.stopping or soon) else None
