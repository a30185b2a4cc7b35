"""From what was prepared to started jobs, or to the request that would start them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from cefr_batch.errors import CefrBatchError, JobsMayRun, SchedulerError, StoreError
from cefr_batch.records import layout
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.submission import Submission
from cefr_batch.runner.submission import claim, next_runs, start, unclaim
from cefr_batch.schedulers import JobGroup, JobSpec, Scheduler
from cefr_batch.store import Store, below

if TYPE_CHECKING:
    from cefr_batch.runner.prepare import Preparation, Prepared

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What starts these runs, as text: a script or manifests, exactly what is sent to the scheduler."""

    runs: list[str]
    text: str


@dataclass(frozen=True)
class Launch:
    """Jobs that were started, and where the report that compares their runs will be (None: there will be none)."""

    submissions: list[Submission]
    report_url: str | None

    @property
    def runs(self) -> list[str]:
        """The names of the runs."""
        return [one.run for one in self.submissions]


def preview(store: Store, preparation: Preparation) -> Request:
    """The request under the names that the runs would get now. Starts and writes nothing."""
    runs = next_runs(store, [item.spec for item in preparation.runs])
    return _request(store, preparation, runs)


def render(store: Store, preparation: Preparation) -> Request:
    """The request for somebody else to send. Claims the names and stores settings and data, so that it can be sent at
    any time. Blocks on the store. Raises ``SchedulerError``, and claims nothing, for a store that the jobs cannot
    reach.
    """
    runs = _claim(store, preparation)
    try:
        return _request(store, preparation, runs)
    except BaseException:
        unclaim(store, runs)
        raise


def launch(store: Store, preparation: Preparation) -> Launch:
    """Claim names and start the jobs; blocks until they are submitted and recorded.

    Raises ``SchedulerError`` if one cannot be started: then none was, and the names are free again, as where this fails or
    is interrupted earlier. If it is later, jobs that were started are stopped, and their runs can be resumed; ``JobsMayRun``
    names those that could not be stopped.
    """
    runs = _claim(store, preparation)
    group = _job_group(store, preparation.scheduler, runs, preparation.runs)
    try:
        submissions, reported = start(store, preparation.scheduler, group, undo=partial(unclaim, store, runs))
        return Launch(submissions, group.report_url if reported else None)
    except (JobsMayRun, StoreError):
        raise
    except CefrBatchError as exc:
        raise SchedulerError(f"nothing was started: {exc}") from exc


def _request(store: Store, preparation: Preparation, runs: Sequence[str]) -> Request:
    group = _job_group(store, preparation.scheduler, runs, preparation.runs)
    return Request(list(runs), preparation.scheduler.describe(preparation.scheduler.render(group)))


def _job_group(store: Store, scheduler: Scheduler[Any], runs: Sequence[str], prepared: Sequence[Prepared]) -> JobGroup:
    """Jobs for these runs and, where there are several and the scheduler can, a report after them."""
    jobs = (JobSpec(run, store.url, item.spec.resources.gpus) for run, item in zip(runs, prepared, strict=True))
    return JobGroup(tuple(jobs), report_url(store, scheduler, runs))


def report_url(store: Store, scheduler: Scheduler[Any], runs: Sequence[str]) -> str | None:
    """Where the report that compares these runs will be; None for one run, and where the scheduler makes none."""
    return below(store.url, layout.report_folder(runs[0])) if scheduler.reports and len(runs) > 1 else None


def _claim(store: Store, preparation: Preparation) -> list[str]:
    """Put the runs' data and settings into the store, under the names that are returned, and what else is asked of them."""
    from cefr_batch.runner.evaluate import cross_tasks, request_evaluations
    from cefr_batch.store.datasets import store_dataset

    for dataset in {item.dataset.sha256: item.dataset for item in preparation.runs}.values():
        store_dataset(store, dataset)
    runs = claim(store, [(item.spec, item.dataset.sha256) for item in preparation.runs])
    claimed = dict(zip(runs, preparation.runs, strict=True))
    try:
        _warn_of_repeats(store, claimed)
        if preparation.cross_evaluate:
            for run, tasks in cross_tasks({run: (one.spec, one.dataset) for run, one in claimed.items()}).items():
                request_evaluations(store, run, tasks)
    except BaseException:
        unclaim(store, runs)
        raise
    return runs


def _warn_of_repeats(store: Store, claimed: Mapping[str, Prepared]) -> None:
    """Tell of runs that compute what the version before them does: a second `submit` is often a mistake, and costs hours."""
    for run, one in claimed.items():
        version = layout.run_version(run)
        before = f"{run.rpartition('-v')[0]}-v{version - 1}"
        with suppress(StoreError):
            if version > 1 and _repeats(store, run, one, _record(store, before)):
                text = "%s has the same settings and data as %s; if that was not meant, `cefr-batch cancel %s` stops it"
                log.warning(text, run, before, run)


def _repeats(store: Store, run: str, one: Prepared, old: SpecRecord) -> bool:
    from cefr_batch.config.load import comparable

    if (comparable(old.spec), old.dataset) != (one.spec.model_dump(mode="json"), one.dataset.sha256):
        return False
    return not one.spec.model.adapter or old.adapter == _record(store, run).adapter


def _record(store: Store, run: str) -> SpecRecord:
    return store.get_record(layout.run_key(run, layout.SPEC), SpecRecord)
