"""The gap tells levels apart: planted cases are flagged, right ones no more often than chance allows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from support.level_stores import in_lists, sentences
from support.published import published

from cefr_batch.config.schema import Level
from cefr_batch.data.examples import read_examples, sentences_in
from cefr_batch.evaluation.bootstrap import percentile_interval, reflected_interval, resample
from cefr_batch.evaluation.level_figures import level_figures

LEVELS = [level.value for level in Level]


def flagged(answers: list[list[str]], references: list[list[str]], level: str, key: str = "") -> int:
    """−1: surely below the references, 1: surely above, 0: neither."""
    gap = level_figures(answers, references, Level(level), key=key).gap
    assert gap
    return int(np.sign(gap.mean_difference.value)) if gap.mean_difference.excludes_zero else 0


@pytest.mark.parametrize(("level", "written"), list(permutations(LEVELS, 2)))
def test_sentences_of_one_level_passed_off_as_another_are_flagged(level: str, written: str) -> None:
    """All 20 pairs of the starter corpus, with as many answers as a run asks for by default."""
    answers, own = in_lists(sentences(written)[:100], 5), in_lists(sentences(level)[:100], 5)
    assert flagged(answers, own, level) == (1 if written > level else -1)


def test_the_published_sentences_of_a1_and_b1_swapped_are_flagged() -> None:
    def answers(level: str) -> list[list[str]]:
        examples = read_examples(published(f"training_data_{level}_list_format_eval.json"))
        return [sentences_in(example) for example in examples[:20]]

    a1, b1 = answers("a1"), answers("b1")
    assert flagged(a1, b1, "B1") == -1
    assert flagged(b1, a1, "A1") == 1


REPETITIONS = 400


@pytest.mark.slow
def test_halves_of_one_level_are_not_flagged_more_often_than_5_percent_allow() -> None:
    """Each repetition: a level's sentences in a random order, one half as answers of ten sentences, one as references. The
    bound: more flags than this come by chance in one test of a thousand."""
    drawn = random.Random(13)
    flags = 0
    for repetition in range(REPETITIONS):
        level = LEVELS[repetition % len(LEVELS)]
        shuffled = drawn.sample(sentences(level), len(sentences(level)))
        half = len(shuffled) // 2
        flags += abs(flagged(in_lists(shuffled[:half], 10), in_lists(shuffled[half:], 10), level, str(repetition)))
    assert flags <= 0.05 * REPETITIONS + 3.1 * math.sqrt(0.05 * 0.95 * REPETITIONS)


def means_of(values: Any) -> Callable[[Any], Any]:
    return lambda chosen: values[chosen].mean(axis=1)


@pytest.mark.parametrize("units", [6, 8, 20])
def test_widened_intervals_hold_the_true_mean_in_19_of_20_cases(units: int) -> None:
    """Of normal values, where Student's interval would be exact; without the widening 6 units have 88 %."""
    generator = np.random.default_rng(units)
    samples = generator.normal(3.0, 1.0, (600, units))
    found = [
        percentile_interval(resample(units, means_of(x), key=str(n), draws=2000), units) for n, x in enumerate(samples)
    ]
    held = sum(one is not None and one.low <= 3.0 <= one.high for one in found)
    assert 0.95 * 600 - 3.1 * math.sqrt(600 * 0.95 * 0.05) <= held


def test_a_distance_that_is_0_has_0_in_its_interval_in_most_cases() -> None:
    """|mean| of values around 0, which chance only makes larger: the plain percentile interval never has 0 in it."""
    samples = np.random.default_rng(7).normal(0.0, 1.0, (300, 20))
    plain = reflected = 0
    for n, x in enumerate(samples):
        drawn = np.abs(resample(20, means_of(x), key=str(n), draws=1000))
        outer, inner = percentile_interval(drawn), reflected_interval(abs(float(x.mean())), drawn, 20, least=0.0)
        assert outer
        assert inner
        assert inner.low >= 0
        plain += outer.low == 0
        reflected += inner.low == 0
    assert plain == 0
    assert reflected >= 0.9 * 300
