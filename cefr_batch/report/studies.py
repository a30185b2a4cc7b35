"""The searches for settings that a report shows, as their documents tell them: no scheduler is asked for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cefr_batch.errors import StoreError, Unavailable
from cefr_batch.records import layout
from cefr_batch.records.evaluations import EvaluatedModel, SetEvaluation
from cefr_batch.records.study import StudyRecord
from cefr_batch.runner.evaluations import read_evaluations
from cefr_batch.runner.study import StudyReader, StudyState, all_studies, objective_value, stored_study
from cefr_batch.store.base import READERS, Store


@dataclass(frozen=True)
class ReportedStudy:
    """A study. ``evaluations``: of the best trial on the evaluation set, by model; empty before they are stored."""

    state: StudyState
    evaluations: Mapping[EvaluatedModel, SetEvaluation]

    @property
    def record(self) -> StudyRecord:
        """What was asked."""
        return self.state.record

    def value_of(self, one: SetEvaluation) -> float:
        """The study's objective in an evaluation."""
        return objective_value(self.record.objective, one.losses, one.levels)

    @property
    def folders(self) -> tuple[str, ...]:
        """Where in the store all of it was read, each with the slash."""
        best = self.state.best
        evaluated = (layout.run_key(best.run_name, layout.EVALUATIONS, ""),) if best else ()
        return (layout.study_key(self.record.study, ""), *evaluated)


def studies_of(store: Store, levels: Collection[str]) -> tuple[tuple[ReportedStudy, ...], tuple[str, ...]]:
    """The studies of these levels, newest first, and why others cannot be read. Raises ``Unavailable``."""
    names = all_studies(store)
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda name: _read(store, name, levels), names))
    studies = [one for one in found if isinstance(one, ReportedStudy)]
    studies.sort(key=lambda one: (one.record.created_at, one.record.study), reverse=True)
    return tuple(studies), tuple(one for one in found if isinstance(one, str))


def _read(store: Store, name: str, levels: Collection[str]) -> ReportedStudy | str | None:
    """A study, or why it cannot be read; None for one of another level."""
    try:
        record = stored_study(store, name)
        if record.level not in levels:
            return None
        state = StudyReader(store, record).recorded()
        return ReportedStudy(state, _evaluations(store, state))
    except Unavailable:
        raise
    except StoreError as exc:
        return str(exc)


def _evaluations(store: Store, state: StudyState) -> dict[EvaluatedModel, SetEvaluation]:
    """Those with the most examples, if there are several."""
    stored = read_evaluations(store, state.best.run_name) if state.best else []
    found = sorted(stored, key=lambda one: one.task.examples)
    return {one.task.model: one for one in found if one.task.dataset == state.record.evaluation_dataset}
