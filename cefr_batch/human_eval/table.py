"""Ratings as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cefr_batch.evaluation.bootstrap import Interval
from cefr_batch.human_eval.criteria import CRITERIA
from cefr_batch.human_eval.form import MODELS
from cefr_batch.human_eval.level_scores import FEWEST, EstimatorAgreement, Figure, LevelScores
from cefr_batch.human_eval.scores import Ratings

_NAMES = tuple(name.replace("_", " ").capitalize() for name in CRITERIA)


def ratings_json(ratings: Ratings) -> dict[str, Any]:
    """For ``store.to_json``."""
    return asdict(ratings)


def ratings_markdown(ratings: Ratings) -> str:
    """Means with their intervals, differences, agreement, and what they mean."""
    heading = f"{_count(ratings.raters, 'rater')}, {_count(ratings.items, 'sentence')}"
    if not ratings.items:
        return f"{heading}. Nothing to show.\n"
    notes = (
        "Marks from 1 to 5. In brackets: 95 % bootstrap intervals over sentences (of a difference: over pairs), if there "
        "are at least two. Difference: tuned minus baseline, over the words (pairs) for which both models' sentences have "
        "a mark. Two numbers, as in 4–5: the fewest and the most of any criterion. Alpha: Krippendorff's, ordinal; below "
        "0.667 the raters agree too little for firm conclusions. Alpha cannot be computed (—) for a criterion if no "
        "sentence has marks from two raters, or if all the marks of such sentences are the same."
    )
    lines = [f"{heading} with a mark or a level.", "", *_means(ratings), "", *_agreement(ratings), "", notes]
    return "\n".join([*lines, *(_levels(ratings.levels) if ratings.levels else ())]) + "\n"


def _levels(levels: LevelScores) -> Iterator[str]:
    yield f"\nLevels (1 is A1, 6 is C2): {_count(levels.raters, 'rater')}, {_count(levels.sentences, 'sentence')}."
    yield f"Intervals are given from {FEWEST} sentences on."
    if levels.qualifications:
        yield "Of the raters: " + ", ".join(f"{name} {n}" for name, n in levels.qualifications.items()) + "."
    yield ""
    yield from _heading("Run", "Target", "Model", "Sentences", "Rated level", "Rated − target", "RMSE")
    for one in levels.distances:
        figures = (_figure(one.mean_difference, sign="+"), _figure(one.rmse))
        yield _row(one.run, one.level, one.model, str(one.sentences), f"{one.mean:.2f}", *figures)
    yield ""
    yield from _heading("Quadratic weighted kappa", "", "Judgements")
    for of_model in levels.kappas:
        yield _row(f"raters with the target, {of_model.model}", _figure(of_model.kappa), str(of_model.judgements))
    agreement = levels.agreement
    yield _row(
        "raters with each other, mean over pairs", _number(agreement.kappa), f"{_count(agreement.pairs, 'pair')}"
    )
    yield _row(
        "Krippendorff's alpha, levels as numbers",
        _number(agreement.alpha),
        f"{_count(agreement.sentences, 'sentence')}",
    )
    yield ""
    yield from _estimator(levels.estimator)
    for reason in levels.undefined():
        yield f"\n{reason}"


def _estimator(found: EstimatorAgreement | None) -> Iterator[str]:
    if found is None:
        yield "The level estimator is not installed here: pip install 'cefr-batch[train]' to compare it with the raters."
        return
    yield from _heading("Level estimator with the raters", "")
    yield _row("mean difference, estimate − raters", _figure(found.mean_difference, sign="+"))
    yield _row("RMSE", _figure(found.rmse))
    yield _row("Spearman", _figure(found.spearman))
    yield _row("quadratic weighted kappa of rounded estimates", _figure(found.kappa))
    yield _row("sentences (a line without a word has no estimate)", str(found.sentences))


def _figure(found: Figure | None, sign: str = "") -> str:
    return _mean(found.value, found.interval, sign) if found else "—"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _means(ratings: Ratings) -> Iterator[str]:
    yield from _heading("Run", "Model", *_NAMES, "Sentences", "Marks")
    scores = {(score.run, score.model, score.criterion): score for score in ratings.scores}
    differences = {(one.run, one.criterion): one for one in ratings.differences}
    for run in sorted({score.run for score in ratings.scores}):
        for model in MODELS:
            found = [scores.get((run, model, criterion)) for criterion in CRITERIA]
            there = [score for score in found if score]
            if there:
                cells = [_mean(score.mean, score.interval) if score else "—" for score in found]
                yield _row(run, model, *cells, _range(s.items for s in there), _range(s.marks for s in there))
        changes = [differences.get((run, criterion)) for criterion in CRITERIA]
        if any(changes):
            cells = [_mean(one.mean, one.interval, sign="+") if one else "—" for one in changes]
            yield _row(run, "difference", *cells, f"pairs: {_range(one.pairs if one else 0 for one in changes)}", "")


def _agreement(ratings: Ratings) -> Iterator[str]:
    yield from _heading("Agreement", *_NAMES)
    alphas = {one.criterion: one for one in ratings.agreement}
    shown = ["—" if (alpha := alphas[name].alpha) is None else f"{alpha:.3f}" for name in CRITERIA]
    yield _row("alpha", *shown)
    yield _row("sentences with several raters", *(str(alphas[name].items) for name in CRITERIA))


def _mean(mean: float, interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return f"{mean:{sign}.2f}"
    return f"{mean:{sign}.2f} [{interval.low:{sign}.2f}, {interval.high:{sign}.2f}]"


def _range(numbers: Iterator[int]) -> str:
    """One number, or from the least to the greatest where criteria have different ones."""
    found = sorted(numbers)
    return str(found[0]) if found[0] == found[-1] else f"{found[0]}–{found[-1]}"


def _heading(*cells: str) -> Sequence[str]:
    return _row(*cells), _row(*("---" for _ in cells))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
