"""From specs to started jobs: names for runs, records of their jobs, requests to stop them."""

from __future__ import annotations

import getpass
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tenacity import RetryError, Retrying, retry_if_result, stop_after_attempt, wait_random_exponential

from cefr_batch import __version__
from cefr_batch.errors import AlreadyExists, Damaged, JobsMayRun, NotFound, SchedulerError, StoreError, cut_short
from cefr_batch.records import layout
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import now
from cefr_batch.schedulers.base import Job, JobGroup, Scheduler
from cefr_batch.store.base import Store

if TYPE_CHECKING:
    from cefr_batch.config.schema import RunSpec

log = logging.getLogger(__name__)

_WRITERS = 16  # records are written in parallel: a store may be far away
_CLAIM_ATTEMPTS = 20
# A submission's name -> where the attempts of its job are counted.
_ATTEMPTS_OF = {layout.SUBMISSION: layout.ATTEMPTS, layout.EVALUATION_SUBMISSION: layout.EVALUATION_LOGS}
_LONGEST_NAME = 63  # of what a record calls a run, in a message


def job_of(submission: Submission) -> Job:
    """The job as its scheduler knows it."""
    return Job(submission.run, submission.handle)


def next_runs(store: Store, specs: Sequence[RunSpec], taken: Iterable[str] = ()) -> list[str]:
    """The names that runs of these specs would get now. ``taken``: names in use that the store may not list yet."""
    names = {*store.folders(f"{layout.RUNS}/"), *taken}
    newest: dict[str, int] = {}
    free = []
    for family in (spec.run_family for spec in specs):
        if family not in newest:
            versions = [layout.run_version(name) for name in names if name.startswith(f"{family}-v")]
            newest[family] = max(versions, default=0)
        newest[family] += 1
        free.append(f"{family}-v{newest[family]}")
    return free


def claim(
    store: Store, wanted: Sequence[tuple[RunSpec, str]], *, sleep: Callable[[float], None] = time.sleep
) -> list[str]:
    """Write ``spec.json`` of each spec and dataset under the next free name, which is then this submitter's alone.

    Returns the names in order. Blocks on the store, and retries with a pause where other submitters were faster. Raises
    ``StoreError`` if a name cannot be written, or is still refused after 20 attempts. Then, and where it is interrupted,
    none stays claimed.
    """
    claims = _Claims(store, wanted)
    pause = wait_random_exponential(multiplier=0.05, max=1)
    attempts = Retrying(retry=retry_if_result(bool), stop=stop_after_attempt(_CLAIM_ATTEMPTS), wait=pause, sleep=sleep)
    try:
        attempts(claims.attempt)
    except BaseException as exc:
        unclaim(store, claims.names.values())
        if not isinstance(exc, RetryError):
            raise
        raise StoreError(
            f"no free run name found in {store.url} in {_CLAIM_ATTEMPTS} attempts: the store does not list names that it "
            "then refuses as taken; check that reads and writes reach the same store (a proxy or replica may be behind), "
            "then submit again"
        ) from exc
    return [claims.names[number] for number in range(len(wanted))]


class _Claims:
    """The names claimed so far, by position in ``wanted``, and those that turned out to be taken."""

    def __init__(self, store: Store, wanted: Sequence[tuple[RunSpec, str]]) -> None:
        self.store, self.wanted = store, wanted
        self.names: dict[int, str] = {}
        self.taken: set[str] = set()

    def attempt(self) -> int:
        """Try the next free names for what has none yet; return how many still have none."""
        left = [number for number in range(len(self.wanted)) if number not in self.names]
        free = next_runs(self.store, [self.wanted[number][0] for number in left], {*self.taken, *self.names.values()})
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(self._claim, left, free))
        return len(self.wanted) - len(self.names)

    def _claim(self, number: int, run: str) -> None:
        """In a thread, which an interruption does not stop: what it claims is noted in any case."""
        if claim_as(self.store, run, *self.wanted[number]):
            self.names[number] = run
        else:
            self.taken.add(run)


def claim_as(store: Store, run: str, spec: RunSpec, dataset: str) -> bool:
    """Write ``spec.json`` under this name. Returns False, and writes nothing, if the name is taken."""
    record = SpecRecord(
        run=run, dataset=dataset, spec=spec.model_dump(mode="json"), code_version=__version__, submitted_at=now()
    )
    if spec.model.adapter:
        from cefr_batch.store.adapters import adapter_of  # late, as in read_spec

        record = record.model_copy(update={"adapter": adapter_of(store, spec.model.adapter)})
    try:
        store.put_record(layout.run_key(run, layout.SPEC), record, if_absent=True)
    except AlreadyExists:
        return False
    return True


def unclaim(store: Store, runs: Iterable[str]) -> None:
    """Free the names of runs whose jobs were never started. Idempotent.

    Where the store fails it logs a warning and raises nothing: the name then stays taken, by a run that never started.
    """
    for run in runs:
        try:
            store.delete(layout.run_key(run, layout.EVALUATION_REQUEST))
            store.delete(layout.run_key(run, layout.SPEC))
        except StoreError as exc:
            text = "%s was not started, but stays in the store: %s; `cefr-batch prune %s` removes it once the store answers"
            log.warning(text, run, exc, run)


def start(
    store: Store,
    scheduler: Scheduler[Any],
    group: JobGroup,
    name: str = layout.SUBMISSION,
    undo: Callable[[], None] = lambda: None,
) -> tuple[list[Submission], bool]:
    """Start the jobs of claimed runs and record them, each under ``name``; and whether a job was started that writes the
    group's report. Blocks on the scheduler and the store.

    All jobs run and are recorded, or all are stopped again, whatever interrupts this, Ctrl-C included. ``undo`` is called
    where it is certain that no job was started, for what was done before. Raises ``SchedulerError`` if a job cannot be
    started (then none was), ``JobsMayRun`` if jobs can neither be recorded nor stopped, and otherwise what kept them from
    being started or recorded, such as ``StoreError``.
    """
    runs = [job.run for job in group.jobs]
    try:
        request = scheduler.render(group)
        with ThreadPoolExecutor(_WRITERS) as pool:
            attempts = list(pool.map(lambda run: newest_attempt(store, run, _ATTEMPTS_OF[name]), runs))
    except BaseException:
        undo()
        raise
    afterwards = _afterwards(scheduler, name, dict(zip(runs, attempts, strict=True)))
    submitted_at = now()  # before the start: the jobs' own records are never older
    try:
        handles = scheduler.submit(request)
    except SchedulerError:
        undo()
        raise
    except BaseException as exc:
        raise JobsMayRun(
            f"interrupted while {', '.join(runs)} were being started (--cluster {scheduler.name}), so their jobs may be "
            f"running; look there ({scheduler.by_hand}). When none of them is there any more, {afterwards}"
        ) from exc
    user = _user()
    report = group.report_url if len(handles) > len(runs) else None
    submissions = [
        Submission(
            run=run,
            cluster=scheduler.name,
            handle=handle,
            submitted_at=submitted_at,
            submitted_by=user,
            cancelled_at=None,
            attempts_before=before,
            report=report,
        )
        for run, before, handle in zip(
            runs, attempts, handles, strict=False
        )  # the report's handle comes last, and belongs to no run
    ]
    pool = ThreadPoolExecutor(_WRITERS)
    try:
        list(pool.map(lambda one: _put(store, one, name), submissions))
    except BaseException as exc:
        _stop(store, scheduler, [job_of(one) for one in submissions], exc, afterwards)
        log.warning(
            "the jobs that were just started were told to stop, since they could not be recorded (%s); %s",
            _reason(exc),
            afterwards,
        )
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return submissions, report is not None


def _stop(store: Store, scheduler: Scheduler[Any], jobs: Sequence[Job], why: BaseException, afterwards: str) -> None:
    try:
        scheduler.cancel(jobs, store.url)
    except BaseException as exc:
        handles = ", ".join(f"{job.run} ({job.handle})" for job in jobs)
        raise JobsMayRun(
            f"jobs were started, but could be neither recorded ({_reason(why)}) nor stopped ({_reason(exc)}), and may "
            f"still run: {handles}. Stop them yourself, by these job ids ({scheduler.by_hand}); then "
            f"{afterwards}"
        ) from why


def _afterwards(scheduler: Scheduler[Any], name: str, attempts: Mapping[str, int]) -> str:
    """What to do when these runs' jobs are gone. ``prune`` is named only where it removes nothing that was computed."""
    if name == layout.EVALUATION_SUBMISSION:
        return evaluate_again(*attempts)
    names = " ".join(attempts)
    starts = f"`cefr-batch resume {names} --cluster {scheduler.name}` starts the runs again"
    return starts if any(attempts.values()) else f"{starts}, and `cefr-batch prune {names}` removes them"


def evaluate_again(*runs: str) -> str:
    """How evaluations of these runs are continued, for the end of a message."""
    return f"the same `cefr-batch evaluate {' '.join(runs)} --on …` as before does the rest"


def _reason(exc: BaseException) -> str:
    return str(exc) or "interrupted"


def cancel(
    store: Store, submissions: Sequence[Submission], scheduler: Scheduler[Any], name: str = layout.SUBMISSION
) -> None:
    """Record the request to stop under ``name``, then pass it to the jobs, which all belong to this scheduler.

    Does not wait for them to stop; idempotent. Raises ``SchedulerError``, and records nothing, if they cannot be asked.
    """
    _write(store, [one.model_copy(update={"cancelled_at": one.cancelled_at or now()}) for one in submissions], name)
    try:
        scheduler.cancel([job_of(one) for one in submissions], store.url)
    except SchedulerError:
        _write(store, submissions, name)
        raise


def forget_cancel(store: Store, runs: Iterable[str]) -> None:
    """Remove the requests to stop these runs: a job that starts again at once must not find an old one. Idempotent."""
    found = [one for run in runs if (one := read_submission(store, run)) and one.cancelled_at]
    _write(store, [one.model_copy(update={"cancelled_at": None}) for one in found])


def newest_attempt(store: Store, run: str, folder: str = layout.ATTEMPTS) -> int:
    """The number of a run's newest attempt, or by their logs that of its evaluations; 0 if there was none."""
    names = (layout.object_name(run, one.key) for one in store.objects(layout.run_key(run, folder) + "/"))
    return max((layout.attempt_of(name) or layout.log_attempt(name) or 0 for name in names), default=0)


def where_began(store: Store, run: str, attempt: int) -> tuple[int | None, int | None]:
    """How many stages were finished, and from which step it went on, when this attempt began; nothing if it did not come so
    far. A record that is damaged is of an attempt whose machine died while writing it."""
    with suppress(Damaged, NotFound):
        record = store.get_record(layout.run_key(run, layout.attempt_name(attempt)), Attempt)
        return record.finished_stages, record.first_step
    return None, None


def read_spec(store: Store, run: str) -> RunSpec:
    """A run's settings. Raises ``StoreError`` if they cannot be read, ``SpecError`` if they are none."""
    from cefr_batch.config.load import recorded_spec  # late: not every command needs the settings library

    key = layout.run_key(run, layout.SPEC)
    return recorded_spec(store.get_record(key, SpecRecord).spec, store.locate(key))


def read_dataset_name(store: Store, run: str) -> str:
    """The name of a run's dataset in the store. Raises ``StoreError``."""
    return store.get_record(layout.run_key(run, layout.SPEC), SpecRecord).dataset


def read_submission(store: Store, run: str, name: str = layout.SUBMISSION) -> Submission | None:
    """A run's submission, or that of its evaluations; None if its job was never started. Raises ``StoreError`` if the
    record is damaged, or another run's, whose job it would name."""
    key = layout.run_key(run, name)
    try:
        submission = store.get_record(key, Submission)
    except NotFound:
        return None
    if submission.run != run:
        raise Damaged(f"{store.locate(key)} belongs to the run {_quoted(submission.run)}; restore it from a copy")
    return submission


def _quoted(text: str) -> str:
    return repr(cut_short(text, _LONGEST_NAME))


def _write(store: Store, submissions: Iterable[Submission], name: str = layout.SUBMISSION) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda one: _put(store, one, name), submissions))


def _put(store: Store, submission: Submission, name: str) -> None:
    store.put_record(layout.run_key(submission.run, name), submission)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
