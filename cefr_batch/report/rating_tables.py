"""What people said of the generated sentences."""

from __future__ import annotations

from cefr_batch.evaluation.bootstrap import Interval
from cefr_batch.human_eval.criteria import CRITERIA
from cefr_batch.human_eval.level_scores import EstimatorAgreement, Figure, LevelScores
from cefr_batch.human_eval.scores import Ratings
from cefr_batch.i18n.language import N_, NONE
from cefr_batch.report.blocks import Table
from cefr_batch.report.markdown import Inline, ReportLanguage, code

NAMES = {
    "word_usage": N_("Word usage"),
    "level_appropriateness": N_("Level appropriateness"),
    "grammatical_accuracy": N_("Grammatical accuracy"),
    "naturalness": N_("Naturalness"),
}


def marks(ratings: Ratings, t: ReportLanguage) -> Table:
    """Mean marks of each run's two models, and their difference, by criterion."""
    score = {(one.run, one.criterion, one.model): one for one in ratings.scores}
    gain = {(one.run, one.criterion): one for one in ratings.differences}
    rows = []
    for run in sorted({one.run for one in ratings.scores}):
        for criterion in CRITERIA:
            baseline, tuned = (score.get((run, criterion, model)) for model in ("baseline", "tuned"))
            gained = gain.get((run, criterion))
            cells = (_mean(one.mean, one.interval, t) if one else NONE for one in (baseline, tuned, gained))
            sentences = [t.count(one.items if one else 0) for one in (baseline, tuned)]
            marks = [t.count(one.marks if one else 0) for one in (baseline, tuned)]
            pairs = t.count(gained.pairs if gained else 0)
            rows.append((code(run), t(NAMES[criterion]), *cells, " / ".join(sentences), " / ".join(marks), pairs))
    means = (t("Baseline"), t("Tuned"), t("Tuned − baseline"))
    counts = (t("Sentences, baseline / tuned"), t("Marks, baseline / tuned"), t("Words marked for both models"))
    return Table(t("Mean marks"), (t("Run"), t("Criterion"), *means, *counts), rows, range(2, 8))


def _mean(mean: float, interval: Interval | None, t: ReportLanguage) -> Inline:
    limits = f" ({t.figure(interval.low)} … {t.figure(interval.high)})" if interval else ""
    return t.figure(mean) + limits


def agreement(ratings: Ratings, t: ReportLanguage) -> Table:
    """How far the raters agree, by criterion."""
    rows = [(t(NAMES[one.criterion]), t.figure(one.alpha), t.count(one.items)) for one in ratings.agreement]
    header = (t("Criterion"), t("Krippendorff's alpha"), t("Sentences with two raters or more"))
    return Table(t("Agreement between raters"), header, rows, (1, 2))


MODEL_NAMES = {"baseline": N_("Baseline"), "tuned": N_("Tuned")}
QUALIFICATION_NAMES = {
    "examiner": N_("trained in rating by CEFR levels: {n}"),
    "teacher": N_("teachers of English: {n}"),
    "student": N_("students of English: {n}"),
    "speaker": N_("good speakers of English: {n}"),
}


def raters_of_levels(levels: LevelScores, t: ReportLanguage) -> str:
    """How many raters have which qualification, as far as they said so; nothing where nobody did."""
    return "; ".join(t(QUALIFICATION_NAMES[name], n=t.count(n)) for name, n in levels.qualifications.items())


def distances(levels: LevelScores, t: ReportLanguage) -> Table:
    """How far the rated levels of each run's two models are from the target."""
    rows = [
        (
            code(one.run),
            one.level,
            t(MODEL_NAMES[one.model]),
            t.count(one.sentences),
            t.figure(one.mean),
            _figure(one.mean_difference, t),
            _figure(one.rmse, t),
        )
        for one in levels.distances
    ]
    names = (t("Run"), t("Target"), t("Model"), t("Sentences"), t("Mean rated level"), t("Rated − target"), t("RMSE"))
    return Table(t("Rated levels and their target"), names, rows, range(3, 7))


def level_agreement(levels: LevelScores, t: ReportLanguage) -> Table:
    """How far the raters agree on levels: with the target, and with each other."""
    rows = [
        (
            t("Raters and target, {model}: weighted kappa", model=t(MODEL_NAMES[one.model])),
            _figure(one.kappa, t),
            t("judgements: {n}", n=t.count(one.judgements)),
        )
        for one in levels.kappas
    ]
    among = levels.agreement
    rows += [
        (
            t("Raters with each other: weighted kappa, mean over pairs of raters"),
            t.figure(among.kappa),
            t("pairs of raters: {n}", n=t.count(among.pairs)),
        ),
        (
            t("Raters with each other: Krippendorff's alpha, levels as numbers"),
            t.figure(among.alpha),
            t("sentences: {n}", n=t.count(among.sentences)),
        ),
    ]
    return Table(t("Agreement on levels"), (t("Agreement"), t("Value"), t("Based on")), rows, (1,))


def estimator(found: EstimatorAgreement, t: ReportLanguage) -> Table:
    """How far the level estimator agrees with the raters on this very text."""
    rows = (
        (t("Mean difference, estimate − raters"), _figure(found.mean_difference, t)),
        (t("RMSE"), _figure(found.rmse, t)),
        (t("Spearman's rank correlation"), _figure(found.spearman, t)),
        (t("Weighted kappa of rounded estimates"), _figure(found.kappa, t)),
    )
    return Table(t("The level estimator and the raters"), (t("Agreement"), t("Value")), rows, (1,))


def _figure(found: Figure | None, t: ReportLanguage) -> Inline:
    return _mean(found.value, found.interval, t) if found else NONE
