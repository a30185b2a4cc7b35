"""Does it write at its level? The estimated levels of a model's sentences, beside those of the level's own sentences.

Both by one instrument (``level_estimator``), so that its bias is in both and cancels in the gap between them. Light: NumPy
alone, no torch.

Intervals resample answers, never single sentences: the sentences of one answer resemble each other. References are resampled
by example, unless examples share sentences (drawn from a small pool, as `data build` does): then an example is no
independent observation, and the distinct sentences are resampled with their numbers of occurrences. All are percentile
intervals, widened for small numbers (``bootstrap``); the Wasserstein distance, which chance only makes larger, has a
reflected one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cefr_batch.config.schema import Level
from cefr_batch.data.examples import Example, numbered_lines, sentences_in
from cefr_batch.evaluation.bootstrap import (
    Interval,
    percentile_interval,
    reflected_interval,
    resample,
    resample_two,
)
from cefr_batch.evaluation.level_estimator import HIGHEST, LOWEST, level_estimator
from cefr_batch.records.level_figures import (
    BINS_PER_LEVEL,
    SCALE,
    LevelFigures,
    LevelFiguresByMode,
    LevelGap,
    TextLevels,
    WithInterval,
    WrittenLevels,
)
from cefr_batch.records.texts import Answers, WrittenExample

_DISTANCE_DRAWS = 2_000  # each walks through all sentences

Vector = NDArray[np.float64]
Texts = Sequence[Sequence[str]]


def level_figures(answers: Texts, references: Texts, target: Level, *, key: str = "") -> LevelFigures:
    """What the sentences of ``answers`` measure, next to those of ``references``, the level's own evaluation examples.

    Each answer and each reference is its sentences. Sentences without a word are left out. Calls with the same ``key`` and
    sizes use the same draws. Deterministic.
    """
    return _figures_beside(_Measured.of(references, target, f"{key} references", may_share=True), answers, target, key)


def written_levels(
    written: Sequence[WrittenExample], evaluation: Sequence[Example], target: Level, *, key: str
) -> WrittenLevels:
    """The figures of all models that wrote, next to the sentences of the level's evaluation examples.

    ``key``: the SHA-256 of the evaluation file, so that the job and the report draw alike.
    """
    examples = [sentences_in(example) for example in evaluation]
    references = _Measured.of(examples, target, f"{key} references", may_share=True)

    def of(answers: Iterable[Answers | None]) -> LevelFiguresByMode | None:
        given = [one for one in answers if one]
        greedy, sampled = (
            _figures_beside(references, [_sentences(getattr(one, mode)) for one in given], target, key)
            for mode in ("greedy", "sampled")
        )
        return LevelFiguresByMode(greedy=greedy, sampled=sampled) if given else None

    return WrittenLevels(
        **{model: of(getattr(example, model) for example in written) for model in WrittenLevels.model_fields}
    )


def _sentences(answer: str) -> list[str]:
    return [text for _, text in numbered_lines(answer) if text]


def _figures_beside(references: _Measured, answers: Texts, target: Level, key: str) -> LevelFigures:
    written = _Measured.of(answers, target, f"{key} written")
    return LevelFigures(
        target=target.value,
        written=written.figures,
        references=references.figures,
        gap=_gap(written, references, f"{key} distance"),
    )


@dataclass(frozen=True)
class _Measured:
    """A set of texts and its figures (None: no sentence); ``means``: the resampled mean levels."""

    sample: _Sample
    figures: TextLevels | None
    means: Vector

    @classmethod
    def of(cls, texts: Texts, target: Level, key: str, *, may_share: bool = False) -> _Measured:
        """``may_share``: if texts share sentences, each distinct sentence is a unit."""
        sample = _Sample.of(texts, may_share=may_share)
        if not sample.units:
            return cls(sample, None, np.empty(0))
        sums = sample.sums(_quantities(sample.levels, float(list(Level).index(target) + 1)))
        drawn = resample(sample.units, lambda chosen: _figures(_times(chosen) @ sums), key=key)
        return cls(sample, _text_levels(sample, _figures(sums.sum(axis=0)[None])[0], drawn), drawn[:, 0])


@dataclass(frozen=True)
class _Sample:
    """Estimated levels, shape (values,); how often each occurs; the unit that it belongs to, 0 … ``units`` − 1."""

    texts: int
    measured_texts: int
    levels: Vector
    times: Vector
    unit: NDArray[np.int64]
    units: int

    @classmethod
    def of(cls, texts: Texts, *, may_share: bool = False) -> _Sample:
        """``may_share``: if texts share sentences, each distinct sentence is a unit."""
        measured = [[s for s in text if not np.isnan(_estimate(s))] for text in texts]
        kept = [text for text in measured if text]
        sentences = [s for text in kept for s in text]
        distinct = {sentence: place for place, sentence in enumerate(dict.fromkeys(sentences))}
        if may_share and len(distinct) < sum(len(set(text)) for text in kept):
            times = np.bincount([distinct[s] for s in sentences]).astype(float)
            estimates, unit, units = _estimates(distinct), np.arange(len(distinct)), len(distinct)
        else:
            times, estimates, units = np.ones(len(sentences)), _estimates(sentences), len(kept)
            unit = np.repeat(np.arange(len(kept)), [len(text) for text in kept])
        return cls(len(texts), len(kept), estimates, times, unit, units)

    @property
    def mean(self) -> float:
        return float(np.average(self.levels, weights=self.times))

    def sums(self, values: Vector) -> Vector:
        """By unit, over all occurrences: ``values`` has shape (values, k), the result (units, k)."""
        owned = np.zeros((self.units, values.shape[1]))
        np.add.at(owned, self.unit, values * self.times[:, None])
        return owned

    def shares(self, drawn: Vector) -> Vector:
        """Each value's share of all sentences where its unit was drawn so often: (rows, units) → (rows, values)."""
        times = drawn[:, self.unit] * self.times
        shares: Vector = times / times.sum(axis=1, keepdims=True)
        return shares


@lru_cache(maxsize=100_000)
def _estimate(sentence: str) -> float:
    return float(level_estimator().estimate([sentence])[0])


def _estimates(sentences: Iterable[str]) -> Vector:
    return np.array([_estimate(sentence) for sentence in sentences], dtype=np.float64)


def _text_levels(sample: _Sample, values: Vector, drawn: Vector) -> TextLevels:
    """From ``_figures`` of the sample, shape (k,), and of its resamples, shape (rows, k)."""
    mean, rmse, half, one, *levels = (
        _with_interval(value, percentile_interval(column, sample.units) if sample.units > 1 else None)
        for value, column in zip(values, drawn.T, strict=True)
    )
    bins = round((HIGHEST - LOWEST) * BINS_PER_LEVEL)
    counts, _ = np.histogram(sample.levels, bins, (LOWEST, HIGHEST), weights=sample.times)
    return TextLevels(
        texts=sample.texts,
        measured_texts=sample.measured_texts,
        units=sample.units,
        sentences=int(sample.times.sum()),
        mean=mean,
        level_percent=dict(zip(SCALE, levels, strict=True)),
        histogram=[int(count) for count in counts],
        rmse=rmse,
        within_half_percent=half,
        within_one_percent=one,
    )


def _quantities(levels: Vector, target: float) -> Vector:
    """What is summed of each sentence: 1, its level, its squared distance, whether it is near, which level it rounds to."""
    distance = np.abs(levels - target)
    rounded = np.floor(levels + 0.5)
    of_level = [rounded == number for number in range(1, len(SCALE) + 1)]
    return np.stack([np.ones_like(levels), levels, distance**2, distance <= 0.5, distance <= 1, *of_level], axis=1)


def _figures(sums: Vector) -> Vector:
    """From sums of ``_quantities``, shape (rows, k + 1): mean, RMSE and percentages, shape (rows, k)."""
    means = sums[:, 1:] / sums[:, :1]
    return np.concatenate([means[:, :1], np.sqrt(means[:, 1:2]), 100 * means[:, 2:]], axis=1)


def _times(chosen: NDArray[np.int64]) -> Vector:
    """How often each of n units is drawn, by resample: (rows, n) → (rows, n)."""
    rows, n = chosen.shape
    places = chosen + n * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _gap(written: _Measured, references: _Measured, key: str) -> LevelGap | None:
    """Answers and references are resampled independently of each other."""
    first, second = written.sample, references.sample
    units = min(first.units, second.units)
    if not units:
        return None
    apart = _distances(first, second)
    distance = float(apart(np.ones((1, first.units)), np.ones((1, second.units)))[0])
    difference = first.mean - second.mean
    if units == 1:
        return LevelGap(mean_difference=_with_interval(difference, None), wasserstein=_with_interval(distance, None))
    drawn = resample_two(
        first.units,
        second.units,
        lambda one, other: apart(_times(one), _times(other)),
        key=key,
        draws=_DISTANCE_DRAWS,
        width=len(first.levels) + len(second.levels),
    )
    return LevelGap(
        mean_difference=_with_interval(difference, percentile_interval(written.means - references.means, units)),
        wasserstein=_with_interval(distance, reflected_interval(distance, drawn, units, least=0.0)),
    )


def _distances(written: _Sample, references: _Sample) -> Callable[[Vector, Vector], Vector]:
    """A function of how often each unit was drawn, shapes (rows, units), that gives Wasserstein distances, shape (rows,):
    the area between the two distribution functions (Vallender 1974)."""
    levels = np.concatenate([written.levels, references.levels])
    order = np.argsort(levels, kind="stable")
    steps = np.diff(levels[order])

    def of(first: Vector, second: Vector) -> Vector:
        shares = np.concatenate([written.shares(first), -references.shares(second)], axis=1)
        areas: Vector = np.abs(np.cumsum(shares[:, order], axis=1)[:, :-1]) @ steps
        return areas

    return of


def _with_interval(value: float, found: Interval | None) -> WithInterval:
    low, high = (found.low, found.high) if found else (None, None)
    return WithInterval(value=float(value), low=low, high=high)
