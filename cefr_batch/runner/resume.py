"""Resume stopped runs from their last checkpoint."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from cefr_batch.errors import NotReady, Problem
from cefr_batch.records import layout
from cefr_batch.records.rung import Pause
from cefr_batch.records.submission import Submission
from cefr_batch.runner.findings import Findings
from cefr_batch.runner.status import START_AGAIN, RunState, run_states
from cefr_batch.runner.submission import forget_cancel, job_of, read_spec, read_submission, start
from cefr_batch.schedulers import JobGroup, JobSpec, Scheduler, get_scheduler
from cefr_batch.schedulers.base import State
from cefr_batch.store.base import Store

log = logging.getLogger(__name__)


def resume_runs(
    store: Store,
    runs: Sequence[str],
    *,
    cluster: Scheduler[Any] | None = None,
    force: bool = False,
    pauses: Mapping[str, Pause] | None = None,
) -> list[Submission]:
    """Start a new job for each run from its last checkpoint and with its recorded settings, at ``cluster``, or where it ran.

    ``pauses``: where the training of some is to stop, for now; that of all others goes on to its end. None: where it is to
    stop already, but a run that has stopped there goes on to its end.

    ``force``: even where it cannot be told from here whether the old job still runs, and where a check that is an opinion
    says that the new one would not. Blocks until the jobs are submitted. Raises ``NotReady`` with every reason if a run is
    active, complete or cannot run; then nothing is started.
    """
    states = run_states(store, runs)
    before = {state.run: read_submission(store, state.run) for state in states}
    submitted = {run: old.cluster if old else None for run, old in before.items()}
    problems = [Problem(s.run, why) for s in states if (why := _refusal(s, submitted[s.run], cluster, force))]
    if problems:
        raise NotReady(dict.fromkeys(problems), exit_code=1)
    find = cache(get_scheduler)
    schedulers = {run: cluster or find(there or "local") for run, there in submitted.items()}
    by_scheduler = {one: [run for run in schedulers if schedulers[run] is one] for one in schedulers.values()}
    found = Findings()
    for one, its in by_scheduler.items():
        _check(store, one, its, force, found)
    found.raise_if_any()
    old_jobs = {run: old for run, old in before.items() if old}
    if force:
        _release(store, old_jobs, schedulers)
    forget_cancel(store, schedulers)
    for state in states:
        if pauses is not None or state.state is State.PAUSED:
            _ask_to_pause(store, state.run, (pauses or {}).get(state.run))
    submissions: list[Submission] = []
    for one, its in by_scheduler.items():
        started, _ = start(store, one, JobGroup(tuple(_job_spec(store, run) for run in its)))
        submissions += started
    for address, its in _reports_without(old_jobs).items():
        again = f"`cefr-batch report RUN… --out {shlex.quote(address)}` makes it again, with the runs that it compares"
        text = "the report in %s does not wait for %s; once all its runs have ended, %s"
        log.warning(text, address, " and ".join(its), again)
    return submissions


def _reports_without(old_jobs: Mapping[str, Submission]) -> dict[str, list[str]]:
    """The reports that the cluster makes of runs as they were submitted, and which of these runs each lacks."""
    reports: dict[str, list[str]] = {}
    for run, old in old_jobs.items():
        if old.report:
            reports.setdefault(old.report, []).append(run)
    return reports


def _release(store: Store, old_jobs: Mapping[str, Submission], schedulers: Mapping[str, Scheduler[Any]]) -> None:
    """Free what old jobs of these runs still hold of the clusters where they are to start again."""
    for run, old in old_jobs.items():
        if old.scheduler == schedulers[run].scheme:
            schedulers[run].release([job_of(old)], store.url)


def _ask_to_pause(store: Store, run: str, pause: Pause | None) -> None:
    key = layout.run_key(run, layout.PAUSE)
    if pause:
        store.put_record(key, pause)
    else:
        store.delete(key)


def _refusal(state: RunState, cluster: str | None, chosen: Scheduler[Any] | None, force: bool) -> str:
    """Why the run cannot be resumed; empty if it can. ``cluster``: where it was submitted, if it was; ``chosen``: where it
    is to start."""
    if state.state is State.SUCCEEDED:
        return "is complete, there is nothing to resume"
    if state.state in (State.PENDING, State.RUNNING):
        why = f" ({state.reason})" if state.reason else ""
        if state.stopping:
            return f"is still being stopped{why}; resume it once `cefr-batch status` shows it as CANCELLED"
        return f"is {state.state} already{why}; `cefr-batch logs -f {state.run}` shows its log"
    if state.never_started and chosen is None:
        return "was never submitted, so it is not known where to start it: add --cluster NAME (local: this machine)"
    if cluster is None and state.attempt and not force:
        elsewhere = f"`cefr-batch resume {state.run} --force --cluster NAME` starts it on another cluster"
        return f"was not started by submit; {START_AGAIN}, or {elsewhere} (without --cluster: on this machine)"
    if state.state is State.UNKNOWN and cluster is not None and not force:
        return f"{state.reason}; if its job is surely gone, --force starts it again"
    return ""


def _job_spec(store: Store, run: str) -> JobSpec:
    return JobSpec(run, store.url, read_spec(store, run).resources.gpus)


def _check(store: Store, scheduler: Scheduler[Any], runs: Sequence[str], force: bool, found: Findings) -> None:
    """Find what would keep these runs' jobs from running there."""
    found.get(scheduler.require_settings)
    backends = sorted({read_spec(store, run).backend for run in runs})
    found.add(scheduler.check(backends, store.url), force=force)
