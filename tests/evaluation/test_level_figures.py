"""Level figures: each recomputed by other code, planted cases told, intervals that hold what they should."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.level_stores import in_lists

from cefr_batch.config.schema import Level
from cefr_batch.data.pairs import read_pairs
from cefr_batch.evaluation.level_estimator import level_estimator
from cefr_batch.evaluation.level_figures import level_figures
from cefr_batch.records.level_figures import LevelFigures, TextLevels, WithInterval

Texts = Sequence[Sequence[str]]
DRAWS = 10_000


def starter(level: Level) -> list[str]:
    return [pair.sentence for pair in read_pairs("starter", level)]


ANSWERS = [*in_lists(starter(Level.A2)[:60], 5), ["?", "It rains."], [], ["..."]]
REFERENCES = in_lists(starter(Level.B1)[:90], 9)
SHARED = [*in_lists(starter(Level.B1)[:40], 8), starter(Level.B1)[4:12]]


@pytest.mark.parametrize("references", [REFERENCES, SHARED], ids=["own sentences", "shared sentences"])
def test_every_figure_is_the_one_that_plain_code_computes(references: Texts) -> None:
    figures = level_figures(ANSWERS, references, Level.B1, key="run")
    assert figures.target == "B1"
    assert figures.written
    assert figures.references
    assert figures.gap
    check_text(figures.written, ANSWERS, units_of(ANSWERS), 3, "run written")
    check_text(figures.references, references, units_of(references, distinct=references is SHARED), 3, "run references")
    check_gap(figures, units_of(ANSWERS), units_of(references, distinct=references is SHARED), "run")


Unit = list[tuple[float, int]]  # the estimates of its sentences, and how often each occurs


def units_of(texts: Texts, *, distinct: bool = False) -> list[Unit]:
    estimates = [[float(level_estimator().estimate([s])[0]) for s in text] for text in texts]
    kept = [[(x, 1) for x in text if not math.isnan(x)] for text in estimates]
    if not distinct:
        return [unit for unit in kept if unit]
    all_sentences = [s for text in texts for s in text]
    once = list(dict.fromkeys(all_sentences))
    return [[(float(level_estimator().estimate([s])[0]), all_sentences.count(s))] for s in once]


def check_text(found: TextLevels, texts: Texts, units: list[Unit], target: int, key: str) -> None:
    assert (found.texts, found.measured_texts, found.units) == (
        len(texts),
        sum(any(not math.isnan(float(x)) for x in level_estimator().estimate(text)) for text in texts),
        len(units),
    )
    values = np.array([x for unit in units for x, times in unit for _ in range(times)])
    assert found.sentences == len(values)
    assert found.histogram == [
        int(((values >= low) & ((values < low + 0.25) | (low == 5.75))).sum()) for low in np.arange(1, 6, 0.25)
    ]
    sums = np.array([[sum(times * f(x) for x, times in unit) for f in quantities(target)] for unit in units])
    chosen = indices(len(units), key)
    drawn = np.array([sums[row].sum(axis=0) for row in chosen])
    shown = [found.mean, found.rmse, found.within_half_percent, found.within_one_percent, *found.level_percent.values()]
    assert list(found.level_percent) == ["A1", "A2", "B1", "B2", "C1", "C2"]
    for place, figure in enumerate(shown, 1):
        finish: Any = {1: lambda x: x, 2: np.sqrt}.get(place, lambda x: 100 * x)
        assert figure.value == pytest.approx(float(finish(sums[:, place].sum() / sums[:, 0].sum())), abs=1e-9)
        check_limits(figure, expanded(finish(drawn[:, place] / drawn[:, 0]), len(units)))


def quantities(target: int) -> list[Any]:
    return [
        lambda x: 1.0,
        lambda x: x,
        lambda x: (x - target) ** 2,
        lambda x: float(abs(x - target) <= 0.5),
        lambda x: float(abs(x - target) <= 1),
        *((lambda x, n=n: float(n - 0.5 <= x < n + 0.5)) for n in range(1, 7)),
    ]


def indices(n: int, key: str) -> Any:
    generator = np.random.default_rng([20251026, *hashlib.sha256(key.encode()).digest()])
    return generator.integers(0, n, (DRAWS, n))


def expanded(drawn: Any, units: int) -> tuple[float, float]:
    """``T_QUANTILE`` from a table of Student's t; the normal distribution by the error function."""
    reach = T_QUANTILE[units - 1] * math.sqrt(units / (units - 1))
    tail = 100 * (1 + math.erf(-reach / math.sqrt(2))) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


T_QUANTILE = {9: 2.262157, 12: 2.178813, 39: 2.022691}  # 97.5 %, by degrees of freedom


def check_limits(figure: WithInterval, limits: tuple[float, float]) -> None:
    """The percentile moves a little with Student's t, whose expansion is exact to about four digits here."""
    assert figure.low is not None
    assert figure.high is not None
    width = limits[1] - limits[0]
    assert (figure.low, figure.high) == pytest.approx(limits, abs=2e-6 + 0.002 * width)


def check_gap(figures: LevelFigures, answers: list[Unit], references: list[Unit], key: str) -> None:
    assert figures.gap
    n, m = len(answers), len(references)
    difference, distance = gap(answers, references)
    assert figures.gap.mean_difference.value == pytest.approx(difference, abs=1e-9)
    assert figures.gap.wasserstein.value == pytest.approx(distance, abs=1e-9)
    means = [
        [mean([units[i] for i in row]) for row in indices(len(units), f"{key} {name}")]
        for units, name in ((answers, "written"), (references, "references"))
    ]
    check_limits(figures.gap.mean_difference, expanded(np.array(means[0]) - np.array(means[1]), min(n, m)))
    generator = np.random.default_rng([20251026, *hashlib.sha256(f"{key} distance".encode()).digest()])
    first, second = generator.integers(0, n, (2_000, n)), generator.integers(0, m, (2_000, m))
    drawn = [gap([answers[i] for i in a], [references[i] for i in b])[1] for a, b in zip(first, second, strict=True)]
    low, high = expanded(drawn, min(n, m))
    check_limits(figures.gap.wasserstein, (max(0.0, 2 * distance - high), max(0.0, 2 * distance - low)))


def mean(units: Sequence[Unit]) -> float:
    return math.fsum(x * times for unit in units for x, times in unit) / sum(t for unit in units for _, t in unit)


def gap(answers: Sequence[Unit], references: Sequence[Unit]) -> tuple[float, float]:
    """The Wasserstein distance as the area between the two quantile functions, not between the distribution functions."""
    x, y = (np.sort([v for unit in side for v, times in unit for _ in range(times)]) for side in (answers, references))
    edges = np.union1d(np.arange(len(x) + 1) / len(x), np.arange(len(y) + 1) / len(y))
    middle = (edges[1:] + edges[:-1]) / 2
    apart = np.abs(x[(middle * len(x)).astype(int)] - y[(middle * len(y)).astype(int)])
    return float(x.mean() - y.mean()), float(apart @ np.diff(edges))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.text(max_size=12), max_size=3), max_size=4), st.sampled_from(list(Level)))
def test_any_answers_have_figures_or_none(answers: list[list[str]], target: Level) -> None:
    figures = level_figures(answers, REFERENCES[:2], target)
    there = any(not math.isnan(x) for text in answers for x in level_estimator().estimate(text))
    assert (figures.written is not None) == (figures.gap is not None) == there
    if figures.written and figures.gap:
        assert sum(share.value for share in figures.written.level_percent.values()) == pytest.approx(100)
        assert sum(figures.written.histogram) == figures.written.sentences
        assert figures.gap.wasserstein.value >= abs(figures.gap.mean_difference.value) - 1e-12


def test_without_references_or_answers_there_is_no_gap() -> None:
    alone = level_figures(ANSWERS, [], Level.A2)
    assert alone.written
    assert (alone.references, alone.gap) == (None, None)
    assert level_figures([], REFERENCES, Level.A2).written is None


def test_one_answer_has_figures_without_intervals() -> None:
    one = level_figures([["It rains."]], REFERENCES, Level.A1)
    assert one.written
    assert one.gap
    assert one.written.mean.low is None
    assert one.gap.mean_difference.low is None
    assert not one.gap.mean_difference.excludes_zero
