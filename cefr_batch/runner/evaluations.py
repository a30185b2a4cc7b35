"""The evaluations of complete runs on other sets: what was asked, what is stored, how far the job is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from typing_extensions import override

from cefr_batch.errors import NotFound, StoreError
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluationRequest, EvaluationTask, SetEvaluation
from cefr_batch.records.status import Status
from cefr_batch.records.submission import Submission
from cefr_batch.runner.status import (
    Facts,
    RunState,
    joined,
    observe_submissions,
    read_status,
    shared,
)
from cefr_batch.runner.submission import evaluate_again, job_of, read_submission
from cefr_batch.schedulers import Scheduler, get_scheduler
from cefr_batch.schedulers.base import Job, Observation, State
from cefr_batch.store.base import READERS, Store


def stored_evaluations(store: Store, run: str) -> list[str]:
    """The names of the evaluations that are stored, sorted."""
    keys = (stored.key for stored in store.objects(layout.run_key(run, layout.EVALUATIONS) + "/"))
    return [name for key in keys if (name := layout.evaluation_of(layout.object_name(run, key)))]


def read_evaluations(store: Store, run: str) -> list[SetEvaluation]:
    """The evaluations that are stored, by name. Raises ``StoreError`` for one that cannot be read."""
    names = map(layout.evaluation_name, stored_evaluations(store, run))
    return [store.get_record(layout.run_key(run, name), SetEvaluation) for name in names]


def requested_tasks(store: Store, run: str) -> list[EvaluationTask]:
    """All that was asked of a run, stored or not."""
    try:
        return store.get_record(layout.run_key(run, layout.EVALUATION_REQUEST), EvaluationRequest).tasks
    except NotFound:
        return []


def open_tasks(store: Store, run: str) -> list[EvaluationTask]:
    """What was asked of a run and is not stored."""
    if not (tasks := requested_tasks(store, run)):
        return []
    stored = set(stored_evaluations(store, run))
    return [task for task in tasks if task.name not in stored]


def evaluation_submission(store: Store, run: str) -> Submission | None:
    """The job that evaluates: submitted for that, or else the run's own, which does it when the run is complete."""
    return read_submission(store, run, layout.EVALUATION_SUBMISSION) or read_submission(store, run)


@dataclass(frozen=True)
class EvaluationFacts(Facts):
    """What the store says of a run's evaluations."""

    @property
    @override
    def where(self) -> str:
        return f" at {self.status.stage}" if self.status else ""

    @property
    @override
    def next_step(self) -> str:
        return evaluate_again(self.run)


def evaluation_states(
    store: Store, runs: Iterable[str], find_scheduler: Callable[[str], Scheduler[Any]] = get_scheduler
) -> list[RunState]:
    """How far the evaluations of these runs are, in their order: SUCCEEDED when nothing is open. ``stage`` is the
    evaluation under way, ``step`` of ``steps`` its examples. Blocks as ``run_states`` does."""
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(partial(_read, store), runs))
        submissions = [one.submission for one in found if isinstance(one, EvaluationFacts) and one.submission]
        find = shared(find_scheduler, submissions)
        observations = observe_submissions(submissions, find)

        def state(one: EvaluationFacts | RunState) -> RunState:
            return one if isinstance(one, RunState) else _state(store, one, observations, find)

        return list(pool.map(state, found))


def _read(store: Store, run: str) -> EvaluationFacts | RunState:
    """The state of a run of which nothing is open, or that cannot be read; of another, what has to be known to ask for its
    job."""
    try:
        submission = evaluation_submission(store, run)
        return _settled(store, run) or EvaluationFacts(run, submission=submission)
    except StoreError as exc:
        return _unknown(run, exc)


def _state(
    store: Store,
    facts: EvaluationFacts,
    observations: Mapping[Job, Observation],
    find_scheduler: Callable[[str], Scheduler[Any]],
) -> RunState:
    try:
        if settled := _settled(store, facts.run):  # it ended while its scheduler was asked
            return settled
        observation = observations.get(job_of(facts.submission)) if facts.submission else None
        facts = replace(facts, status=_last_words(store, facts.run))
        return joined(store, facts, observation, find_scheduler)
    except StoreError as exc:
        return _unknown(facts.run, exc)


def _settled(store: Store, run: str) -> RunState | None:
    """The state of a run of which nothing is open; None for another."""
    if open_tasks(store, run):
        return None
    done = f"{len(requested_tasks(store, run))} evaluations"
    return RunState(run, layout.run_level(run), State.SUCCEEDED, settled=True, stage=done)


def _unknown(run: str, exc: StoreError) -> RunState:
    return RunState(run, layout.run_level(run), State.UNKNOWN, str(exc))


def _last_words(store: Store, run: str) -> Status | None:
    """What the job said last; None for what an older job said."""
    status = read_status(store, run, layout.EVALUATION_STATUS)
    submission = read_submission(store, run, layout.EVALUATION_SUBMISSION)
    return None if submission and status and not submission.wrote(status) else status
