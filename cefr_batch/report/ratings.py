"""What people said of the generated sentences."""

from __future__ import annotations

from cefr_batch.rating.criteria import CRITERIA
from cefr_batch.rating.scores import Interval, Ratings
from cefr_batch.report.collect import Report
from cefr_batch.report.document import Code, Inline, Paragraph, Section, Table, inline
from cefr_batch.report.language import N_, NONE, Language

NAMES = {
    "word_usage": N_("Word usage"),
    "level_appropriateness": N_("Level appropriateness"),
    "grammatical_accuracy": N_("Grammatical accuracy"),
    "naturalness": N_("Naturalness"),
}


def ratings_sections(report: Report, t: Language) -> list[Section]:
    """One section, or none where nobody rated."""
    title = t("Human evaluation")
    if report.ratings_problem:
        message = t("The ratings cannot be read: {reason}", reason=report.ratings_problem)
        return [Section(title, (Paragraph(message, "warning"),), "ratings")]
    ratings = report.ratings
    if ratings is None or not ratings.raters:
        return []
    about = t(
        "{raters} raters gave marks from 1 to 5 to {items} sentences without knowing which model wrote them. Means over "
        "sentences, with 95% bootstrap intervals; agreement is Krippendorff's alpha (1: full, 0: as by chance).",
        raters=t.count(ratings.raters),
        items=t.count(ratings.items),
    )
    return [Section(title, (Paragraph(about), _scores(ratings, t), _agreement(ratings, t)), "ratings")]


def _scores(ratings: Ratings, t: Language) -> Table:
    score = {(one.run, one.criterion, one.model): one for one in ratings.scores}
    gain = {(one.run, one.criterion): one for one in ratings.differences}
    rows = []
    for run in sorted({one.run for one in ratings.scores}):
        for criterion in CRITERIA:
            baseline, tuned = (score.get((run, criterion, model)) for model in ("baseline", "tuned"))
            difference = gain.get((run, criterion))
            cells = (_mean(one.mean, one.interval, t) if one else inline(NONE) for one in (baseline, tuned, difference))
            rows.append((inline(Code(run)), t(NAMES[criterion]), *cells))
    header = (t("Run"), t("Criterion"), t("Baseline"), t("Tuned"), t("Tuned − baseline"))
    return Table(t("Mean marks"), header, tuple(rows), frozenset((2, 3, 4)))


def _mean(mean: float, interval: Interval | None, t: Language) -> Inline:
    limits = f" ({t.figure(interval.low)} … {t.figure(interval.high)})" if interval else ""
    return inline(t.figure(mean) + limits)


def _agreement(ratings: Ratings, t: Language) -> Table:
    rows = tuple(
        (t(NAMES[one.criterion]), inline(t.figure(one.alpha)), inline(t.count(one.items))) for one in ratings.agreement
    )
    header = (t("Criterion"), t("Krippendorff's alpha"), t("Sentences with two raters or more"))
    return Table(t("Agreement between raters"), header, rows, frozenset((1, 2)))
