"""The state of runs: what the store says of a run, joined with what its scheduler says of its job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from cefr_batch.errors import AccessDenied, CefrBatchError, NotFound, StoreError, Unavailable, UsageError
from cefr_batch.records import layout
from cefr_batch.records.manifest import Manifest, RunSummary
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.status import Status
from cefr_batch.records.submission import Submission
from cefr_batch.records.timestamps import age_seconds
from cefr_batch.runner.submission import job_of, read_submission
from cefr_batch.schedulers import Scheduler, get_scheduler
from cefr_batch.schedulers.base import Job, Observation, State
from cefr_batch.store.base import READERS, Store

HEARTBEAT_LOST_SECONDS = 60.0  # a job writes its status every two seconds
_ASKED_TO_STOP = "asked to stop"
# How a run goes on that submit did not start.
START_AGAIN = (
    "start its job again where it ran (on Kubernetes: delete its Job if it is still there and, once its pod has ended, "
    "apply its manifest)"
)


@dataclass(frozen=True)
class RunState:
    """A run's state in one word, the reason for it, and the progress of its newest job (None: not known).

    ``loss`` is the last training loss, ``eval_loss`` the last evaluation loss (of a complete run: the final and the
    best), in nats per token. Times are UTC, ISO 8601.
    """

    run: str
    level: str | None
    state: State
    reason: str = ""
    settled: bool = False  # finished or never started: nothing changes unless the user does something
    observed: bool = False  # its scheduler answered; else the store alone tells
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    eta_seconds: float | None = None  # until the last training step
    attempt: int | None = None
    updated_at: str | None = None
    submitted_at: str | None = None
    handle: str | None = None

    @property
    def stopping(self) -> bool:
        """Whether it was cancelled, and its job has not ended yet."""
        return self.reason.startswith(_ASKED_TO_STOP) and not self.settled

    @property
    def never_started(self) -> bool:
        """Whether the run has a name and settings, and no job has been started, as far as the store tells."""
        return self.settled and not self.state.finished


@dataclass(frozen=True)
class Facts:
    """What the store says of a run. ``status`` is None unless the newest submission's job wrote it. ``summary`` is that of
    a complete run; where it is damaged, ``status`` stands in for it."""

    run: str
    complete_at: str | None = None  # None: not complete; empty: complete, and it is not known since when
    submission: Submission | None = None
    status: Status | None = None
    summary: RunSummary | None = None
    damage: str = ""  # why the rest cannot be relied on

    @property
    def complete(self) -> bool:
        """Whether its manifest is in the store."""
        return self.complete_at is not None

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked it to stop."""
        return self.submission is not None and self.submission.cancelled_at is not None

    @property
    def where(self) -> str:
        """`` at stage train, step 40 of 290``, as far as it is known. Other stages count examples and texts."""
        if self.status is None:
            return ""
        unit = "step " if self.status.stage == "train" else ""
        step = f", {unit}{self.status.step} of {self.status.steps}" if self.status.step is not None else ""
        return f" at stage {self.status.stage}{step}"

    @property
    def stopped(self) -> str:
        """How it stopped on request, in its job's own words: which checkpoint it left, if any."""
        said = self.status.message if self.status else ""
        return said or f"stopped on request{self.where}"

    @property
    def next_step(self) -> str:
        """How to continue, for the end of a reason."""
        if self.submission is None and self.status is None:
            return f"apply what `render` printed, or start it with `cefr-batch resume {self.run} --cluster NAME`"
        if self.submission is None:
            return START_AGAIN
        resumes = "resumes" if self.status or self.submission.attempts_before else "starts"
        if study := layout.study_of(self.run):
            return f"`cefr-batch search --resume {study} --wait` continues its search"
        return f"`cefr-batch resume {self.run}` {resumes} it"


def run_states(
    store: Store, runs: Iterable[str], find_scheduler: Callable[[str], Scheduler[Any]] = get_scheduler
) -> list[RunState]:
    """The state of each of these runs, in their order. A run that cannot be read is UNKNOWN and says why.

    Blocks: reads the store in parallel, and asks each scheduler once for all of its jobs that have not ended. Whoever
    polls passes ``functools.cache(get_scheduler)``: schedulers keep connections, and limit how often they ask.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(partial(_read, store), runs))
        submissions = [facts.submission for facts in found if facts.submission and not facts.complete]
        find_scheduler = shared(find_scheduler, submissions)
        observations = observe_submissions(submissions, find_scheduler)

        def state(facts: Facts) -> RunState:
            observation = observations.get(job_of(facts.submission)) if facts.submission else None
            if not facts.complete and not facts.damage:
                facts = _with_last_words(store, facts, observation)
            return joined(store, facts, observation, find_scheduler)

        return list(pool.map(state, found))


def resolve_state(facts: Facts, observation: Observation | None) -> tuple[State, str]:
    """A run's state and the reason for it."""
    if facts.complete:
        return State.SUCCEEDED, facts.damage or _remarks(facts.summary)
    if facts.damage:
        return State.UNKNOWN, facts.damage
    if facts.submission is None and not facts.status:
        return State.UNKNOWN, f"never started; {facts.next_step}"
    if observation is None or observation.state is State.UNKNOWN:
        return _unknown(facts, observation or Observation(State.UNKNOWN, "its submission was not recorded"))
    return _terminal(facts, observation) if observation.state.finished else _active(facts, observation)


def _active(facts: Facts, observation: Observation) -> tuple[State, str]:
    if facts.cancelled and facts.status:
        return observation.state, f"{_ASKED_TO_STOP}; it stores a checkpoint after the step that it is computing"
    if facts.cancelled:
        return State.PENDING, f"{_ASKED_TO_STOP} before it began; its job is being removed, which may take a minute"
    if not facts.status:
        logs = f"it has not reported to the store yet (`cefr-batch logs {facts.run}` shows what its job prints)"
        starting = logs if observation.state is State.RUNNING else "" if observation.reason else "starting"
        return State.PENDING, "; ".join(filter(None, (observation.reason, starting)))
    return observation.state, observation.reason


def _remarks(summary: RunSummary | None) -> str:
    """What went otherwise than asked; empty if nothing did."""
    if summary is None:
        return ""
    early = summary.stopped_early
    said = [f"training stopped early after step {summary.steps}: {early}"] if early else []
    return "; ".join([*said, *(f"{kind} was not exported: {why}" for kind, why in summary.not_exported.items())])


def _terminal(facts: Facts, observation: Observation) -> tuple[State, str]:
    said = facts.status.state if facts.status else None
    detail = f" ({observation.detail})" if observation.detail else ""
    if facts.cancelled:
        again = facts.submission is not None and facts.submission.attempts_before
        never = " before its new job began; its last checkpoint is kept" if again else " before it started"
        return State.CANCELLED, f"cancelled{facts.where or never}; {facts.next_step}"
    if facts.status and facts.status.paused:
        return (
            State.PAUSED,
            f"at step {facts.status.step} of {facts.status.steps}, as its search asked; {facts.next_step}",
        )
    if said == "PREEMPTED" and observation.state is not State.CANCELLED:
        return State.PREEMPTED, f"{facts.stopped}{detail}; {facts.next_step}"
    if facts.status and said == "FAILED":
        return State.FAILED, (facts.status.message or "it reported no reason; see its log") + detail
    state = State.FAILED if observation.state is State.SUCCEEDED else observation.state
    what = observation.reason or f"its job ended as {observation.state} but left no result"
    return state, f"{what}{facts.where}; {facts.next_step}"


def _unknown(facts: Facts, observation: Observation) -> tuple[State, str]:
    """No scheduler knows. Then the job's last status counts: for good if it reports its end, else while recent."""
    said, why = facts.status.state if facts.status else None, observation.reason
    ended = said in ("PREEMPTED", "FAILED")
    if ended and not observation.not_found and _may_restart(facts):
        what = facts.stopped if said == "PREEMPTED" else f"failed{facts.where}"
        return State.UNKNOWN, f"{why}; it {what}, and may have been restarted"
    age = age_seconds(facts.status.updated_at) if facts.status else float("inf")
    never = facts.cancelled and not facts.status  # a job that starts now finds the request, and ends
    if ended or never or (observation.not_found and age >= HEARTBEAT_LOST_SECONDS):
        return _terminal(facts, replace(observation, state=State.FAILED))
    if not facts.status:
        return State.UNKNOWN, why
    if age < HEARTBEAT_LOST_SECONDS:
        return State.RUNNING, f"its job runs on {facts.status.host}"
    heartbeat = f"its last heartbeat, from {facts.status.host}, is {age / 60:.0f} minutes old"
    return State.UNKNOWN, f"{why}; {heartbeat}{facts.where}"


def _may_restart(facts: Facts) -> bool:
    """Whether a job that reported its end may have been restarted by its scheduler."""
    if facts.submission is None or facts.status is None or facts.cancelled or facts.status.paused:
        return False
    try:
        scheduler = get_scheduler(facts.submission.scheduler)
    except UsageError:  # a kind of cluster that this version does not know
        return True
    return scheduler.requeues if facts.status.state == "PREEMPTED" else scheduler.retries


def _read(store: Store, run: str) -> Facts:
    """All of a complete run; of another what has to be known to ask for its job."""
    try:
        if manifest := _read_manifest(store, run):
            return _read_complete(store, run, *manifest)
        return Facts(run, submission=read_submission(store, run))
    except StoreError as exc:
        return Facts(run, damage=str(exc))


def _with_last_words(store: Store, facts: Facts, observation: Observation | None) -> Facts:
    """What the job said last. Read after its scheduler was asked: if it had ended by then, no more is to come."""
    run, submission = facts.run, facts.submission
    try:
        status = read_status(store, run)
        if submission and status and not submission.wrote(status):
            status = None
        ended = observation is not None and observation.state.finished
        silent = not (status and status.state in ("PREEMPTED", "FAILED"))
        if ended and silent and (manifest := _read_manifest(store, run)):
            return _read_complete(store, run, *manifest)
        if not submission and not status:
            store.get_record(layout.run_key(run, layout.SPEC), SpecRecord)
        return replace(facts, status=status)
    except StoreError as exc:
        return Facts(run, damage=str(exc))


def _read_manifest(store: Store, run: str) -> tuple[Manifest, str] | None:
    """The manifest, and what is wrong with it; None if the run is not complete. It is complete if the manifest is there, be
    it damaged: that one comes empty."""
    try:
        return store.get_record(layout.run_key(run, layout.MANIFEST), Manifest), ""
    except NotFound:
        return None
    except (Unavailable, AccessDenied):
        raise
    except StoreError as exc:
        return Manifest.model_construct(run=run, complete_at="", objects=[], summary=None), str(exc)


def _read_complete(store: Store, run: str, manifest: Manifest, damage: str) -> Facts:
    """A complete run stays complete, whatever has become of its other records. Nothing more is read of one whose manifest
    has a summary."""
    facts = Facts(run, manifest.complete_at, summary=manifest.summary, damage=damage)
    if manifest.summary:
        return facts
    with suppress(StoreError):
        facts = replace(facts, submission=read_submission(store, run))
    try:
        metrics = store.get_record(layout.run_key(run, layout.METRICS), Metrics)
        return replace(facts, summary=RunSummary.of(metrics, facts.submission))
    except StoreError:
        with suppress(StoreError):
            facts = replace(facts, status=read_status(store, run))
    return facts


def read_status(store: Store, run: str, name: str = layout.STATUS) -> Status | None:
    """What a job of the run wrote last in the object of this name; None if there is none. Raises ``StoreError``."""
    try:
        return store.get_record(layout.run_key(run, name), Status)
    except NotFound:
        return None


def shared(
    find_scheduler: Callable[[str], Scheduler[Any]], submissions: Iterable[Submission]
) -> Callable[[str], Scheduler[Any]]:
    """As ``find_scheduler``, but with one object for each cluster of these submissions, whichever thread asks."""
    find = cache(find_scheduler)
    for cluster in {one.cluster for one in submissions}:
        with suppress(UsageError):
            find(cluster)
    return find


def observe_submissions(
    submissions: Sequence[Submission], find_scheduler: Callable[[str], Scheduler[Any]]
) -> dict[Job, Observation]:
    """Each scheduler is asked once for all of them, whatever its sites. One that fails makes its jobs UNKNOWN."""
    observations: dict[Job, Observation] = {}
    for kind in dict.fromkeys(s.scheduler for s in submissions):
        jobs = [job_of(s) for s in submissions if s.scheduler == kind]
        try:
            observations |= find_scheduler(kind).observe(jobs)
        except CefrBatchError as exc:
            observations |= {job: Observation(State.UNKNOWN, str(exc)) for job in jobs}
    return observations


def joined(
    store: Store,
    facts: Facts,
    observation: Observation | None,
    find_scheduler: Callable[[str], Scheduler[Any]],
) -> RunState:
    """The state with the progress that the store tells and, where a job failed without a word, the end of its output."""
    status, submission = facts.status, facts.submission
    state, reason = resolve_state(facts, observation)
    if submission and state is State.FAILED and not (status and status.state == "FAILED"):  # it gave no reason itself
        output = tail_log(store, submission, find_scheduler)
        reason += f"\nThe last lines of its output:\n{output}" if output else ""
    if submission and state in (State.FAILED, State.PREEMPTED):
        why = _printed(submission, find_scheduler, lambda there, job: there.last_words(job, store.url))
        reason = f"{why}; {reason}" if why else reason
    known = RunState(
        run=facts.run,
        level=layout.run_level(facts.run),
        state=state,
        reason=reason,
        settled=state.finished or not (facts.damage or facts.submission or status),
        observed=observation is not None and observation.answered,
        updated_at=facts.complete_at,
        submitted_at=submission.submitted_at if submission else None,
        handle=submission.handle if submission else None,
    )
    if facts.summary:
        return _with_summary(known, facts.summary)
    return _with_progress(known, status) if status else known


def _with_summary(state: RunState, summary: RunSummary) -> RunState:
    """A complete run shows its final training loss and its best evaluation loss."""
    return replace(
        state,
        stage="publish",
        step=summary.steps,
        steps=summary.steps,
        epoch=summary.epochs,
        loss=summary.final_loss,
        eval_loss=summary.best_eval_loss,
        attempt=summary.attempts,
        submitted_at=summary.submitted_at,
        handle=summary.handle,
    )


def _with_progress(state: RunState, status: Status) -> RunState:
    return replace(
        state,
        stage=status.stage,
        step=status.step,
        steps=status.steps,
        epoch=status.epoch,
        loss=status.loss,
        eval_loss=status.eval_loss,
        eta_seconds=status.eta_seconds if state.state is State.RUNNING else None,
        attempt=status.attempt,
        updated_at=status.updated_at,
    )


def tail_log(
    store: Store, submission: Submission, find_scheduler: Callable[[str], Scheduler[Any]] = get_scheduler
) -> str:
    """The last lines that a job printed, where its scheduler keeps them on this machine; else empty."""
    return _printed(submission, find_scheduler, lambda there, job: there.tail_log(job, store.url))


def _printed(
    submission: Submission,
    find_scheduler: Callable[[str], Scheduler[Any]],
    read: Callable[[Scheduler[Any], Job], str],
) -> str:
    """What ``read`` finds of a job's output with its scheduler; empty if nothing can be had."""
    try:
        return read(find_scheduler(submission.cluster), job_of(submission))
    except CefrBatchError:  # its site file is not on this machine
        return ""
