"""Raters' judgements of sentences' levels → how far they are from the target, from each other, and from the estimator.

A level counts as 1 (A1) to 6 (C2). A sentence's level is the mean over its raters; differences and RMSE are over sentences.
Weighted kappa is over single judgements, which are whole levels: a rater's with the target, with another rater's, with the
rounded estimate. Intervals are 95 % bootstrap intervals over sentences, from ten sentences on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from cefr_batch.evaluation.agreement import judgement_sums, kappa_of, spearman, weighted_kappa
from cefr_batch.evaluation.bootstrap import DRAWS, Interval, percentile_interval, resample
from cefr_batch.human_eval.form import MODELS
from cefr_batch.i18n.language import N_
from cefr_batch.records.level_figures import SCALE
from cefr_batch.records.ratings import Form, FormItem, Rated, Source

FEWEST = 10  # sentences, for an interval
_SLOW_DRAWS = 1000  # of a statistic that is computed for each resample by itself

_Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A figure, and its interval where there are enough sentences."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class DistanceToTarget:
    """How far a model's sentences are from their target level, in levels. ``mean``: the level that raters gave."""

    run: str
    level: str
    model: str  # baseline or tuned
    sentences: int
    mean: float
    mean_difference: Figure
    rmse: Figure


@dataclass(frozen=True)
class KappaWithTarget:
    """Of all runs' sentences by a model. ``kappa`` is None where the target is one level only: chance is then as good."""

    model: str
    judgements: int
    kappa: Figure | None


@dataclass(frozen=True)
class RaterAgreement:
    """Of the raters with each other, over the ``sentences`` that two or more judged.

    ``alpha``: Krippendorff's, interval. ``kappa``: the mean over the pairs of raters for whom it is defined, ``pairs``.
    None where nothing is defined.
    """

    sentences: int
    alpha: float | None
    kappa: float | None
    pairs: int


@dataclass(frozen=True)
class EstimatorAgreement:
    """Of the level estimator with the raters: ``mean_difference`` is estimate minus raters, ``rmse`` likewise, in levels."""

    sentences: int
    judgements: int
    mean_difference: Figure
    rmse: Figure
    spearman: Figure | None
    kappa: Figure | None


@dataclass(frozen=True)
class LevelScores:
    """All that raters' levels say. ``qualifications``: how many raters have which. ``estimator`` is None where it is not
    installed."""

    raters: int
    sentences: int
    judgements: int
    qualifications: dict[str, int]
    distances: tuple[DistanceToTarget, ...]
    kappas: tuple[KappaWithTarget, ...]
    agreement: RaterAgreement
    estimator: EstimatorAgreement | None

    def undefined(self) -> Iterator[str]:
        """Messages to translate: why a measure of agreement has no value."""
        if any(one.judgements and one.kappa is None for one in self.kappas):
            yield N_(
                "The kappa of raters and target cannot be computed if all the rated sentences were written for the same "
                "level."
            )
        if self.agreement.alpha is None:
            yield N_(
                "The raters' agreement on levels cannot be computed if no sentence was rated by at least two of them, or if "
                "all the ratings of such sentences are the same."
            )
        elif self.agreement.kappa is None:
            yield N_(
                "The kappa of two raters cannot be computed if both gave the same single level to every sentence that both "
                "rated."
            )
        if self.estimator and self.estimator.spearman is None:
            yield N_(
                "Spearman's rank correlation cannot be computed: the raters' mean level, or the estimate, is the same for "
                "all sentences."
            )
        if self.estimator and self.estimator.kappa is None:
            yield N_(
                "The weighted kappa of rounded estimates cannot be computed: all ratings and all rounded estimates are the "
                "same level."
            )


@dataclass(frozen=True)
class _Judged:
    """A sentence with the levels (1 … 6) that its raters gave."""

    item: FormItem
    sources: tuple[Source, ...]
    of_rater: dict[str, int] = field(default_factory=dict)

    @property
    def target(self) -> int:
        return _number(self.item.level)

    @property
    def mean(self) -> float:
        return fmean(self.of_rater.values())

    def sums(self, other: float) -> _Vector:
        """Of each rater's level with another judgement of the sentence."""
        return judgement_sums(list(self.of_rater.values()), [other] * len(self.of_rater))


def level_scores(forms: Iterable[tuple[Form, Sequence[Rated]]], runs: Sequence[str] = ()) -> LevelScores | None:
    """Of the levels that raters gave to these runs' sentences (none named: to all); None where nobody gave any."""
    given = list(forms)
    judged = [one for form, rated in given for one in _judged(form, rated, frozenset(runs))]
    if not judged:
        return None
    raters = sorted({rater for one in judged for rater in one.of_rater})
    return LevelScores(
        raters=len(raters),
        sentences=len(judged),
        judgements=sum(len(one.of_rater) for one in judged),
        qualifications=_qualifications(raters, (one for _, rated in given for one in rated)),
        distances=tuple(_distances(judged)),
        kappas=tuple(_kappas(judged)),
        agreement=_agreement(judged, raters),
        estimator=_estimator(judged),
    )


def _judged(form: Form, rated: Sequence[Rated], runs: frozenset[str]) -> Iterator[_Judged]:
    for item in form.items:
        sources = tuple(source for source in item.sources if not runs or source.run in runs)
        of_rater = {one.rater: _number(one.levels[item.id]) for one in rated if item.id in one.levels}
        if sources and of_rater:
            yield _Judged(item, sources, of_rater)


def _number(level: str) -> int:
    return SCALE.index(level) + 1


def _qualifications(raters: Sequence[str], rated: Iterable[Rated]) -> dict[str, int]:
    known = {one.rater: one.qualification for one in rated if one.qualification and one.rater in raters}
    return {name: list(known.values()).count(name) for name in sorted(set(known.values()))}


def _distances(judged: Sequence[_Judged]) -> Iterator[DistanceToTarget]:
    of_model: dict[tuple[str, str], list[_Judged]] = defaultdict(list)
    for one in judged:
        for run, model in dict.fromkeys((source.run, source.model) for source in one.sources):
            of_model[run, model].append(one)
    for (run, model), sentences in sorted(of_model.items(), key=lambda entry: (entry[0][0], MODELS.index(entry[0][1]))):
        off = np.array([one.mean - one.target for one in sentences])
        mean, level = fmean(one.mean for one in sentences), sentences[0].item.level
        yield DistanceToTarget(run, level, model, len(sentences), mean, _mean(off), _rmse(off))


def _kappas(judged: Sequence[_Judged]) -> Iterator[KappaWithTarget]:
    for model in MODELS:
        sentences = [one for one in judged if any(source.model == model for source in one.sources)]
        several = len({one.target for one in sentences}) > 1
        sums = np.array([one.sums(one.target) for one in sentences]).reshape(-1, 6)
        yield KappaWithTarget(model, sum(len(one.of_rater) for one in sentences), _kappa(sums) if several else None)


def _agreement(judged: Sequence[_Judged], raters: Sequence[str]) -> RaterAgreement:
    together = [one.of_rater for one in judged if len(one.of_rater) > 1]
    kappas = []
    for first, second in combinations(raters, 2):
        both = [levels for levels in together if first in levels and second in levels]
        kappa = (
            weighted_kappa([levels[first] for levels in both], [levels[second] for levels in both]) if both else None
        )
        kappas += [kappa] if kappa is not None else []
    return RaterAgreement(len(together), _alpha(together), fmean(kappas) if kappas else None, len(kappas))


def _alpha(together: Sequence[dict[str, int]]) -> float | None:
    values = [list(levels.values()) for levels in together]
    if len({value for one in values for value in one}) < 2:
        return None
    import krippendorff

    numbers = range(1, len(SCALE) + 1)
    counts = [[one.count(number) for number in numbers] for one in values]
    return float(krippendorff.alpha(value_counts=counts, value_domain=list(numbers), level_of_measurement="interval"))


def _estimator(judged: Sequence[_Judged]) -> EstimatorAgreement | None:
    try:
        from cefr_batch.evaluation.level_estimator import level_estimator
    except ImportError:  # of a library that only jobs need
        return None
    all_estimates = level_estimator().estimate([one.item.sentence for one in judged])
    measured = [(one, value) for one, value in zip(judged, all_estimates, strict=True) if not np.isnan(value)]
    if not measured:
        return None
    estimates = np.array([value for _, value in measured])
    raters = np.array([one.mean for one, _ in measured])
    sums = np.array([one.sums(np.floor(value + 0.5)) for one, value in measured])
    return EstimatorAgreement(
        sentences=len(measured),
        judgements=sum(len(one.of_rater) for one, _ in measured),
        mean_difference=_mean(estimates - raters),
        rmse=_rmse(estimates - raters),
        spearman=_spearman(estimates, raters),
        kappa=_kappa(sums),
    )


def _mean(off: _Vector) -> Figure:
    return Figure(float(off.mean()), _interval(len(off), lambda chosen: off[chosen].mean(axis=1)))


def _rmse(off: _Vector) -> Figure:
    squared = off**2
    interval = _interval(len(off), lambda chosen: np.sqrt(squared[chosen].mean(axis=1)))
    return Figure(float(np.sqrt(squared.mean())), interval)


def _kappa(sums: _Vector) -> Figure | None:
    """``sums``: a row for each sentence, of its judgements."""
    value = float(kappa_of(sums.sum(axis=0)))
    interval = _interval(len(sums), lambda chosen: kappa_of(sums[chosen].sum(axis=1)))
    return None if np.isnan(value) else Figure(value, interval)


def _spearman(estimates: _Vector, raters: _Vector) -> Figure | None:
    value = spearman(estimates, raters)

    def of(chosen: NDArray[np.int64]) -> _Vector:
        return np.array([spearman(estimates[one], raters[one]) for one in chosen])

    return None if np.isnan(value) else Figure(value, _interval(len(raters), of, draws=_SLOW_DRAWS))


def _interval(n: int, statistic: Callable[[NDArray[np.int64]], _Vector], draws: int = DRAWS) -> Interval | None:
    return percentile_interval(resample(n, statistic, draws=draws), units=n) if n >= FEWEST else None
