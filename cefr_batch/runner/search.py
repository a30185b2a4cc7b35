"""A search for settings goes on: its trials are runs, started and resumed through the schedulers, and compared at rungs.

``advance`` looks at what is stored and does what can be done now. It may be killed at any moment and called again, on any
machine: what it decides is written once, before anything follows from it, and a run's name is claimed before its job starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cefr_batch.config.load import changed_spec, recorded_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.config.sweep import parse_choices
from cefr_batch.errors import AlreadyExists, NotReady, WaitTimeout
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluatedModel
from cefr_batch.records.rung import Pause
from cefr_batch.records.study import ChoiceRecord, StudyRecord, TrialRecord
from cefr_batch.runner.clock import Clock
from cefr_batch.runner.evaluate import EvaluationSet, PreparedEvaluations, launch_evaluations
from cefr_batch.runner.evaluations import evaluation_states
from cefr_batch.runner.resume import resume_runs
from cefr_batch.runner.status import RunState, read_status, run_states
from cefr_batch.runner.study import BY_LEVELS, StudyReader, StudyState, read_study
from cefr_batch.runner.submission import claim_as, where_began
from cefr_batch.schedulers import Scheduler
from cefr_batch.schedulers.base import State
from cefr_batch.search.halving import promoted
from cefr_batch.search.sampling import Tried, importances, propose
from cefr_batch.store.base import Store
from cefr_batch.store.datasets import fetch_dataset

_STARTS = 3  # of a trial's job at one step, until one that ends without a word counts as failed
_ACTIVE = (State.PENDING, State.RUNNING)


def look(store: Store, study: str, find_scheduler: Callable[[str], Scheduler[Any]]) -> StudyState:
    """The study as it is now, with the state of each trial's run. Starts and writes nothing."""
    return StudyReader(store, read_study(store, study), find_scheduler).state()


def advance(
    store: Store, study: str, find_scheduler: Callable[[str], Scheduler[Any]], *, again: bool = False
) -> StudyState:
    """Do what can be done now: choose among trials that have come to a rung, draw new ones, start and resume jobs; in the
    end have the best trial evaluated on the evaluation set. Does not wait. ``again``: also resume trials that somebody
    cancelled, or whose jobs ended before they began.

    Idempotent: nothing is trained twice. Raises ``SchedulerError`` or ``NotReady`` if jobs cannot be started.
    """
    record = read_study(store, study)
    return _Controller(store, record, find_scheduler, StudyReader(store, record, find_scheduler), again).advance()


@dataclass(frozen=True)
class _Controller:
    store: Store
    record: StudyRecord
    find_scheduler: Callable[[str], Scheduler[Any]]
    reader: StudyReader
    again: bool

    def advance(self) -> StudyState:
        for number, round_ in enumerate(self.record.rounds(), 1):
            members = list(round_)
            for trial in members:
                self._trial(trial)
            for rung in range(1, len(self.record.steps) + 1):
                choice = self.reader.choice(number, rung) or self._choose(number, rung, members)
                if choice is None:
                    return self._waiting()
                members = choice.promoted
                if not members:
                    break
        return self._finish()

    def _trial(self, trial: int) -> TrialRecord:
        """A trial's record, drawn from what the trials before it found if there is none."""
        if found := self.reader.drawn(trial):
            return found
        earlier = [one.tried for one in self.reader.trials() if one.trial < trial]
        space = parse_choices(self.record.space)
        overrides = propose(space, self.record.sampler, self.record.seed, earlier)
        settings = changed_spec(self.record.settings, overrides).model_dump(mode="json")
        record = TrialRecord(trial=trial, overrides=list(overrides), settings=settings)
        key = layout.study_key(self.record.study, layout.trial_name(trial))
        try:
            self.store.put_record(key, record, if_absent=True)
        except AlreadyExists:  # by another that goes on with this study: both drew the same
            return self.store.get_record(key, TrialRecord)
        return record

    def _choose(self, number: int, rung: int, members: Sequence[int]) -> ChoiceRecord | None:
        """Choose among the members of a rung once each has a value or has failed; else start what does not run."""
        values = {trial: value for trial in members if (value := self.reader.value(trial, rung)) is not None}
        open_trials = [trial for trial in members if trial not in values]
        failed = self._go_on(open_trials, rung) if open_trials else {}
        if len(values) + len(failed) < len(members):
            return None
        last = rung == len(self.record.steps)
        choice = ChoiceRecord(
            round=number,
            rung=rung,
            values={str(trial): value for trial, value in values.items()},
            failed={str(trial): why for trial, why in failed.items()},
            promoted=[] if last else promoted(values, members, self.record.reduction),
            importance=self._importance(values) if rung == 1 else {},
        )
        key = layout.study_key(self.record.study, layout.choice_name(number, rung))
        try:
            self.store.put_record(key, choice, if_absent=True)
        except AlreadyExists:
            return self.reader.choice(number, rung)
        return choice

    def _importance(self, values: Mapping[int, float]) -> dict[str, float]:
        """How much each setting matters, by the trials of earlier rounds and these, which have come to their first rung."""
        drawn = [one for one in self.reader.trials() if one.trial not in values]
        now_there = [Tried(tuple(self._trial(trial).overrides), {1: value}) for trial, value in sorted(values.items())]
        return importances(parse_choices(self.record.space), [*(one.tried for one in drawn), *now_there])

    def _go_on(self, trials: Sequence[int], rung: int) -> dict[int, str]:
        """Start or resume the jobs of those of these trials that do not run; return why others have failed."""
        runs = {layout.trial_run(self.record.study, trial): trial for trial in trials}
        for run, trial in runs.items():
            self._claim(run, trial)
        failed: dict[int, str] = {}
        idle: list[str] = []
        for state in run_states(self.store, list(runs), self.find_scheduler):
            if why := self._failure(state):
                failed[runs[state.run]] = why
            elif self._is_idle(state) and self.reader.value(runs[state.run], rung) is None:  # it may just have come
                idle.append(state.run)
        if idle:
            self._start(idle, self._pause(rung))
        return failed

    def _start(self, runs: Sequence[str], pause: Pause | None) -> None:
        pauses = dict.fromkeys(runs, pause) if pause else {}
        try:
            resume_runs(self.store, runs, cluster=self.find_scheduler(self.record.cluster), pauses=pauses)
        except NotReady:
            states = run_states(self.store, runs, self.find_scheduler)
            if all(self._is_idle(state) for state in states):
                raise
            # another that goes on with this study has started some meanwhile; the next look starts the rest

    def _pause(self, rung: int) -> Pause | None:
        """Where trials that go on to this rung stop; None: they train to the end."""
        if rung == len(self.record.steps):
            return None
        return Pause(after_step=self.record.steps[rung - 1], levels=self.record.objective in BY_LEVELS)

    def _claim(self, run: str, trial: int) -> None:
        if not self.store.exists(layout.run_key(run, layout.SPEC)):
            claim_as(self.store, run, recorded_spec(self._trial(trial).settings, run), self.record.dataset)

    def _failure(self, state: RunState) -> str:
        """Why a trial's run has failed for good: its job gave a reason, or ended without one too often; else empty."""
        if state.state is not State.FAILED:
            return ""
        said = read_status(self.store, state.run)
        failed = (said and said.state == "FAILED") or self._starts(state) >= _STARTS
        return state.reason if failed else ""

    def _starts(self, state: RunState) -> int:
        """How many of the run's last jobs began where its newest one did. Those before had got further."""
        began = [where_began(self.store, state.run, number + 1) for number in range(state.attempt or 0)]
        return began.count(began[-1]) if began else 0

    def _is_idle(self, state: RunState) -> bool:
        """Whether a trial's job is to be started, or started again."""
        if state.state is State.CANCELLED or _never_began(state):
            return self.again
        new = state.state is State.UNKNOWN and state.settled
        return new or state.state in (State.PREEMPTED, State.PAUSED, State.FAILED)

    def _waiting(self) -> StudyState:
        """Nothing goes on by itself where all that is open was cancelled, or ended before it began."""
        state = self.reader.state()
        runs = [one.run for one in state.trials if one.run and not one.failed]
        if any(run.state in _ACTIVE for run in runs):
            return state
        ended = [run for run in runs if run.state is State.CANCELLED or _never_began(run)]
        reasons = [f"{run.run}: {run.state}: {run.reason}" for run in ended]
        return replace(state, stopped="\n".join([*reasons, f"{self._again} continues them"])) if ended else state

    @property
    def _again(self) -> str:
        return f"`cefr-batch search --resume {self.record.study} --wait`"

    def _finish(self) -> StudyState:
        """Have the best trial evaluated on the evaluation set: once, and no other trial."""
        state = self.reader.state()
        if state.best is None:
            return replace(state, stopped="no trial came to its end; see why in `cefr-batch search show`")
        run = state.best.run_name
        (before,) = evaluation_states(self.store, [run], self.find_scheduler)
        if before.state.finished and before.state is not State.SUCCEEDED and not self.again:
            why = f"the best trial was not evaluated on the evaluation set: {before.reason}"
            return replace(state, stopped=f"{why}; {self._again} tries it again")
        if before.state not in _ACTIVE:
            self._evaluate(run, recorded_spec(self._trial(state.best.trial).settings, run))
        (after,) = evaluation_states(self.store, [run], self.find_scheduler)
        return replace(state, evaluated=after.state is State.SUCCEEDED)

    def _evaluate(self, run: str, spec: RunSpec) -> None:
        """Ask for it, unless it is stored."""
        with TemporaryDirectory() as folder:
            data = fetch_dataset(self.store, self.record.evaluation_dataset, Path(folder))
        chosen = EvaluationSet(self.record.level, data, spec.evaluation.max_examples)
        models: tuple[EvaluatedModel, ...] = ("base", "tuned")
        tasks = {run: [chosen.task(model, spec) for model in models]}
        launch_evaluations(self.store, PreparedEvaluations(tasks, (chosen,), self.find_scheduler(self.record.cluster)))


def _never_began(state: RunState) -> bool:
    """Whether its job ended before it could say anything: the next one would end in the same way, unless it was killed."""
    return state.state is State.FAILED and state.attempt is None


def watch_study(
    step: Callable[[bool], StudyState], *, poll_seconds: float, unknown_seconds: float, clock: Clock
) -> Iterator[StudyState]:
    """The states that ``step`` gives, every ``poll_seconds``, until the study ends. ``step`` is told whether it is the
    first one.

    Raises ``WaitTimeout`` after ``unknown_seconds`` in which no trial's job was known to run or wait.
    """
    since: float | None = None
    first = True
    while True:
        state = step(first)
        first = False
        yield state
        if state.ended:
            return
        unknown = [
            one.run for one in state.trials if one.run and one.run.state is State.UNKNOWN and not one.run.settled
        ]
        active = any(one.run and one.run.state in _ACTIVE for one in state.trials)
        now_ = clock.monotonic()
        since = (now_ if since is None else since) if unknown and not active else None
        if since is not None and now_ - since >= unknown_seconds:
            lines = [f"  {one.run}: {one.reason}" for one in unknown]
            heading = f"stopped waiting: nothing is known of these trials for {unknown_seconds / 60:.0f} minutes:"
            raise WaitTimeout("\n".join([heading, *lines, "`cefr-batch resume --force RUN` starts one again"]))
        clock.sleep(poll_seconds)
