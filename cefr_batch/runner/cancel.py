"""Ask runs to stop, and jobs that evaluate complete runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cefr_batch.records import layout
from cefr_batch.records.submission import Submission
from cefr_batch.runner.evaluations import evaluation_states, evaluation_submission
from cefr_batch.runner.status import RunState, run_states
from cefr_batch.runner.submission import cancel, read_submission
from cefr_batch.schedulers import Scheduler, get_scheduler
from cefr_batch.schedulers.base import State
from cefr_batch.store.base import Store


@dataclass(frozen=True)
class Cancellation:
    """Whether a run's job was asked to stop, and the run's state before. ``evaluating``: the run is complete, and it is the
    job that evaluates it."""

    state: RunState
    asked: bool
    evaluating: bool = False

    @property
    def foreign(self) -> bool:
        """It seems to run, but was not started by ``submit``, so only whoever started it can stop it."""
        return not self.asked and not self.state.state.finished and bool(self.state.attempt)


def cancel_runs(store: Store, runs: Sequence[str]) -> list[Cancellation]:
    """Ask those runs that have not ended to store a checkpoint and stop, and those jobs that evaluate complete runs. Does
    not wait for it; idempotent.

    Raises ``SchedulerError`` if a scheduler cannot be asked, ``StoreError`` if the request cannot be recorded.
    """
    find = cache(get_scheduler)  # one that does not answer is asked once
    states = run_states(store, runs, find)
    training = [one for state in states if not state.state.finished and (one := read_submission(store, state.run))]
    complete = evaluation_states(store, [state.run for state in states if state.state is State.SUCCEEDED], find)
    evaluating = [one for state in complete if not state.settled and (one := evaluation_submission(store, state.run))]
    _cancel(store, training, find, layout.SUBMISSION)
    _cancel(store, evaluating, find, layout.EVALUATION_SUBMISSION)
    asked, also = {one.run for one in training}, {one.run for one in evaluating}
    return [Cancellation(state, state.run in asked | also, state.run in also) for state in states]


def _cancel(store: Store, submissions: Sequence[Submission], find: Callable[[str], Scheduler[Any]], name: str) -> None:
    for kind in dict.fromkeys(one.scheduler for one in submissions):
        cancel(store, [one for one in submissions if one.scheduler == kind], find(kind), name)
