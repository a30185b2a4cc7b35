"""What a report says of a search for settings."""

from __future__ import annotations

from collections.abc import Sequence

from cefr_batch.i18n.language import N_, NONE
from cefr_batch.records.evaluations import EvaluatedModel
from cefr_batch.report.blocks import Table
from cefr_batch.report.markdown import Inline, ReportLanguage, code, joined, strong
from cefr_batch.report.studies import ReportedStudy
from cefr_batch.runner.study import WORST, TrialState

OBJECTIVES = {
    "response_loss": N_("loss over the response"),
    "loss": N_("loss over all tokens"),
    "level_rmse": N_("distance of the estimated levels to the level"),
    "reference_gap": N_("distance of the estimated levels to those of the level's own sentences"),
}
DIGITS = 4


def objective(study: ReportedStudy, t: ReportLanguage) -> Inline:
    """The figure by which trials are compared."""
    return t(OBJECTIVES[study.record.objective])


def steps(study: ReportedStudy, t: ReportLanguage) -> Inline:
    """The steps after which they are."""
    return joined(map(t.count, study.record.steps))


def settings(overrides: Sequence[str]) -> Inline:
    """Settings as ``--set`` takes them."""
    return joined(map(code, overrides))


def trained_share(study: ReportedStudy, t: ReportLanguage) -> Inline:
    """How much of the steps of whole trainings the trials took."""
    return t.percent(100 * study.state.trained_steps / study.state.grid_steps)


def importance(study: ReportedStudy, t: ReportLanguage) -> Inline:
    """How much each setting matters; empty where that was not recorded or cannot be told."""
    found = study.state.importance.items()
    return joined([t("{setting} {share}", setting=code(key), share=t.percent(100 * share)) for key, share in found])


def trials(study: ReportedStudy, t: ReportLanguage) -> Table:
    """The trials: their settings, the objective at each comparison, how they ended."""
    rungs = range(1, len(study.record.steps) + 1)
    rows, sort = [], []
    for one in study.state.trials:
        values = [one.values.get(rung) for rung in rungs]
        shown = (_value(value, t) for value in values)
        rows.append((t.count(one.trial), settings(one.overrides), *shown, _outcome(one, study, t)))
        sort.append((one.trial, " ".join(one.overrides), *values, one.rung))
    header = (t("Trial"), t("Settings"), *(t("Step {n}", n=t.count(n)) for n in study.record.steps), t("Outcome"))
    return Table(t("Trials"), header, rows, (0, *range(2, 2 + len(rungs))), sort=sort)


def _value(value: float | None, t: ReportLanguage) -> Inline:
    return NONE if value is None or value >= WORST else t.figure(value, DIGITS)


def _outcome(one: TrialState, study: ReportedStudy, t: ReportLanguage) -> Inline:
    if one.failed:
        return t("failed: {why}", why=one.failed.partition("\n")[0])
    if study.state.best and one.trial == study.state.best.trial:
        return strong(t("best"))
    if one.complete:
        return t("trained to the end")
    if one.stopped:
        return t("stopped at step {step}", step=t.count(study.record.steps[one.rung - 1]))
    return t("in progress")


def best_value(study: ReportedStudy, t: ReportLanguage) -> Inline:
    """The objective by which the best trial was chosen."""
    return _value(study.state.best.last_value if study.state.best else None, t)


def evaluated(study: ReportedStudy, model: EvaluatedModel, t: ReportLanguage) -> Inline:
    """The objective of the best trial's model, or of its base model, on the evaluation set."""
    found = study.evaluations.get(model)
    return _value(study.value_of(found) if found else None, t)
