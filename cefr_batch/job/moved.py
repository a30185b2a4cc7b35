"""A run that was moved to another scheduler while the one before still starts jobs for it.

A Job of Kubernetes replaces a pod that had to stop because a newer attempt took over, and the next pod would take the run
back.
"""

from __future__ import annotations

import logging
import os
import threading
import time

from cefr_batch.errors import Interrupted, JobFailed
from cefr_batch.job.signals import StopSignals
from cefr_batch.records.submission import Submission
from cefr_batch.runner.submission import read_submission
from cefr_batch.schedulers.sites import SCHEDULER
from cefr_batch.store.base import Store

log = logging.getLogger(__name__)

RECORDED_SECONDS = 300.0  # in which a command records the jobs that it starts: they may begin before
_POLL_SECONDS = 2.0


def require_not_moved(store: Store, run: str) -> None:
    """Raise ``JobFailed``, for good, in a pod of a Job whose run was started anew by another scheduler.

    Blocks up to five minutes where it looks so: the command that moved the run here may not have recorded it yet. Main
    thread only. Raises ``Interrupted`` if this job is asked to stop meanwhile.
    """
    newer = _elsewhere(store, run)
    if newer is None:
        return
    log.info("%s belongs to a job on %s; waiting, in case it was moved here just now", run, newer.cluster)
    stop = threading.Event()
    begin = time.monotonic()
    with StopSignals(stop.set):
        while newer:
            if time.monotonic() - begin >= RECORDED_SECONDS:
                raise JobFailed(
                    f"{run} was moved to {newer.cluster}, so this job leaves it alone; once its job there has ended, "
                    f"`cefr-batch resume {run} --cluster k8s/NAME` moves it back",
                    permanent=True,
                )
            if stop.wait(_POLL_SECONDS):
                raise Interrupted("stopped on request before it began")
            newer = _elsewhere(store, run)


def _elsewhere(store: Store, run: str) -> Submission | None:
    """The run's newest submission, if it is one to another scheduler than this job's. Without a submission, as where
    somebody applied a manifest, or in a job that does not know its scheduler, there is nothing to compare."""
    mine = os.environ.get(SCHEDULER)
    newest = read_submission(store, run) if mine else None
    return newest if newest and newest.scheduler != mine else None
