"""A study as its records tell it: its trials, the choices among them, and what their runs came to. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from cefr_batch.errors import Damaged, NotFound
from cefr_batch.records import layout
from cefr_batch.records.level_figures import LevelFiguresByMode
from cefr_batch.records.losses import Losses
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.rung import RungRecord
from cefr_batch.records.study import ChoiceRecord, Objective, StudyRecord, TrialRecord
from cefr_batch.runner.status import RunState, run_states
from cefr_batch.schedulers import Scheduler, get_scheduler
from cefr_batch.search.sampling import Tried
from cefr_batch.store.base import Store

BY_LEVELS: tuple[Objective, ...] = ("level_rmse", "reference_gap")  # of what the model writes
WORST = 1e9  # of levels, which differ by 5 at most: a stored number must be finite


@dataclass(frozen=True)
class TrialState:
    """A trial as it is now. ``values``: of the objective, by rung from 1; ``run``: what its run's state is, None before it
    is looked at; ``failed``: why it has come to its end without a value; ``complete``: trained to the end; ``stopped``:
    others went on instead."""

    trial: int
    run_name: str
    overrides: tuple[str, ...]
    values: Mapping[int, float] = field(default_factory=dict)
    failed: str = ""
    run: RunState | None = None
    complete: bool = False
    stopped: bool = False

    @property
    def rung(self) -> int:
        """The last rung that it came to; 0: none."""
        return max(self.values, default=0)

    @property
    def tried(self) -> Tried:
        """What the sampler may know of it."""
        return Tried(self.overrides, self.values, self.complete)

    @property
    def last_value(self) -> float | None:
        """The objective there."""
        return self.values[self.rung] if self.values else None


@dataclass(frozen=True)
class StudyState:
    """A study as it is now. ``decided``: whether all rounds are; ``best``: the trial that won then; ``importance``: as the
    newest first comparison has it; ``evaluated``: whether the best is evaluated on the evaluation set, too, which ends the
    study; ``stopped``: why nothing goes on by itself."""

    record: StudyRecord
    trials: tuple[TrialState, ...]
    decided: bool = False
    best: TrialState | None = None
    importance: Mapping[str, float] = field(default_factory=dict)
    evaluated: bool = False
    stopped: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will change unless the user does something."""
        return self.evaluated or bool(self.stopped)

    @property
    def trained_steps(self) -> int:
        """Steps of training that all trials took together, as far as they came to rungs."""
        return sum(self.record.steps[one.rung - 1] for one in self.trials if one.rung)

    @property
    def grid_steps(self) -> int:
        """Steps of training of as many trials without a search: each to its end."""
        return self.record.trials * self.record.steps[-1]


def all_studies(store: Store) -> list[str]:
    """The names of the store's studies, sorted."""
    return [name for name in store.folders(f"{layout.STUDIES}/") if layout.is_run_name(name)]


def read_study(store: Store, study: str) -> StudyRecord:
    """Raises ``NotFound``, which names those that there are."""
    try:
        return stored_study(store, study)
    except (NotFound, ValueError) as exc:
        known = ", ".join(all_studies(store)) or "none"
        raise NotFound(f"no study {study!r} in {store.url}; there: {known}") from exc


def stored_study(store: Store, study: str) -> StudyRecord:
    """As ``read_study``, but raises what the store says, and ``Damaged`` for another study's record."""
    key = layout.study_key(study, layout.STUDY)
    record = store.get_record(key, StudyRecord)
    if record.study != study:
        raise Damaged(f"{store.locate(key)} is the record of {record.study!r}; restore it from a copy")
    return record


@dataclass
class StudyReader:
    """One look at a study. What is written once is read once. Raises ``Damaged`` for what is not as it was written."""

    store: Store
    record: StudyRecord
    find_scheduler: Callable[[str], Scheduler[Any]] = get_scheduler
    _drawn: dict[int, TrialRecord] = field(default_factory=dict)
    _chosen: dict[tuple[int, int], ChoiceRecord] = field(default_factory=dict)

    def state(self) -> StudyState:
        """The study with the state of each trial's run."""
        found = self.recorded()
        runs = [one.run_name for one in found.trials]
        states = run_states(self.store, runs, self.find_scheduler) if runs else []
        looked_at = (replace(one, run=run) for one, run in zip(found.trials, states, strict=True))
        return replace(found, trials=tuple(looked_at))

    def recorded(self) -> StudyState:
        """The study as its own documents tell it: no scheduler is asked, and no trial's run is looked at."""
        trials = tuple(self.trials())
        decided = all(self._is_decided(number) for number, _ in enumerate(self.record.rounds(), 1))
        complete = [one for one in trials if one.complete] if decided else []
        best = min(complete, key=lambda one: (one.last_value, one.trial), default=None)
        return StudyState(self.record, trials, decided, best, self._importance())

    def drawn(self, trial: int) -> TrialRecord | None:
        """A trial's record, if it was drawn."""
        if trial not in self._drawn:
            with suppress(NotFound):
                key = layout.study_key(self.record.study, layout.trial_name(trial))
                self._drawn[trial] = self.store.get_record(key, TrialRecord)
        return self._drawn.get(trial)

    def choice(self, number: int, rung: int) -> ChoiceRecord | None:
        """What was chosen in a round at a rung, if it was; both count from 1."""
        if (number, rung) not in self._chosen:
            with suppress(NotFound):
                key = layout.study_key(self.record.study, layout.choice_name(number, rung))
                self._chosen[number, rung] = self.store.get_record(key, ChoiceRecord)
        return self._chosen.get((number, rung))

    def trials(self) -> list[TrialState]:
        """The trials that were drawn, with what the choices say of them; those of open rungs have no more yet."""
        found: dict[int, TrialState] = {}
        for number, trials in enumerate(self.record.rounds(), 1):
            for trial in trials:
                if not (record := self.drawn(trial)):
                    break
                name = layout.trial_run(self.record.study, trial)
                found[trial] = TrialState(trial, name, tuple(record.overrides))
            for rung, choice in enumerate(self._choices(number), 1):
                self._check_trials(choice, found)
                for key, value in choice.values.items():
                    found[int(key)] = self._chosen_at(rung, found[int(key)], value, choice)
                for key, why in choice.failed.items():
                    found[int(key)] = replace(found[int(key)], failed=why)
            if trials[-1] not in found:
                break
        return list(found.values())

    def _chosen_at(self, rung: int, one: TrialState, value: float, choice: ChoiceRecord) -> TrialState:
        complete = rung == len(self.record.steps)
        stopped = not complete and one.trial not in choice.promoted
        return replace(one, values={**one.values, rung: value}, complete=complete, stopped=stopped)

    def _check_trials(self, choice: ChoiceRecord, found: Mapping[int, TrialState]) -> None:
        unknown = {*choice.values, *choice.failed} - set(map(str, found))
        if unknown:
            where = self.store.locate(layout.study_key(self.record.study))
            first = min(unknown, key=lambda name: (len(name), name))
            raise Damaged(f"{where}: trial {first} was compared but is not stored; restore the study from a copy")

    def value(self, trial: int, rung: int) -> float | None:
        """The objective of a trial at a rung; None before its job came there. One that ended early keeps its last value."""
        run, step = layout.trial_run(self.record.study, trial), self.record.steps[rung - 1]
        with suppress(NotFound):
            found = self.store.get_record(layout.run_key(run, layout.rung_name(step)), RungRecord)
            return objective_value(self.record.objective, found.losses, found.levels)
        if self.store.exists(layout.run_key(run, layout.MANIFEST)):
            metrics = self.store.get_record(layout.run_key(run, layout.METRICS), Metrics)
            return objective_value(
                self.record.objective, metrics.tuned, metrics.levels.tuned if metrics.levels else None
            )
        return None

    def _choices(self, number: int) -> Iterator[ChoiceRecord]:
        """Those of a round, up to the first rung that is open."""
        for rung in range(1, len(self.record.steps) + 1):
            if not (choice := self.choice(number, rung)):
                return
            yield choice

    def _importance(self) -> Mapping[str, float]:
        found: Mapping[str, float] = {}
        for number, _ in enumerate(self.record.rounds(), 1):
            if not (choice := self.choice(number, 1)):
                break
            found = choice.importance
        return found

    def _is_decided(self, number: int) -> bool:
        """Whether a round has come to its end: a choice by which no trial goes on."""
        return any(not choice.promoted for choice in self._choices(number))


def objective_value(name: Objective, losses: Losses, levels: LevelFiguresByMode | None) -> float:
    """The figure by which trials are compared: lower is better. The worst where nothing was written that can be measured."""
    if name == "response_loss":
        return losses.response.loss
    if name == "loss":
        return losses.full.loss
    written = levels.greedy if levels else None
    if name == "level_rmse":
        return written.written.rmse.value if written and written.written else WORST
    return written.gap.wasserstein.value if written and written.gap else WORST
